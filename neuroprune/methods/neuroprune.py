"""NeuroPrune (arXiv 2404.01306) in two forms: the paper's penalties and head merging, and a run that meets a target.

Target form. Units are MLP neurons and heads. The paper's three ideas stand in it as follows:

- *Preferential attachment*: a unit's connectivity is functional, the loss that flows through all its connections
  (Fisher information of a gate on what it does beyond its mean). The weakest for their size go, and what they did is
  folded into the survivors, which get stronger.
- *Group sparsity*: the group of the attention is the head, whose removal makes the model faster.
- *Redundant heads*: a head is redundant if the loss hardly notices it; merging is the least-squares fold into all
  heads that remain, which for two equal heads is the paper's merge.

One order over all layers and both kinds of unit takes the place of the strengths alpha and beta. A number of heads can
be asked for beside or in place of a share of weights: then the order of the heads alone says which go, and the record
names the threshold theta at which the paper's algorithm would leave as many.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from neuroprune.config.fields import RAMP_END
from neuroprune.config.settings import NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.callback import Method
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.calibration import Calibration, no_gradient
from neuroprune.methods.components.fold import fold
from neuroprune.methods.components.head_count import check_head_count, choose_heads_first, heads_to_remove
from neuroprune.methods.components.penalty import PenaltyForm
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.strength_control import (
    EVERY,
    StrengthControl,
    absence_threshold,
    absent_entries,
)
from neuroprune.methods.components.target import TargetForm
from neuroprune.methods.components.unit_removal import remove_units
from neuroprune.methods.components.unit_selection import Chosen, choose_units, unit_groups
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.hooks import Run, State
from neuroprune.pruning import heads, penalties
from neuroprune.pruning.blocks import Attention
from neuroprune.pruning.sparsity import cubic_schedule, prunable_projections, prunable_weights, removed_weights
from neuroprune.pruning.surgery import kept_units, remove

FIRST_ALPHA, FIRST_BETA = 3e-5, 3e-4
"""Strengths at which regulated penalties begin where none are given; chosen on SST-2, see docs/method.md."""
REPORTED = 10
"""Measurements of the regulated penalties between two that the report keeps."""
SHORTFALL = 0.05
"""Share of absent weights that the penalties may miss without a warning."""

logger = logging.getLogger(__name__)


class NeuroPruneTarget(TargetForm):
    """At each event remove the units that matter least for their size, and fold what they did into the rest."""

    _calibration: Calibration | None = None

    def start(self, run: Run) -> None:
        """Plan the events; watch at once if the first is near."""
        super().start(run)
        if self.settings.heads is not None:
            self._start_head_count(run)
        self._watch(run)

    def state_dict(self) -> State:
        """Return the state of the form, and what the calibration has seen if one is at work."""
        seen = {} if self._calibration is None else nest("calibration", self._calibration.state_dict())
        return super().state_dict() | seen

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Go on; a calibration that was at work goes on with what it had seen."""
        super().resume(run, state)
        self._watch(run)
        if self._calibration is not None:
            self._calibration.load_state(unnest("calibration", state))

    def after_step(self, run: Run) -> None:
        """Take an event if it is time; begin to watch if the next one is near."""
        super().after_step(run)
        self._watch(run)

    def abandon(self) -> None:
        """Take hooks off that a run which ended early has left on."""
        if self._calibration is not None:
            self._calibration.detach()
        self._calibration = None
        super().abandon()

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Remove whole units within the budget; at the last event top it up with the smallest single weights."""
        calibration = self._take_calibration(run)
        self._remove_units(run, calibration, goal - removed_weights(run.model))
        if last:
            self.zeros = zero_smallest(run, goal)

    def _watch(self, run: Run) -> None:
        """Attach the calibration if the next step belongs to the window before an event."""
        window = run.steps_for(self.settings.calibration_rows)
        if self._calibration is None and self.events and run.step >= min(self.events) - window:
            asked = self.settings
            self._calibration = Calibration(
                run.model, run.blocks, asked.fold, asked.token_weights, asked.centred, loss_rows=lambda: run.loss_rows
            )

    def _take_calibration(self, run: Run) -> Calibration:
        """End the window and return what it has seen."""
        calibration, self._calibration = self._calibration, None
        assert calibration is not None, "the window of an event begins at the latest in the step before it"
        calibration.detach()
        calibration.gather()
        if unseen := [block.name for block, found in calibration.statistics.items() if not found.samples]:
            raise no_gradient(unseen)
        return calibration

    def _remove_units(self, run: Run, calibration: Calibration, room: int) -> None:
        chosen = self._choose_units(run, calibration, room)
        for block, found in calibration.statistics.items():
            if found.moments is not None:
                fold(found.projection, found.moments, found.channels_of(chosen[block]), self.settings.ridge)
        remove_units(run, chosen)

    def _choose_units(self, run: Run, calibration: Calibration, room: int) -> Chosen:
        scores = {block: found.connectivity for block, found in calibration.statistics.items()}
        groups = unit_groups(run, scores, self.settings.min_share)
        if self.settings.heads is None:
            return choose_units(groups, room)
        count, attentions = heads_to_remove(run, self.settings.heads, self._progress()), len(run.blocks.attentions)
        return choose_heads_first(groups[:attentions], groups[attentions:], count, room)

    def _progress(self) -> float:
        """Return the share of all removals that the event taken now completes."""
        planned = len(self.plan)
        return cubic_schedule(1.0, planned)[planned - len(self.events) - 1]

    def _start_head_count(self, run: Run) -> None:
        """Check the number of heads that is asked for; note the paper's threshold that would leave as many."""
        count = self.settings.heads
        check_head_count(run, count, self.settings.sparsity, self.settings.min_share)
        left = sum(map(len, kept_units(run.model).heads))
        if not self.events and left > count:
            raise UserError(
                f"training goes on at step {run.step} of {run.total_steps}, after the last event, with {left} heads "
                f"instead of {count}; load the cut model with neuroprune.from_pretrained, or train from the beginning."
            )
        attentions = run.blocks.attentions
        theta, survivors = heads.theta_for([heads.distances(a) for a in attentions], count // attentions[0].groups)
        self.report |= {"heads": count, "theta": {"value": theta, "heads": survivors * attentions[0].groups}}


class NeuroPrunePenalty(PenaltyForm):
    """The paper's algorithm: penalties Eq. 1 and Eq. 2 in every step, redundant heads merged after every epoch."""

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self.alpha, self.beta = settings.alpha or 0.0, settings.beta or 0.0

    def add_gradients(self, run: Run) -> None:
        """Add the gradients of alpha x Eq. 1 and beta x Eq. 2."""
        widths = kept_units(run.model).dense_neurons if self.alpha else []
        for mlp, width in zip(run.blocks.mlps, widths, strict=False):
            eps, reading = self.settings.eps, self.settings.degree_weight
            penalties.add_mlp_gradient(mlp, self.alpha, eps, reading, width)
        for attention in run.blocks.attentions if self.beta else []:
            penalties.add_attention_gradient(attention, self.beta)

    def shrink(self, run: Run, rates: Mapping[nn.Parameter, float]) -> None:
        """Take the proximal steps of learning rate x alpha x Eq. 1 and learning rate x beta x Eq. 2."""
        widths = kept_units(run.model).dense_neurons if self.alpha else []
        for mlp, width in zip(run.blocks.mlps, widths, strict=False):
            strength = rates.get(mlp.out.module.weight, 0.0) * self.alpha  # type: ignore[call-overload]
            penalties.shrink_mlp(mlp, strength, self.settings.eps, self.settings.degree_weight, width)
        for attention in run.blocks.attentions if self.beta else []:
            strength = rates.get(attention.q.module.weight, 0.0) * self.beta  # type: ignore[call-overload]
            penalties.shrink_attention(attention, strength)

    def epoch_end(self, run: Run) -> None:
        """Merge each redundant head into its dominating head and remove it (Algorithm 2)."""
        if self.settings.theta is not None and self.begun(run, run.step - 1):
            gone = {attention.index: self._merge(run, attention) for attention in run.blocks.attentions}
            remove(run.model, gone, optimizer=run.optimizer)
        super().epoch_end(run)

    def _merge(self, run: Run, attention: Attention) -> list[int]:
        """Merge one layer's redundant heads as the settings say; return the query heads to be removed."""
        dominating = heads.find_dominating(heads.similarity(attention, self.settings.theta))
        if self.settings.merge == "output":
            heads.merge_output(attention, dominating)
        elif self.settings.merge == "mlp_in":
            kept, groups = kept_units(run.model), attention.groups
            positions = [head // groups for head in kept.heads[attention.index][::groups]]
            mlp = heads.mlp_of(attention, run.blocks.mlps)
            heads.merge_mlp_in(attention, mlp, dominating, positions, kept.dense_heads[attention.index] // groups)
        replaced = [head for head, dominant in enumerate(dominating.tolist()) if head != dominant]
        return heads.query_heads(attention, replaced)


class NeuroPruneRegulated(NeuroPrunePenalty):
    """The paper's penalties, with strengths regulated so that the run ends at a target sparsity.

    `alpha` and `beta` are where the strengths begin, and their ratio stays. At the end the smallest entries are set to
    zero until the count is exact; where the penalties did their work these are entries near `eps`.
    """

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self._begin = (
            FIRST_ALPHA if settings.alpha is None else settings.alpha,
            FIRST_BETA if settings.beta is None else settings.beta,
        )
        self.alpha, self.beta = self._begin
        self.control = StrengthControl(settings.sparsity or 0.0, settings.penalty_start, RAMP_END)
        self.report |= {"sparsity": settings.sparsity, "strengths": []}

    def start(self, run: Run) -> None:
        """Check the target; begin as the penalties do."""
        preconditions.check_target(run.model, self.control.target)
        super().start(run)

    def state_dict(self) -> State:
        """Return the report and the controller's state."""
        return super().state_dict() | nest("control", self.control.state_dict())

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the report and the controller."""
        super().resume(run, state)
        self.control.load_state(unnest("control", state))
        self._apply_factor()

    def before_step(self, run: Run) -> None:
        """Measure and regulate if it is time; then act as the penalties do."""
        if run.step % EVERY == 0 and self.begun(run, run.step):
            self._regulate(run)
        super().before_step(run)

    def zero_absent(self, run: Run) -> None:
        """Set the smallest weights to zero until the target is met exactly."""
        absent = self._absent(run, self.settings.eps)
        self.report["absent"] = absent
        if absent < self.control.target - SHORTFALL:
            logger.warning(
                "the penalties left %.1f %% of the weights absent, short of the target of %.1f %%; the smallest of the "
                "others are set to zero: train for more steps or at a higher learning rate",
                100 * absent,
                100 * self.control.target,
            )
        zero_smallest(run, round(self.control.target * prunable_weights(run.model)))

    def _regulate(self, run: Run) -> None:
        progress, rate = run.step / run.total_steps, max(run.learning_rates().values())
        absent = self._absent(run, absence_threshold(self.settings.eps, rate))
        self.control.update(progress, absent)
        self._apply_factor()
        if run.step // EVERY % REPORTED == 0:
            self.report["strengths"].append({"step": run.step, "absent": absent, "factor": self.control.factor})

    def _apply_factor(self) -> None:
        self.alpha, self.beta = (strength * self.control.factor for strength in self._begin)

    def _absent(self, run: Run, threshold: float) -> float:
        """Return the share of the dense model's prunable weights that are removed or below a threshold."""
        entries = absent_entries(prunable_projections(run.blocks), threshold)
        return (entries + removed_weights(run.model)) / prunable_weights(run.model)


class NeuroPrune(Method):
    """NeuroPrune: `NeuroPrune(sparsity=0.8)` or `NeuroPrune(heads=50)` or both meet a target;
    `NeuroPrune(alpha=, beta=, theta=)` is the paper's algorithm, `NeuroPrune(sparsity=0.8, algorithm="penalties")` the
    same with strengths that are regulated towards a target.

    Add it to a Trainer, `Trainer(..., callbacks=[NeuroPrune(sparsity=0.8)])`, or call its hooks (see `hooks.Hooks`).
    The model gets smaller while it trains; afterwards `report` lists what was removed at which step.

    Args:
        **fields: See `neuroprune.config.settings.NeuroPruneSettings`.
    """

    settings_class = NeuroPruneSettings
    settings: NeuroPruneSettings

    def make_strategy(self) -> NeuroPruneTarget | NeuroPrunePenalty:
        """Return a new strategy of the algorithm that the settings ask for."""
        if self.settings.form == "target":
            return NeuroPruneTarget(self.settings)
        return (
            NeuroPrunePenalty(self.settings) if self.settings.sparsity is None else NeuroPruneRegulated(self.settings)
        )
