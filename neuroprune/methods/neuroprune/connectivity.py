"""NeuroPrune by functional connectivity (NeuroPrune-FC): this project's own algorithm, which meets a given target.

Units are MLP neurons and heads. The paper's three ideas appear as follows:

- *Preferential attachment*: a unit's connectivity is functional: the loss that flows through all its connections
(Fisher information of a gate on its centred output). The units with the lowest connectivity per weight are removed and
folded into the remaining ones, which become stronger.
- *Group sparsity*: the groups in an attention are its heads, whose removal makes the model faster.
- *Redundant heads*: a head is redundant if the loss hardly depends on it. Merging is the least-squares fold into all
remaining heads, which for two equal heads is the paper's merge.

One ranking over all layers and both kinds of unit replaces the strengths alpha and beta. The target can be a number of
heads instead of, or in addition to, a fraction of the weights. Heads are then ranked separately, and the record
contains the threshold theta at which the paper's algorithm would keep the same number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.components.calibration import Calibration
from neuroprune.methods.components.fold import fold, fold_means
from neuroprune.methods.components.head_count import check_head_count, choose_heads_first, heads_to_remove
from neuroprune.methods.components.preconditions import may_skip, skips_layers
from neuroprune.methods.components.second_moments import Means, SecondMoments
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.target import TargetForm
from neuroprune.methods.components.teaching import Teaching
from neuroprune.methods.components.uniform_selection import (
    UniformGroup,
    choose_uniform,
    separate_groups,
    uniform_groups,
)
from neuroprune.methods.components.unit_removal import remove_units
from neuroprune.methods.components.unit_selection import Chosen, choose_units, may_empty, unit_groups
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.hooks import Run, State
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Block
from neuroprune.pruning.kept_units import is_cut, read_record
from neuroprune.pruning.plain_config import is_plain, plain_values, to_plain
from neuroprune.pruning.sparsity import cubic_schedule, prunable_weights, removed_weights
from neuroprune.pruning.surgery import kept_units

FOLDS = {True: "least squares", "means": "means", False: "none"}
"""Names of the folds in the report."""
MOMENTS = {"least squares": SecondMoments, "means": Means, "none": None}
"""Moments collected for each fold, by its name in the report."""
MOSTLY = 0.9
"""Fraction of the target that slices of whole units should remove; a warning is logged below it."""

logger = logging.getLogger(__name__)


class NeuroPruneTarget(TargetForm):
    """NeuroPrune-FC's strategy: at each event, remove and fold the units with the least connectivity per weight."""

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self.heads_only = settings.heads is not None and settings.sparsity is None and settings.speedup is None
        self._calibration: Calibration | None = None
        self._trial: Calibration | None = None
        self._teaching = Teaching(settings.teacher, settings.teacher_temperature, settings.layer_share)

    def start(self, run: Run) -> None:
        """Plan the events; start calibration if the first is near, or else a trial during the first step."""
        super().start(run)
        if self.settings.heads is not None:
            self._start_head_count(run)
        if self._uniform:
            self.report["layout"] = "uniform"
            self._sliced_groups(run)
            _check_describable(run)
        self._teaching.start(run)
        self._watch(run)
        if self.events:
            self._trial = self._calibration or Calibration(run.model, run.blocks, moments=None)

    def state_dict(self) -> State:
        """Return the state of the target form and the statistics of a calibration in progress."""
        seen = {} if self._calibration is None else nest("calibration", self._calibration.state_dict())
        state = super().state_dict() | {"calibrating": self._calibration is not None}
        return state | seen | nest("teaching", self._teaching.state_dict())

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Resume with the statistics of a calibration in progress."""
        super().resume(run, state)
        self._teaching.resume(run, unnest("teaching", state))
        if state["calibrating"]:
            self._calibrate(run).load_state(unnest("calibration", state))
        self._watch(run)

    def before_step(self, run: Run) -> None:
        """Update the map for comparing layers with the teacher's."""
        self._teaching.step(run)
        super().before_step(run)

    def after_step(self, run: Run) -> None:
        """Run an event if it is due; start calibration if the next one is near."""
        if self._trial is not None:
            self._end_trial(run, self._trial)
        super().after_step(run)
        self._watch(run)

    def abandon(self) -> None:
        """Remove hooks left on the model by an interrupted run."""
        for calibration in (self._calibration, self._trial):
            if calibration is not None:
                calibration.detach()
        self._calibration, self._trial = None, None
        self._teaching.detach()
        super().abandon()

    def _end_trial(self, run: Run, trial: Calibration) -> None:
        """Reject the run after its first step if the trial calibration has not seen every block."""
        if trial is not self._calibration:
            trial.detach()
        self._trial = None
        if not may_skip(run):
            trial.check_seen()

    def ready(self) -> bool:
        """Return whether the units can be ranked; not if all gradients have overflowed."""
        return self._calibration is not None and self._calibration.informative()

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Remove whole units within the budget.

        At the last event, zero the smallest weights to meet the target exactly; in the uniform layout, write the shapes
        into the configuration, so that plain transformers loads the checkpoints from then on.
        """
        calibration = self._take_calibration(run)
        self._remove_units(run, calibration, goal - removed_weights(run.model))
        if last:
            self._warn_of_zeros(run, goal)
            self.zeros = zero_smallest(run, goal, not self._in_slices, may_empty(self.settings))
            if self._uniform:
                to_plain(run.model, run.optimizer)

    def _warn_of_zeros(self, run: Run, goal: int) -> None:
        """Warn if slices are so large that much of the target is left to single zeros, which make nothing faster."""
        removed = removed_weights(run.model)
        if self._in_slices and removed < MOSTLY * goal:
            setting = "layout='uniform'" if self._uniform else f"multiple_of={self.settings.multiple_of}"
            logger.warning(
                "%s: whole heads and neurons are %.1f %% of the weights, the rest up to %.1f %% are single zeros, "
                "which make nothing smaller; lower sparsity or multiple_of%s.",
                setting,
                *(100 * part / prunable_weights(run.model) for part in (removed, goal)),
                ", or leave layout out" if self._uniform else "",
            )

    def complete(self, run: Run) -> None:
        """Remove all-zero units, unless that would violate the required widths.

        In the uniform layout, write the shapes into the configuration if training ended before the last event did.
        """
        if self._uniform:
            to_plain(run.model, run.optimizer)
        elif not self._in_slices:
            super().complete(run)

    @property
    def _uniform(self) -> bool:
        return bool(self.settings.layout == "uniform")

    @property
    def _in_slices(self) -> bool:
        return self._uniform or self.settings.multiple_of > 1

    def _sliced_groups(self, run: Run) -> list[UniformGroup]:
        grouped = uniform_groups if self._uniform else separate_groups
        return grouped(run, self.settings.min_share, self.settings.multiple_of)

    def _plan(self, run: Run, plan: Sequence[tuple[int, float]] | None = None) -> None:
        """Plan the events, and the fold by the number of steps after the last one."""
        super()._plan(run, plan)
        last, _ = self.plan[-1]
        self.report["fold"] = FOLDS[self.settings.fold_with(run.total_steps - last)]

    def _watch(self, run: Run) -> None:
        """Attach the calibration if the next step belongs to the window before an event."""
        window = run.steps_for(self.settings.calibration_rows)
        if self._calibration is None and self.events and run.step >= min(self.events) - window:
            self._calibrate(run)

    def _calibrate(self, run: Run) -> Calibration:
        asked, moments = self.settings, MOMENTS[self.report["fold"]]
        self._calibration = Calibration(
            run.model, run.blocks, moments, asked.token_weights, asked.centred, loss_rows=lambda: run.loss_rows
        )
        return self._calibration

    def _take_calibration(self, run: Run) -> Calibration:
        """End the calibration window and return its statistics for the removal."""
        self._teaching.before_removal(run)
        calibration, self._calibration = self._calibration, None
        assert calibration is not None, "the window of an event begins at the latest in the step before it"
        calibration.detach()
        calibration.gather()
        if not may_skip(run):
            calibration.check_seen()
        return calibration

    def _remove_units(self, run: Run, calibration: Calibration, room: int) -> None:
        chosen = self._choose_units(run, calibration, room)
        for block, found in calibration.statistics.items():
            removed = found.channels_of(chosen.get(block, []))
            if isinstance(found.moments, SecondMoments):
                fold(found.projection, found.take_moments(), removed, self.settings.ridge)
            elif found.moments is not None:
                fold_means(found.projection, found.moments.means(), removed)
        remove_units(run, chosen)

    def _choose_units(self, run: Run, calibration: Calibration, room: int) -> Chosen:
        scores = self._scores(run, calibration)
        if self._in_slices:
            return choose_uniform(self._sliced_groups(run), scores, room)
        groups = unit_groups(run, scores, self.settings.min_share)
        if self.settings.heads is None:
            return choose_units(groups, room)
        count, attentions = heads_to_remove(run, self.settings.heads, self._progress()), len(run.blocks.attentions)
        return choose_heads_first(groups[:attentions], groups[attentions:], count, room)

    def _scores(self, run: Run, calibration: Calibration) -> dict[Block, torch.Tensor]:
        """Return the connectivity of every block's units; blocks that were skipped at random keep all units."""
        skipped = skips_layers(run.model)
        return {
            block: torch.full((block.units,), torch.inf) if skipped and not found.samples else found.connectivity
            for block, found in calibration.statistics.items()
        }

    def _progress(self) -> float:
        """Return the fraction of all removals that is complete after the current event."""
        planned = len(self.plan)
        return cubic_schedule(1.0, planned)[planned - len(self.events) - 1]

    def _start_head_count(self, run: Run) -> None:
        """Check the target number of heads; report the paper's threshold that would keep the same number."""
        count = self.settings.heads
        check_head_count(run, count, self.settings.sparsity, self.settings.min_share)
        left = sum(map(len, kept_units(run.model).heads))
        if not self.events and left > count:
            raise UserError(
                f"training resumes at step {run.step} of {run.total_steps}, after the last event, with {left} heads "
                f"instead of {count}; load the cut model with neuroprune.from_pretrained, or train from the beginning."
            )
        attentions, groups = run.blocks.attentions, run.blocks.groups
        theta, survivors = heads.theta_for([heads.distances(a) for a in attentions], count // groups)
        self.report |= {"heads": count, "theta": {"value": theta, "heads": survivors * groups}}


def _check_describable(run: Run) -> None:
    """Reject a model that was cut before in a way that its configuration can't describe, as `to_plain` would later."""
    if is_plain(run.model) or not is_cut(read_record(run.model)):
        return
    try:
        plain_values(run.model)
    except UserError as error:
        raise UserError(f"layout='uniform': start from the dense model, or leave layout out. {error}") from error
