"""NeuroPrune by regulated penalties: the paper's penalties, controlled to meet a target sparsity (our addition)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD

from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.removal_report import reached, warn_if_missed
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.strength_control import (
    EVERY,
    StrengthControl,
    absence_threshold,
    absent_entries,
)
from neuroprune.methods.components.unit_selection import may_empty
from neuroprune.methods.components.zero_mask import KeptZeros, zero_smallest
from neuroprune.methods.hooks import Run, State
from neuroprune.methods.neuroprune.penalties import NeuroPrunePenalty
from neuroprune.pruning.sparsity import prunable_projections, prunable_weights, removed_weights

FIRST_ALPHA, FIRST_BETA = 3e-5, 3e-4
"""Default initial strengths of regulated penalties, chosen on SST-2."""
REPORTED = 10
"""Interval, in measurements, between report entries of the regulated penalties."""
BY_PENALTIES = 0.7
"""Fraction of the target that the penalties bring near zero before the rest is zeroed, chosen on SST-2."""
SHORTFALL = 0.05
"""Fraction of weights by which the penalties may miss their goal without a warning."""

logger = logging.getLogger(__name__)


class NeuroPruneRegulated(NeuroPrunePenalty):
    """Strategy with the paper's penalties and strengths regulated towards a target sparsity.

    Up to a fraction `end` of the steps, penalties are regulated so that the absent weights grow linearly to most of the
    target or, in short runs, to the reachable fraction. `alpha` and `beta` are the initial strengths; their ratio is
    constant. Redundant heads are then merged once more, the smallest weights are zeroed until the count is exact, and
    training continues without penalties while the zeros are kept.
    """

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self._initial_strengths = (
            FIRST_ALPHA if settings.alpha is None else settings.alpha,
            FIRST_BETA if settings.beta is None else settings.beta,
        )
        self.alpha, self.beta = self._initial_strengths
        self.target = settings.sparsity or 0.0
        self.control = StrengthControl(BY_PENALTIES * self.target, settings.penalty_start, settings.end)
        self.zeros = KeptZeros()
        self.report |= {"sparsity": settings.sparsity, "strengths": []}

    def start(self, run: Run) -> None:
        """Check the target; start the penalties, or keep the zeros of a model that was cut before."""
        preconditions.check_target(run.model, self.target)
        preconditions.check_has_rate(run, "algorithm: penalties")
        super().start(run)
        self.control.target = min(self.control.target, self._reachable(run))
        if run.step >= self._cut_step:
            self.zeros = KeptZeros.of(run.blocks)

    def state_dict(self) -> State:
        """Return the report, the planned number of steps, the controller's state and the mask of zeros."""
        return (
            super().state_dict() | nest("control", self.control.state_dict()) | nest("zeros", self.zeros.state_dict())
        )

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the report, the controller and the zeros; keep the plan, even if the run's length has changed."""
        super().resume(run, state)
        self.control.load_state(unnest("control", state))
        self.zeros = KeptZeros.from_state(run.blocks, unnest("zeros", state))
        self._apply_factor()

    def begun(self, run: Run, step: int) -> bool:
        """Return whether a step, counted from 0, has a penalty; steps after the cut have none."""
        return step < self._cut_step and super().begun(run, step)

    def merges(self, run: Run) -> bool:
        """Return whether heads are merged at the end of the current epoch; the cut has its own merge."""
        return run.step < self._cut_step and super().merges(run)

    def before_step(self, run: Run) -> None:
        """Update the strengths if a measurement is due; then apply the penalties."""
        if run.step % EVERY == 0 and self.begun(run, run.step):
            self._regulate(run)
        super().before_step(run)

    def after_step(self, run: Run) -> None:
        """Apply the penalties, cut when it is due, then keep the zeros."""
        super().after_step(run)
        self.zeros.apply()
        if run.step == self._cut_step:
            self._cut(run)

    def finish(self, run: Run) -> None:
        """Remove all-zero units; warn if the target is missed, as in a run that ended early."""
        super().finish(run)
        planned = f"; the smallest weights are set to zero at step {self._cut_step}"
        warn_if_missed(run, self.target, planned if run.step < self._cut_step else "")

    def zero_absent(self, run: Run) -> None:
        """Restore the zeros; no other weight is absent."""
        self.zeros.apply()

    def _reachable(self, run: Run) -> float:
        """Return the fraction of weights that the steps with a penalty can bring to zero.

        With a coupled penalty and Adam, an entry moves by about one learning rate per step, regardless of the strength;
        a larger strength only masks the gradient of the task.
        """
        if self.settings.mode == "decoupled" or isinstance(run.optimizer, SGD):
            return 1.0
        steps = sum(self.begun(run, step) for step in range(run.step, run.total_steps))
        peaks = _prunable_rates(run, run.peak_rates())
        share = _near_zero(run, [steps * peak for peak in peaks])
        if share < self.control.target:
            logger.warning(
                "%d steps with penalties at a learning rate of at most %.1e can bring %.0f %% of the weights near "
                "zero; the smallest others are set to zero, up to the target of %.0f %%. For more by penalties, train "
                "for more steps or at a higher rate.",
                steps,
                max(peaks),
                100 * share,
                100 * self.target,
            )
        return share

    @property
    def _cut_step(self) -> int:
        return max(1, round(self.settings.end * self._total_steps))

    def _cut(self, run: Run) -> None:
        """Merge redundant heads, and zero the smallest weights to meet the target exactly."""
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
        goal = round(self.target * prunable_weights(run.model))
        self.zeros = zero_smallest(run, goal, empty=may_empty(self.settings))
        self.report["events"].append({"step": run.step, "asked": self.target} | reached(run.model))

    def _regulate(self, run: Run) -> None:
        absent = self._absent(run)
        self.control.update(run.step / self._total_steps, absent)
        self._apply_factor()
        if run.step // EVERY % REPORTED == 0:
            self.report["strengths"].append({"step": run.step, "absent": absent, "factor": self.control.factor})

    def _apply_factor(self) -> None:
        self.alpha, self.beta = (strength * self.control.factor for strength in self._initial_strengths)

    def _absent(self, run: Run) -> float:
        """Return the fraction of the dense model's prunable weights that is removed or near zero."""
        rates = {} if isinstance(run.optimizer, SGD) else run.learning_rates()  # SGD's steps shrink with the gradient
        return _near_zero(run, [absence_threshold(self.settings.eps, rate) for rate in _prunable_rates(run, rates)])


def _prunable_rates(run: Run, rates: Mapping[nn.Parameter, float]) -> list[float]:
    """Return the learning rate of each prunable matrix, 0 if it has none."""
    return [rates.get(projection.parameter, 0.0) for projection in prunable_projections(run.blocks)]


def _near_zero(run: Run, thresholds: Sequence[float]) -> float:
    """Return the fraction of the dense model's prunable weights that is removed or below its matrix's threshold."""
    entries = absent_entries(prunable_projections(run.blocks), thresholds)
    return (entries + removed_weights(run.model)) / prunable_weights(run.model)
