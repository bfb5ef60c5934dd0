"""MPNet attention for layers that keep different heads.

The encoder computes one position bias for all heads of the dense model; each layer uses the part of its own heads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention


class CutMPNetAttention(MPNetSelfAttention):
    """MPNet's self-attention with fewer heads than the shared position bias.

    Args:
        kept_heads: A buffer `[heads]`: positions of its heads in the dense model.
    """

    kept_heads: Tensor

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Compute attention with the remaining heads' part of the bias `[1, dense heads, q, k]`."""
        own = None if position_bias is None else position_bias.index_select(1, self.kept_heads.to(position_bias.device))
        return super().forward(hidden_states, attention_mask, own, output_attentions, **kwargs)
