"""Trainer callback for all three algorithms of NeuroPrune."""

from __future__ import annotations

from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.methods.callback import Method
from neuroprune.methods.neuroprune.connectivity import NeuroPruneTarget
from neuroprune.methods.neuroprune.penalties import NeuroPrunePenalty
from neuroprune.methods.neuroprune.regulated import NeuroPruneRegulated
from neuroprune.methods.neuroprune.speedup import NeuroPruneSpeedup


class NeuroPrune(Method):
    """NeuroPrune: `NeuroPrune(sparsity=0.8)` or `NeuroPrune(heads=50)` or both meet a target, `NeuroPrune(speedup=3)` a
    speed-up on this machine; `NeuroPrune(alpha=, beta=, theta=)` is the paper's algorithm,
    `NeuroPrune(sparsity=0.8, algorithm="penalties")` the same with strengths that are regulated towards a target.

    Add it to a Trainer, `Trainer(..., callbacks=[NeuroPrune(sparsity=0.8)])`, or call its hooks (see `hooks.Hooks`).
    The model shrinks during training; afterwards, `report` lists the removed units and the steps.

    Args:
        **fields: See `neuroprune.config.methods.NeuroPruneSettings`.
    """

    settings_class = NeuroPruneSettings
    settings: NeuroPruneSettings

    def make_strategy(self) -> NeuroPruneTarget | NeuroPrunePenalty:
        """Return a new strategy for the algorithm selected in the settings."""
        if self.settings.form == "regulated":
            return NeuroPruneRegulated(self.settings)
        if self.settings.speedup is not None:
            return NeuroPruneSpeedup(self.settings)
        return NeuroPruneTarget(self.settings) if self.settings.form == "target" else NeuroPrunePenalty(self.settings)
