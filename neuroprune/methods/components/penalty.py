"""Penalty form of a method: penalise weights in every step and remove units that become zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from neuroprune.config.methods import L1Settings, NeuroPruneSettings
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.removal_report import head_distances, reached, removed_heads
from neuroprune.methods.components.unit_selection import may_empty
from neuroprune.methods.hooks import Hooks, Run, State
from neuroprune.pruning.sparsity import prunable_projections
from neuroprune.pruning.surgery import remove_zero_units


class PenaltyForm(Hooks):
    """Strategy that penalises weights in every step, coupled or decoupled, and removes units that become zero.

    Args:
        settings: Settings with `mode`, `eps` and `penalty_start`.
    """

    def __init__(self, settings: L1Settings | NeuroPruneSettings) -> None:
        super().__init__(settings)
        self.adds_gradients = settings.mode == "coupled"
        self._total_steps = 0  # of the run when it started; a resumed run keeps this plan
        self.report |= {"form": "penalty", "mode": settings.mode, "events": []}

    def add_gradients(self, run: Run) -> None:
        """Add the penalty's gradient to the weights' `.grad`."""
        raise NotImplementedError

    def shrink(self, run: Run, rates: Mapping[nn.Parameter, float]) -> None:
        """Take the penalty's proximal step, with a strength proportional to the weights' learning rates."""
        raise NotImplementedError

    def start(self, run: Run) -> None:
        """Check that decoupled penalties have a rate; report the distances between heads."""
        if self.settings.mode == "decoupled":
            preconditions.check_has_rate(run, "mode: decoupled")
        self._total_steps = run.total_steps
        self.report["head_distances"] = head_distances(run.blocks)

    def state_dict(self) -> State:
        """Return the report so far and the planned number of steps; the rest of the state is in the model."""
        return {"report": self.report, "total_steps": self._total_steps}

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the report; keep the plan, even if the run's length has changed."""
        self._total_steps = state["total_steps"]
        self.report.update(state["report"])

    def begun(self, run: Run, step: int) -> bool:
        """Return whether a step, counted from 0, has a penalty."""
        return max(0, step) >= round(self.settings.penalty_start * self._total_steps)

    def before_step(self, run: Run) -> None:
        """Coupled: pass the penalty's gradient through the optimizer."""
        if self.adds_gradients and self.begun(run, run.step):
            self.add_gradients(run)

    def after_step(self, run: Run) -> None:
        """Decoupled: shrink the weights after the optimizer's step."""
        if self.settings.mode == "decoupled" and self.begun(run, run.step - 1):
            self.shrink(run, run.learning_rates())

    def epoch_end(self, run: Run) -> None:
        """Decoupled: remove units that are entirely zero, for speed; the coupled mode leaves no exact zeros."""
        if self.settings.mode == "decoupled":
            remove_zero_units(run.model, run.optimizer, empty=may_empty(self.settings))
        self.report["events"].append({"step": run.step} | reached(run.model))

    def zero_absent(self, run: Run) -> None:
        """Set weights below `eps` to zero."""
        for projection in prunable_projections(run.blocks):
            weight = projection.weight
            weight.masked_fill_(weight.abs() < self.settings.eps, 0)

    @torch.no_grad()
    def finish(self, run: Run) -> None:
        """Set absent weights to zero and remove the units that are then entirely zero."""
        self.zero_absent(run)
        remove_zero_units(run.model, run.optimizer, empty=may_empty(self.settings))
        self.report["events"].append({"step": run.step} | reached(run.model))
        self.report["removed_heads"] = removed_heads(run.model)
