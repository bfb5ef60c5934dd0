"""Unstructured zeros: selection of the smallest weights, and a mask that keeps them at zero during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuroprune.methods.hooks import Run, State
from neuroprune.pruning.blocks import Blocks, Projection
from neuroprune.pruning.sparsity import (
    heads_connected,
    neurons_connected,
    prunable_projections,
    removed_weights,
    smallest,
)
from neuroprune.pruning.surgery import remove_zero_units


class KeptZeros:
    """Mask of single weights that are kept at zero.

    Args:
        marks: Index among the model's prunable projections -> the projection, and a bool matrix of its weight's shape
            that is true for weights kept at zero.
    """

    def __init__(self, marks: Mapping[int, tuple[Projection, Tensor]] | None = None) -> None:
        self._marks = dict(marks or {})

    @classmethod
    def of(cls, blocks: Blocks) -> KeptZeros:
        """Create a mask of all prunable weights that are currently zero."""
        projections = prunable_projections(blocks)
        marks = {i: (projection, projection.weight.detach() == 0) for i, projection in enumerate(projections)}
        return cls({i: (projection, mark) for i, (projection, mark) in marks.items() if bool(mark.any())})

    def state_dict(self) -> State:
        """Return the marks: index of a projection -> bool matrix."""
        return {str(i): mark for i, (_, mark) in self._marks.items()}

    @classmethod
    def from_state(cls, blocks: Blocks, state: Mapping[str, Any]) -> KeptZeros:
        """Create the mask from a `state_dict`."""
        projections = prunable_projections(blocks)
        held = {int(i): mark for i, mark in state.items()}
        return cls({i: (projections[i], mark.to(projections[i].weight.device)) for i, mark in held.items()})

    @torch.no_grad()
    def apply(self) -> None:
        """Set the marked weights to zero again."""
        for projection, mark in self._marks.values():
            projection.weight.masked_fill_(mark, 0)


@torch.no_grad()
def zero_smallest(run: Run, goal: int, remove_idle: bool = True, empty: bool = False) -> KeptZeros:
    """Zero the smallest weights until exactly `goal` of the dense model's weights are zero or removed.

    A unit that would have no incoming or outgoing weights left is removed with all its weights, which are counted. A
    later removal of idle units then finds none, and the count remains exact.

    Args:
        run: Its model and optimizer state are changed in place.
        goal: Target number of zero or removed weights.
        remove_idle: Whether such units are removed; otherwise shapes do not change.
        empty: Whether a block may lose all its units in this way.

    Returns:
        The mask of the zeros.
    """
    removed = removed_weights(run.model)
    if goal <= removed:
        return KeptZeros()
    blocks = run.blocks
    projections = prunable_projections(blocks)
    if remove_idle:
        _zero_idle_units(
            blocks, dict(zip(projections, smallest([p.weight for p in projections], goal - removed), strict=True))
        )
        remove_zero_units(run.model, run.optimizer, empty=empty)
    marks = smallest([p.weight for p in projections], max(0, goal - removed_weights(run.model)))
    for projection, mark in zip(projections, marks, strict=True):
        projection.weight.masked_fill_(mark, 0)
    return KeptZeros.of(blocks)


def _zero_idle_units(blocks: Blocks, marks: dict[Projection, Tensor]) -> None:
    """Zero the marked weights of units that marking would leave without incoming or outgoing weights."""
    for attention in blocks.attentions:
        idle = ~heads_connected(attention, ~marks[attention.v], ~marks[attention.o])
        channels = idle.repeat_interleave(attention.head_dim)
        values = idle.view(-1, attention.groups).any(dim=1).repeat_interleave(attention.head_dim)
        attention.v.weight.masked_fill_(marks[attention.v] & values[:, None], 0)
        attention.o.weight.masked_fill_(marks[attention.o] & channels[None, :], 0)
    for mlp in blocks.mlps:
        idle = ~neurons_connected(*(~marks[projection] for projection in (*mlp.ins, mlp.out)))
        mlp.out.weight.masked_fill_(marks[mlp.out] & idle[None, :], 0)
        for projection in mlp.ins:
            projection.weight.masked_fill_(marks[projection] & idle[:, None], 0)
