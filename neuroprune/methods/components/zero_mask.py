"""Unstructured zeros: selection of the smallest weights, and a mask that keeps them at zero during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuroprune.methods.hooks import Run, State
from neuroprune.pruning.blocks import Attention, Block, Blocks, Projection
from neuroprune.pruning.sparsity import (
    heads_connected,
    neurons_connected,
    prunable_projections,
    removed_weights,
    smallest,
    zero_or_removed,
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

    A unit that would have no incoming or outgoing weights left is removed with all its weights, which are counted. If
    the goal has no room for all such units, those with the fewest other weights are removed, and every remaining unit
    keeps its largest weights. A later removal of idle units then finds none, and the count remains exact.

    Args:
        run: Its model and optimizer state are changed in place.
        goal: Target number of zero or removed weights.
        remove_idle: Whether such units are removed; otherwise shapes do not change.
        empty: Whether a block may lose all its units in this way.

    Returns:
        The mask of the zeros.
    """
    if goal <= removed_weights(run.model):
        return KeptZeros.of(run.blocks)
    connected = remove_idle and not _remove_idle(run, goal, empty)
    projections, count = prunable_projections(run.blocks), max(0, goal - removed_weights(run.model))
    for projection, mark in zip(projections, smallest(_magnitudes(projections, count, connected), count), strict=True):
        projection.weight.masked_fill_(mark, 0)
    return KeptZeros.of(run.blocks)


def _remove_idle(run: Run, goal: int, empty: bool) -> bool:
    """Remove the units that would become idle and fit; return whether all of them fit."""
    projections = prunable_projections(run.blocks)
    marked = smallest([projection.weight for projection in projections], goal - removed_weights(run.model))
    marks = dict(zip(projections, marked, strict=True))
    idle = {block: _idle_units(block, marks) for block in run.blocks.all}
    chosen = _within(goal - zero_or_removed(run.model), idle, marks)
    for block, units in chosen.items():
        _zero_marked(block, units, marks)
    remove_zero_units(run.model, run.optimizer, empty=empty)
    return all(torch.equal(chosen[block], idle[block]) for block in idle)


def _magnitudes(projections: Sequence[Projection], count: int, connected: bool) -> list[Tensor]:
    """Return the magnitudes from which `count` are zeroed; if `connected`, units keep their largest where possible."""
    if connected:
        kept = [_without_largest(projection) for projection in projections]
        if count <= sum(int(magnitude.isfinite().sum()) for magnitude in kept):
            return kept
    return [projection.weight for projection in projections]


Marks = Mapping[Projection, Tensor]
"""Bool matrices of the weights' shapes, true for weights that are to be zeroed."""


def _idle_units(block: Block, marks: Marks) -> Tensor:
    """Mark the query heads or neurons that would have no incoming or outgoing weights left: bool `[heads or width]`."""
    if isinstance(block, Attention):
        return ~heads_connected(block, ~marks[block.v], ~marks[block.o])
    return ~neurons_connected(*(~marks[projection] for projection in (*block.inputs, block.output)))


def _within(room: int, idle: Mapping[Block, Tensor], marks: Marks) -> dict[Block, Tensor]:
    """Restrict idle units to those whose removal fits, beginning with the fewest weights that are not marked.

    Args:
        room: Number of weights that may still become zero or be removed.
        idle: Units of each block, bool.
        marks: The marks that make them idle.

    Returns:
        As `idle`.
    """
    candidates = torch.cat([units.cpu() for units in idle.values()])
    costs = _counts(idle, {projection: projection.weight != 0 for projection in marks})
    if int(costs[candidates].sum()) <= room:
        return dict(idle)
    others = _counts(idle, {projection: ~mark for projection, mark in marks.items()})
    order = others.masked_fill(~candidates, torch.iinfo(others.dtype).max).argsort(stable=True)
    fits = torch.zeros_like(candidates)
    fits[order] = (costs[order].cumsum(0) <= room) & candidates[order]
    parts = fits.split([len(units) for units in idle.values()])
    return {block: part.to(units.device) for (block, units), part in zip(idle.items(), parts, strict=True)}


def _counts(idle: Mapping[Block, Tensor], marks: Marks) -> Tensor:
    """Count the marks that would go with each query head or neuron, int64 `[all]`, on the CPU."""
    return torch.cat([_counts_of(block, units, marks).cpu() for block, units in idle.items()])


def _counts_of(block: Block, idle: Tensor, marks: Marks) -> Tensor:
    """Count as `_counts` in one block; a key/value head goes with its query heads if all of them are idle."""
    columns = marks[block.output].sum(dim=0)
    rows = [marks[projection].sum(dim=1) for projection in block.inputs]
    if not isinstance(block, Attention):
        return torch.stack([*rows, columns]).sum(dim=0)
    query, key, value, output = (part.unflatten(0, (-1, block.head_dim)).sum(dim=1) for part in (*rows, columns))
    whole = idle.unflatten(0, (-1, block.groups)).all(dim=1)
    shared = torch.where(whole, -(-(key + value) // block.groups), 0)
    return query + output + shared.repeat_interleave(block.groups)


def _zero_marked(block: Block, units: Tensor, marks: Marks) -> None:
    """Zero the marked weights through which these query heads or neurons are connected."""
    if isinstance(block, Attention):
        channels = units.repeat_interleave(block.head_dim)
        values = units.view(-1, block.groups).any(dim=1).repeat_interleave(block.head_dim)
        block.v.weight.masked_fill_(marks[block.v] & values[:, None], 0)
        block.o.weight.masked_fill_(marks[block.o] & channels[None, :], 0)
        return
    block.output.weight.masked_fill_(marks[block.output] & units[None, :], 0)
    for projection in block.inputs:
        projection.weight.masked_fill_(marks[projection] & units[:, None], 0)


def _without_largest(projection: Projection) -> Tensor:
    """Return the magnitudes of a weight, infinite for the largest of every row and column unless these are all zero."""
    magnitude = projection.weight.detach().float().abs()
    largest = torch.zeros_like(magnitude, dtype=torch.bool)
    for dim in (0, 1):
        largest.scatter_(dim, magnitude.argmax(dim=dim, keepdim=True), True)
    return magnitude.masked_fill(largest & (magnitude > 0), torch.inf)
