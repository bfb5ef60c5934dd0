"""Forward pass of attentions without heads and MLPs without neurons, which are skipped.

Such a block adds only the bias of its output projection, if any, to the residual stream. Its projections remain as
weights of size zero, so that names, records and the state dict have the same entries as in the dense model.
"""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuroprune.pruning.blocks import Attention, Block
from neuroprune.pruning.transaction import Transaction

FORWARD = "forward"


class EmptyLinear(nn.Linear):
    """A linear map without inputs or without outputs.

    A class of its own also keeps it from `quantize_dynamic`, whose kernels return arbitrary numbers for such a map.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the bias, or zeros, for every position of `inputs`."""
        return _constant(inputs, self.out_features, self.bias)


class EmptyConv1D(Conv1D):
    """GPT-2's form of a linear map without inputs or without outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the bias, or zeros, for every position of `x`."""
        return _constant(x, self.nf, self.bias)


def _constant(inputs: Tensor, width: int, bias: Tensor | None) -> Tensor:
    zeros = inputs.new_zeros(*inputs.shape[:-1], width)
    return zeros if bias is None else zeros + bias


class SkippedAttention:
    """Replacement for the forward pass of an attention without heads.

    Args:
        module: The attention's module.
        output: Attribute path of the output projection below it; empty if the projection is elsewhere.
        cross: Whether keys and values come from another sequence.
    """

    def __init__(self, module: Any, output: str, cross: bool) -> None:
        self.module, self.output, self.cross = module, output, cross

    def __call__(
        self, hidden_states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Return the projection's output without heads, and no attention weights."""
        if past_key_values is not None and not self.cross:
            self.count_tokens(hidden_states, past_key_values)
        return self.project(hidden_states), None

    def project(self, hidden_states: Tensor) -> Tensor:
        """Return the projection's output, or no channels if the projection is outside the module."""
        context = hidden_states.new_zeros(*hidden_states.shape[:-1], 0)
        return attrgetter(self.output)(self.module)(context) if self.output else context

    def count_tokens(self, hidden_states: Tensor, cache: Any) -> int:
        """Add one number per token to the layer's cache, whose length is that of the text; return the length.

        Transformers takes the number of cached tokens from the first layer, even if that one is skipped.
        """
        cache = getattr(cache, "self_attention_cache", cache)
        token = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
        keys, _ = cache.update(token, token, self.module.layer_idx)
        return int(keys.shape[-2])


def stage_skip(changes: Transaction, block: Block) -> None:
    """Stage the replacement of the forward pass of a block without units.

    Args:
        changes: Where the assignments are staged.
        block: An attention or MLP.
    """
    for module in {projection.module for projection in (*block.inputs, block.output)}:
        changes.set(module, "__class__", EmptyConv1D if isinstance(module, Conv1D) else EmptyLinear)
    if isinstance(block, Attention):
        path, name = block.row.skipped.split(":")
        below = f"{block.row.module}."
        output = block.row.o.path.removeprefix(below) if block.row.o.path.startswith(below) else ""
        skipped = getattr(import_module(path), name)(block.module, output, block.cross)
        changes.shadow(block.module, FORWARD, skipped)
