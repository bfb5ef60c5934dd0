"""Masks on units during training, and removal of units closed by the final masks.

A gate multiplies the output of a unit, that is, its channels at the input of the output projection. The model itself is
not changed, so gates work with every architecture and with eager and fused attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroprune.methods.components.unit_removal import remove_units
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Block

Draw = Callable[[bool], Mapping[Block, Tensor]]
"""Function from whether the model is in training to a mask `[units]` for each gated block."""


class Gates:
    """Hooks that draw masks and multiply them into each forward pass until `detach`.

    `generate` calls the encoder of an encoder-decoder without the hooks of the model. Masks are then drawn in the
    encoder if those of the last pass are for the other mode, training or evaluation.

    Args:
        model: A model of a known architecture.
        blocks: The attentions and MLPs to be gated.
        draw: Function that returns their masks.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[Block], draw: Draw) -> None:
        self._model, self._draw = model, draw
        self._masks: Mapping[Block, Tensor] = {}
        self._for_training: bool | None = None
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._draw_masks)]
        for block in blocks:
            hook = partial(self._multiply, block)
            self._handles.append(block.output.module.register_forward_pre_hook(hook))

    def detach(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def _draw_masks(self, model: nn.Module, args: Any) -> None:
        self._masks, self._for_training = self._draw(model.training), model.training

    def _multiply(self, block: Block, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._for_training != self._model.training:
            self._draw_masks(self._model, ())
        x, mask = inputs[0], self._masks[block]
        return (x * mask.to(x).repeat_interleave(x.shape[-1] // len(mask)), *inputs[1:])


@torch.no_grad()
def remove_closed(run: Run, masks: Mapping[Block, Tensor]) -> list[str]:
    """Multiply masks into the weights permanently and remove the closed units.

    The model's output does not change. A block that would lose all its units keeps one with zero weights.

    Args:
        run: The run; its model and optimizer state are changed in place.
        masks: `[units]` for some blocks, 0 for units to be removed.

    Returns:
        Names of the blocks that no longer contribute.
    """
    gone, silent = {}, []
    for block, mask in masks.items():
        if not len(mask):
            continue
        weight = block.output.weight
        weight *= mask.to(weight).repeat_interleave(weight.shape[1] // len(mask))
        closed = (mask == 0).nonzero().flatten().tolist()
        if len(closed) == len(mask):
            silence(block)
            silent.append(block.name)
            closed = closed[1:]
        gone[block] = closed
    remove_units(run, gone)
    return silent


@torch.no_grad()
def silence(block: Block) -> None:
    """Set all weights of a block's units to zero, except the bias of its output projection."""
    for projection in block.inputs:
        projection.weight.zero_()
        if projection.bias is not None:
            projection.bias.zero_()
    block.output.weight.zero_()
