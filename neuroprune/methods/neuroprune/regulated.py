"""NeuroPrune by regulated penalties: the paper's penalties, led to a target sparsity (an addition to the paper)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch.optim import SGD

from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.removal_report import reached
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.strength_control import (
    EVERY,
    StrengthControl,
    absence_threshold,
    absent_entries,
)
from neuroprune.methods.components.zero_mask import KeptZeros, zero_smallest
from neuroprune.methods.hooks import Run, State
from neuroprune.methods.neuroprune.penalties import NeuroPrunePenalty
from neuroprune.pruning.sparsity import prunable_projections, prunable_weights, removed_weights

FIRST_ALPHA, FIRST_BETA = 3e-5, 3e-4
"""Strengths at which regulated penalties begin where none are given; chosen on SST-2, see docs/method.md."""
REPORTED = 10
"""Measurements of the regulated penalties between two that the report keeps."""
BY_PENALTIES = 0.7
"""Share of the target that the regulated penalties bring close to zero before the rest is cut; see docs/method.md."""
SHORTFALL = 0.05
"""Share of absent weights that the penalties may miss without a warning."""

logger = logging.getLogger(__name__)


class NeuroPruneRegulated(NeuroPrunePenalty):
    """The paper's penalties, with strengths regulated towards a target sparsity.

    Until a share `end` of the steps the penalties act, regulated so that the absent weights grow linearly to most of
    the target, or in short runs to what so many steps can bring to zero; `alpha` and `beta` are where the strengths
    begin, and their ratio stays. Then redundant heads are merged once more, the smallest weights are set to zero until
    the count is exact, and the model trains on without penalties, zeros held.
    """

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self._begin = (
            FIRST_ALPHA if settings.alpha is None else settings.alpha,
            FIRST_BETA if settings.beta is None else settings.beta,
        )
        self.alpha, self.beta = self._begin
        self.target = settings.sparsity or 0.0
        self.control = StrengthControl(BY_PENALTIES * self.target, settings.penalty_start, settings.end)
        self.zeros = KeptZeros()
        self.report |= {"sparsity": settings.sparsity, "strengths": []}

    def start(self, run: Run) -> None:
        """Check the target; begin as the penalties do."""
        preconditions.check_target(run.model, self.target)
        super().start(run)
        self.control.target = min(self.control.target, self._reachable(run))

    def state_dict(self) -> State:
        """Return the report, the controller's state and the zeros that are held."""
        zeros = nest("zeros", self.zeros.state_dict())
        return super().state_dict() | nest("control", self.control.state_dict()) | zeros

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the report, the controller and the zeros."""
        super().resume(run, state)
        self.control.load_state(unnest("control", state))
        self.zeros = KeptZeros.from_state(run.blocks, unnest("zeros", state))
        self._apply_factor()

    def begun(self, run: Run, step: int) -> bool:
        """Return whether a step, counted from 0, has a penalty: none has after the cut."""
        return step < self._cut_step(run) and super().begun(run, step)

    def before_step(self, run: Run) -> None:
        """Measure and regulate if it is due; then act as the penalties do."""
        if run.step % EVERY == 0 and self.begun(run, run.step):
            self._regulate(run)
        super().before_step(run)

    def after_step(self, run: Run) -> None:
        """Act as the penalties do, cut when it is due, then hold zeros."""
        super().after_step(run)
        self.zeros.apply()
        if run.step == self._cut_step(run):
            self._cut(run)

    def zero_absent(self, run: Run) -> None:
        """Hold the zeros; nothing else is absent."""
        self.zeros.apply()

    def _reachable(self, run: Run) -> float:
        """Return the share of weights that the steps with a penalty can bring to zero.

        With a coupled penalty and Adam, an entry moves by about one learning rate a step, however large its strength
        is; a larger one only drowns the gradient of the task.
        """
        if self.settings.mode == "decoupled" or isinstance(run.optimizer, SGD):
            return 1.0
        steps = sum(self.begun(run, step) for step in range(run.step, run.total_steps))
        distance = steps * run.peak_rate()
        entries = absent_entries(prunable_projections(run.blocks), distance)
        share = (entries + removed_weights(run.model)) / prunable_weights(run.model)
        if share < self.control.target:
            logger.warning(
                "%d steps with penalties at a learning rate of at most %.1e can bring %.0f %% of the weights near "
                "zero; the smallest others are set to zero, up to the target of %.0f %%. For more by penalties, train "
                "for more steps or at a higher rate.",
                steps,
                run.peak_rate(),
                100 * share,
                100 * self.target,
            )
        return share

    def _cut_step(self, run: Run) -> int:
        return max(1, round(self.settings.end * run.total_steps))

    def _cut(self, run: Run) -> None:
        """Merge redundant heads; set the smallest weights to zero until the target is met exactly."""
        self.report["absent"] = absent = self._absent(run)
        if absent < self.control.target - SHORTFALL:
            logger.warning(
                "The penalties brought %.1f %% of the weights near zero by step %d instead of %.1f %%; the smallest "
                "others are set to zero as well. Train for more steps, or at a higher learning rate.",
                100 * absent,
                run.step,
                100 * self.control.target,
            )
        self.merge_heads(run)
        self.zeros = zero_smallest(run, round(self.target * prunable_weights(run.model)))
        self.report["events"].append({"step": run.step, "asked": self.target} | reached(run.model))

    def _regulate(self, run: Run) -> None:
        absent = self._absent(run)
        self.control.update(run.step / run.total_steps, absent)
        self._apply_factor()
        if run.step // EVERY % REPORTED == 0:
            self.report["strengths"].append({"step": run.step, "absent": absent, "factor": self.control.factor})

    def _apply_factor(self) -> None:
        self.alpha, self.beta = (strength * self.control.factor for strength in self._begin)

    def _absent(self, run: Run) -> float:
        """Return the share of the dense model's prunable weights that are removed or close to zero."""
        threshold = absence_threshold(self.settings.eps, max(run.learning_rates().values()))
        entries = absent_entries(prunable_projections(run.blocks), threshold)
        return (entries + removed_weights(run.model)) / prunable_weights(run.model)
