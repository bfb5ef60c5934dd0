"""T5 attention for layers that keep different heads.

The first layer of a T5 stack looks up a position bias for each head and passes it to all later layers. When layers keep
different heads, the passed bias still covers all heads of the dense model, and each layer uses the part of its own
heads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

from neuroprune.pruning.empty_blocks import SkippedAttention


class CutT5Attention(T5Attention):
    """T5's self-attention with fewer heads than the position bias that it receives and passes on.

    Args:
        kept_heads: A buffer `[heads]`: positions of its heads in the dense model.
    """

    kept_heads: Tensor
    _bias_of_all: Tensor | None = None

    def forward(  # type: ignore[override]  # T5 passes these by name
        self, hidden_states: Tensor, *, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Compute attention with the remaining heads' part of the bias `[1, dense heads, q, k]`; return all of it."""
        self._bias_of_all = position_bias
        own = None if position_bias is None else self._of_kept_heads(position_bias)
        try:
            output, _, weights = super().forward(hidden_states, position_bias=own, **kwargs)
            return output, self._bias_of_all, weights
        finally:
            self._bias_of_all = None

    def compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        """Look up the bias (only in the first layer of a stack), store it and return the remaining heads' part."""
        self._bias_of_all = super().compute_bias(*args, **kwargs)
        return self._of_kept_heads(self._bias_of_all)

    def _of_kept_heads(self, bias: Tensor) -> Tensor:
        return bias.index_select(1, self.kept_heads.to(bias.device))


class SkippedT5Attention(SkippedAttention):
    """Takes the place of the forward pass of an attention without heads: the position bias is still handed on."""

    def __call__(  # type: ignore[override]  # T5 passes these by name
        self, hidden_states: Tensor, *, position_bias: Tensor | None = None, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Return the projection of no heads and the position bias; compute it in the first layer of a stack."""
        seen, total = 0, hidden_states.shape[1]
        if past_key_values is not None and not self.cross:
            seen = past_key_values.get_seq_length(self.module.layer_idx)
            total = self.count_tokens(hidden_states, past_key_values)
        if position_bias is None and not self.cross:
            position_bias = self._bias_of_all(hidden_states.shape[1], total, seen)
        return self.project(hidden_states), position_bias, None

    def _bias_of_all(self, length: int, total: int, seen: Any) -> Tensor:
        """Return the bias of all heads of the dense model: `[1, dense heads, length, total]`."""
        return T5Attention.compute_bias(self.module, length, total, past_seen_tokens=seen)
