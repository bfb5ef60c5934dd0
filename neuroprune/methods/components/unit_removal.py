"""Events that remove whole heads and neurons in the order of a score: shared by every method that has such a score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from neuroprune.methods.components.target import TargetForm
from neuroprune.methods.components.unit_selection import choose_units
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.hooks import Run
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Blocks
from neuroprune.pruning.sparsity import head_size, neuron_size, removed_weights
from neuroprune.pruning.surgery import Kept, kept_units, remove


class UnitTarget(TargetForm):
    """At each event remove the units with the smallest score for their size, in one order over all layers.

    The last event tops the budget up with the smallest single weights, so that the target is met exactly.
    """

    def scores(self, run: Run) -> list[Tensor]:
        """Return the scores `[units]` of each attention's heads, then those of each MLP's neurons."""
        raise NotImplementedError

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Remove whole units within the budget."""
        blocks = run.blocks
        fewest = fewest_units(blocks, kept_units(run.model), self.settings.min_share)
        room = goal - removed_weights(run.model)
        remove_units(run, choose_units(self.scores(run), unit_sizes(blocks), fewest, room))
        if last:
            self.zeros = zero_smallest(run, goal)


def unit_sizes(blocks: Blocks) -> list[int]:
    """Return the prunable weights of one unit, for each attention and then for each MLP."""
    return [*map(head_size, blocks.attentions), *map(neuron_size, blocks.mlps)]


def fewest_units(blocks: Blocks, kept: Kept, min_share: float) -> list[int]:
    """Return how many units each attention and then each MLP has to keep.

    Args:
        blocks: The model's blocks.
        kept: What it still has.
        min_share: Share of the dense model's neurons that a layer keeps; one head and one neuron stay anyway.

    Returns:
        Numbers of units.
    """
    return [1] * len(blocks.attentions) + [max(1, math.ceil(min_share * width)) for width in kept.dense_neurons]


def remove_units(run: Run, chosen: Sequence[Sequence[int]]) -> None:
    """Remove the chosen units of each attention and then of each MLP; the optimizer's state follows.

    Args:
        run: The run.
        chosen: Positions for each block; those of attentions count key/value heads with the queries that read them.
    """
    attentions = run.blocks.attentions
    gone, neurons = chosen[: len(attentions)], chosen[len(attentions) :]
    queries = {a.index: heads.query_heads(a, units) for a, units in zip(attentions, gone, strict=True)}
    remove(run.model, queries, dict(enumerate(neurons)), run.optimizer)
