"""Selection of units to remove, with one ranking over all layers and both kinds of unit and a budget of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Block
from neuroprune.pruning.sparsity import unit_size
from neuroprune.pruning.surgery import kept_units

Chosen = dict[Block, list[int]]
"""Positions of the units to remove from each block, ascending; for attentions, of key/value heads."""


@dataclass(frozen=True)
class UnitGroup:
    """The removable units of one attention or MLP.

    Args:
        block: The attention or MLP.
        scores: `[units]`, comparable between blocks: each unit's influence on the loss.
        size: Prunable weights of one unit.
        fewest: Smallest number of units that must remain.
    """

    block: Block
    scores: Tensor
    size: int
    fewest: int


def unit_groups(run: Run, scores: Mapping[Block, Tensor], min_share: float) -> list[UnitGroup]:
    """Return the units of all blocks with their scores; see `fewest_units` for `min_share`."""
    fewest = fewest_units(run, min_share)
    return [UnitGroup(block, scores[block], unit_size(block), fewest[block]) for block in run.blocks.all]


def fewest_units(run: Run, min_share: float) -> dict[Block, int]:
    """Return the number of units that each block must keep: at least one, unless `min_share` is 0.

    Args:
        run: The run.
        min_share: Fraction of the dense model's neurons that each MLP keeps.

    Returns:
        Numbers of units.
    """
    kept = kept_units(run.model)
    fewest: dict[Block, int] = {attention: min(attention.units, min_share > 0) for attention in run.blocks.attentions}
    return fewest | {mlp: min(mlp.units, math.ceil(min_share * kept.of(mlp).dense)) for mlp in run.blocks.mlps}


def may_empty(settings: Any) -> bool:
    """Return whether attentions and MLPs may lose all their units: `min_share` is 0."""
    return getattr(settings, "min_share", None) == 0


def choose_units(groups: Sequence[UnitGroup], room: int) -> Chosen:
    """Choose the units with the smallest score per weight until the budget is used up.

    All blocks share one ranking, so a block with weak units loses more of them. A unit is skipped if its block would
    keep too few units or if the unit is larger than the remaining budget.

    Args:
        groups: The units of each block.
        room: Number of weights that may be removed.

    Returns:
        The chosen units of every block.
    """
    values = torch.cat([group.scores.detach().float().cpu() / group.size for group in groups])
    units = [(group, position) for group in groups for position in range(len(group.scores))]
    chosen: Chosen = {group.block: [] for group in groups}
    smallest = min(group.size for group in groups)
    for place in torch.argsort(values, stable=True).tolist():
        group, position = units[place]
        taken = chosen[group.block]
        if group.size <= room and len(group.scores) - len(taken) > group.fewest:
            taken.append(position)
            room -= group.size
        if room < smallest:
            break
    return {block: sorted(positions) for block, positions in chosen.items()}
