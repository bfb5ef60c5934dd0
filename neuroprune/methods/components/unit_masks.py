"""Masks on units during training, and removal of units closed by the final masks.

A gate multiplies the output of a unit, that is, its channels at the input of the output projection. The model itself is
not changed, so gates work with every architecture and with eager and fused attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroprune.methods.components.unit_removal import remove_units
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Block

Masks = TypeVar("Masks")


class DrawnMasks(Generic[Masks]):
    """Masks that are drawn at the beginning of each forward pass of a model, until `detach`.

    `generate` calls the encoder of an encoder-decoder without the hooks of the model; `current` therefore draws again
    if the last masks were drawn for the other mode, training or evaluation.

    Args:
        model: The model.
        draw: Function from whether the model is in training to its masks.

    Attributes:
        last: The masks of the last forward pass; before the first one, those for evaluation.
    """

    def __init__(self, model: nn.Module, draw: Callable[[bool], Masks]) -> None:
        self._model, self._draw = model, draw
        self.last, self._for_training = draw(False), False
        self._handle = model.register_forward_pre_hook(self._redraw)

    def current(self) -> Masks:
        """Return the masks for the model's mode."""
        if self._for_training != self._model.training:
            self._redraw(self._model, ())
        return self.last

    def detach(self) -> None:
        """Stop drawing; the last masks are kept."""
        self._handle.remove()

    def _redraw(self, model: nn.Module, args: Any) -> None:
        self.last, self._for_training = self._draw(model.training), model.training


class Gates:
    """Hooks that multiply drawn masks into the outputs of units until `detach`.

    Args:
        model: A model of a known architecture.
        blocks: The attentions and MLPs to be gated.
        draw: Function from whether the model is in training to a mask `[units]` for each of these blocks.
    """

    def __init__(
        self, model: nn.Module, blocks: Iterable[Block], draw: Callable[[bool], Mapping[Block, Tensor]]
    ) -> None:
        self._masks = DrawnMasks(model, draw)
        self._handles: list[RemovableHandle] = []
        for block in blocks:
            hook = partial(self._multiply, block)
            self._handles.append(block.output.module.register_forward_pre_hook(hook))

    @property
    def masks(self) -> Mapping[Block, Tensor]:
        """The masks of the last forward pass."""
        return self._masks.last

    def detach(self) -> None:
        """Remove the hooks."""
        self._masks.detach()
        while self._handles:
            self._handles.pop().remove()

    def _multiply(self, block: Block, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (masked_units(inputs[0], self._masks.current()[block]), *inputs[1:])


def masked_units(x: Tensor, mask: Tensor) -> Tensor:
    """Multiply a mask into the outputs of units.

    Args:
        x: Input of an output projection, `[..., units * channels]`.
        mask: `[units]`.

    Returns:
        The product, with the shape and type of `x`.
    """
    return x * mask.to(x).repeat_interleave(x.shape[-1] // len(mask))


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
        weight.copy_(masked_units(weight, mask))
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
