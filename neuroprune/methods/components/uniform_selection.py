"""Selection of units in slices: equal numbers in all layers of a kind, or widths that are multiples of a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.methods.components.unit_selection import Chosen, fewest_units
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Attention, Block
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.plain_config import SharedCount, allows, head_values, shared_counts
from neuroprune.pruning.sparsity import unit_size


@dataclass(frozen=True)
class UniformGroup:
    """Blocks that keep the same number of units.

    Args:
        shared: The blocks.
        counts: Numbers of units that each of them may keep, descending; the first is the current number.
    """

    shared: SharedCount
    counts: tuple[int, ...]


def uniform_groups(run: Run, min_share: float, multiple_of: int) -> list[UniformGroup]:
    """Return groups of blocks with equal numbers of units, and the numbers that the configuration can describe.

    Args:
        run: The run.
        min_share: Fraction of the dense model's neurons that each MLP keeps.
        multiple_of: Widths of MLPs are multiples of this number once neurons were removed.

    Returns:
        The groups. Blocks outside all groups keep all their units.

    Raises:
        UserError: If blocks of a group have different numbers of units or heads at different positions, or the
            configuration has no value for any group.
    """
    fewest = fewest_units(run, min_share)
    groups = [
        UniformGroup(shared, (_present(run, shared), *_smaller(run, shared, fewest, multiple_of)))
        for shared in shared_counts(run.model, run.blocks)
    ]
    if not groups:
        raise UserError(
            f"layout='uniform': the configuration of {type(run.model).__name__} has no value for the numbers of heads "
            "or neurons; leave layout out."
        )
    return groups


def separate_groups(run: Run, min_share: float, multiple_of: int) -> list[UniformGroup]:
    """Return each block as a separate group, with MLP widths restricted to multiples of a number.

    Args:
        run: The run.
        min_share: Fraction of the dense model's neurons that each MLP keeps.
        multiple_of: Widths of MLPs are multiples of this number once neurons were removed.

    Returns:
        One group per block, each with its allowed numbers of units in descending order.
    """
    fewest = fewest_units(run, min_share)
    return [
        UniformGroup(SharedCount("", (block,)), (block.units, *_widths(block, fewest[block], multiple_of)))
        for block in run.blocks.all
    ]


def choose_uniform(groups: Sequence[UniformGroup], scores: Mapping[Block, Tensor], room: int) -> Chosen:
    """Choose slices of units in ascending order of score per weight until the budget is used up.

    A slice consists of the weakest remaining units of every block in a group, enough to reach the next smaller number
    of units. If blocks must keep the same positions, the scores of each position are first summed over these blocks.

    Args:
        groups: The groups.
        scores: `[units]` for each block.
        room: Number of weights that may be removed.

    Returns:
        The chosen units of every block of the groups.
    """
    slices = [iter(_slices(group, scores)) for group in groups]
    waiting = dict(enumerate(next(found, None) for found in slices))
    chosen: Chosen = {block: [] for group in groups for block in group.shared.blocks}
    while fitting := {i: piece for i, piece in waiting.items() if piece is not None and piece.size <= room}:
        place = min(fitting, key=lambda i: (fitting[i].score / fitting[i].size, i))
        room -= fitting[place].size
        for block, positions in fitting[place].units.items():
            chosen[block] += positions
        waiting[place] = next(slices[place], None)
    return {block: sorted(positions) for block, positions in chosen.items()}


@dataclass(frozen=True)
class _Slice:
    """Units of all blocks of a group that are removed together."""

    units: dict[Block, list[int]]
    score: float
    size: int


def _slices(group: UniformGroup, scores: Mapping[Block, Tensor]) -> Iterator[_Slice]:
    """Yield the slices of a group, weakest units first."""
    values = {block: scores[block].detach().double().cpu() for block in group.shared.blocks}
    for same in group.shared.same:
        values |= dict.fromkeys(same, torch.stack([values[block] for block in same]).mean(dim=0))
    order = {block: torch.argsort(value, stable=True) for block, value in values.items()}
    for more, fewer in zip(group.counts, group.counts[1:], strict=False):
        first, end = group.counts[0] - more, group.counts[0] - fewer
        units = {block: places[first:end].tolist() for block, places in order.items()}
        score = sum(float(values[block][positions].sum()) for block, positions in units.items())
        yield _Slice(units, score, sum(unit_size(block) * (end - first) for block in units))


def _present(run: Run, shared: SharedCount) -> int:
    """Return the current number of units of a group; reject blocks that differ."""
    kind = "key/value heads" if isinstance(shared.blocks[0], Attention) else "neurons"
    counts = [block.units for block in shared.blocks]
    kept = kept_units(run.model)
    if len(set(counts)) > 1 or any(len({tuple(kept.of(b).removed()) for b in same}) > 1 for same in shared.same):
        raise UserError(
            f"layout='uniform': the model was cut before, and its layers have different {kind} "
            f"({', '.join(map(str, counts))}); start from the dense model, or leave layout out."
        )
    return counts[0]


def _smaller(run: Run, shared: SharedCount, fewest: Mapping[Block, int], multiple_of: int) -> list[int]:
    """Return the smaller numbers of units that a group may keep, descending."""
    first, least = shared.blocks[0], max(1, *(fewest[block] for block in shared.blocks))
    below = _widths(first, least, multiple_of)
    if isinstance(first, Attention):
        return [units for units in below if allows(run.model, head_values(run.model, first, units))]
    return below


def _widths(block: Block, fewest: int, multiple_of: int) -> list[int]:
    """Return the smaller numbers of units that a block may have, descending; for neurons, only multiples."""
    step = 1 if isinstance(block, Attention) else multiple_of
    return [units for units in range(block.units - 1, fewest - 1, -1) if units % step == 0]
