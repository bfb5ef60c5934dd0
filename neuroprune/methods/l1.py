"""l1 pruning, the paper's baseline for T5 and OPT, in the same two forms as NeuroPrune."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from neuroprune.config.methods import L1Settings
from neuroprune.methods.callback import Method
from neuroprune.methods.components.penalty import PenaltyForm
from neuroprune.methods.components.target import TargetForm
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.hooks import Run
from neuroprune.pruning.penalties import add_l1_gradient, shrink_l1
from neuroprune.pruning.sparsity import prunable_projections


class L1Target(TargetForm):
    """Strategy that zeroes the smallest weights of all matrices at the same events as NeuroPrune."""

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Zero the smallest weights until `goal` weights of the dense model are zero or removed."""
        self.zeros = zero_smallest(run, goal)


class L1Penalty(PenaltyForm):
    """Strategy that adds the l1 norm of all matrices to the loss."""

    def add_gradients(self, run: Run) -> None:
        """Add strength x sign(w) to the gradients."""
        for projection in prunable_projections(run.blocks):
            add_l1_gradient(projection, self.settings.strength)

    def shrink(self, run: Run, rates: Mapping[nn.Parameter, float]) -> None:
        """Soft-threshold every weight by learning rate x strength."""
        for projection in prunable_projections(run.blocks):
            shrink_l1(projection, self.settings.strength, rates)


class L1(Method):
    """l1 pruning: `L1(sparsity=0.8)` for magnitude pruning to a target, `L1(strength=1e-4)` for the penalty.

    Args:
        **fields: See `neuroprune.config.methods.L1Settings`.
    """

    settings_class = L1Settings
    settings: L1Settings

    def make_strategy(self) -> L1Target | L1Penalty:
        """Return a new strategy of the form selected in the settings."""
        return L1Target(self.settings) if self.settings.form == "target" else L1Penalty(self.settings)
