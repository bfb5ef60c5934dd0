"""Which units go: one order over all layers and both kinds of unit, under a budget of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def choose_units(scores: Sequence[Tensor], sizes: Sequence[int], least: Sequence[int], room: int) -> list[list[int]]:
    """Choose the units with the smallest score for each weight, until the room is used up.

    The order is the same for all blocks, so a block of weak units loses more of them. A unit is passed over if its
    block would be left with too few, or if it is larger than what is left of the room.

    Args:
        scores: For each block (an attention or an MLP) `[units]`, in units that compare across blocks: the loss that
            flows through a unit.
        sizes: Weights of one unit, for each block.
        least: Units that each block has to keep.
        room: Weights that may go.

    Returns:
        Positions of the chosen units, for each block, rising.
    """
    values = torch.cat([score.detach().float().cpu() / size for score, size in zip(scores, sizes, strict=True)])
    owners = [block for block, score in enumerate(scores) for _ in range(len(score))]
    firsts = [0, *torch.tensor([len(score) for score in scores]).cumsum(0).tolist()]
    left = [len(score) for score in scores]
    chosen: list[list[int]] = [[] for _ in scores]
    smallest = min(sizes)
    for unit in torch.argsort(values, stable=True).tolist():
        block = owners[unit]
        if sizes[block] <= room and left[block] > least[block]:
            chosen[block].append(unit - firsts[block])
            left[block] -= 1
            room -= sizes[block]
        if room < smallest:
            break
    return [sorted(units) for units in chosen]
