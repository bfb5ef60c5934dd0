"""Removal events for whole heads and neurons ranked by a score, shared by all score-based methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from neuroprune.methods.components.target import TargetForm
from neuroprune.methods.components.unit_selection import choose_units, may_empty, unit_groups
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.hooks import Run
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Attention, Block
from neuroprune.pruning.sparsity import removed_weights
from neuroprune.pruning.surgery import remove


class UnitTarget(TargetForm):
    """Strategy that removes, at each event, the units with the smallest score per weight over all layers.

    The last event also zeroes the smallest single weights, so that the target is met exactly.
    """

    def scores(self, run: Run) -> dict[Block, Tensor]:
        """Return the scores `[units]` of each block's units."""
        raise NotImplementedError

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Remove whole units within the budget."""
        groups = unit_groups(run, self.scores(run), self.settings.min_share)
        remove_units(run, choose_units(groups, goal - removed_weights(run.model)))
        if last:
            self.zeros = zero_smallest(run, goal, empty=may_empty(self.settings))


def remove_units(run: Run, chosen: Mapping[Block, Sequence[int]]) -> None:
    """Remove units from the model and the optimizer's state.

    Args:
        run: The run; its model is changed in place.
        chosen: Positions of units of some blocks; for attentions, of key/value heads, which are removed with their
            query heads.
    """
    remove(run.model, *positions_by_layer(chosen), run.optimizer)


def positions_by_layer(chosen: Mapping[Block, Sequence[int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Convert positions of units to the arguments of `surgery.remove`.

    Args:
        chosen: Positions of units of some blocks; for attentions, of key/value heads.

    Returns:
        Query heads by attention number, and neurons by MLP number.
    """
    queries, neurons = {}, {}
    for block, positions in chosen.items():
        if isinstance(block, Attention):
            queries[block.index] = heads.query_heads(block, list(positions))
        else:
            neurons[block.index] = list(positions)
    return queries, neurons
