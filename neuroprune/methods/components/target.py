"""Target form of a method: removal events up to an exact target sparsity, then training at a raised learning rate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from neuroprune.errors import UserError
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.dropout import ScaledDropout
from neuroprune.methods.components.embeddings import FrozenParameters, freeze_embeddings
from neuroprune.methods.components.removal_report import MISSED, head_distances, reached, removed_heads, warn_if_missed
from neuroprune.methods.components.rewarm import RaisedRate
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.unit_selection import may_empty
from neuroprune.methods.components.zero_mask import KeptZeros
from neuroprune.methods.hooks import Hooks, Run, State
from neuroprune.pruning.sparsity import cubic_schedule, event_steps, measure_sparsity, prunable_weights
from neuroprune.pruning.surgery import remove_zero_units

logger = logging.getLogger(__name__)


class TargetForm(Hooks):
    """Strategy with removal events up to an exact target, followed by training at a raised learning rate.

    Args:
        settings: Settings with `sparsity` (None without a target sparsity), `start`, `end`, `events`, `post_lr`,
            `post_dropout` and `freeze_embeddings`.
    """

    settles = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.report |= {"form": "target", "sparsity": settings.sparsity, "events": []}
        self.zeros = KeptZeros()
        self.plan: Sequence[tuple[int, float]] = []
        self.events: dict[int, float] = {}
        self._rate = RaisedRate(settings.post_lr)
        self._dropout = ScaledDropout(settings.post_dropout)
        self._frozen = FrozenParameters()

    @property
    def settled(self) -> bool:
        """Whether the last event has taken place."""
        return not self.events

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Raise the number of zero or removed weights to `goal`, approximately or, at the last event, exactly."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Return whether an event can take place, in all processes alike."""
        return True

    def complete(self, run: Run) -> None:
        """Remove all-zero units at the end of training."""
        remove_zero_units(run.model, run.optimizer, empty=may_empty(self.settings))

    def start(self, run: Run) -> None:
        """Plan the remaining events."""
        preconditions.check_rate(run, "post_lr", self.settings.post_lr)
        if self.settings.sparsity is not None:
            preconditions.check_target(run.model, self.settings.sparsity)
        self._plan(run)
        self.report["head_distances"] = head_distances(run.blocks)
        if not self.events:
            self._resume_without_state(run)

    def state_dict(self) -> State:
        """Return the report so far, the plan, the zeros, and the states of the learning rate and the embeddings."""
        state = {"report": self.report, "frozen": bool(self._frozen), "plan": self.plan}
        return state | nest("rate", self._rate.state_dict()) | nest("zeros", self.zeros.state_dict())

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Keep the original plan, even if the run is now longer; restore zeros, learning rate and frozen embeddings."""
        self._plan(run, state["plan"])
        self.report.update(state["report"])
        self.zeros = KeptZeros.from_state(run.blocks, unnest("zeros", state))
        self._rate.load_state(run, unnest("rate", state))
        if state["frozen"]:
            self._frozen = freeze_embeddings(run)
        if self.settled:
            self._dropout.begin(run.model)

    def after_step(self, run: Run) -> None:
        """Restore zeros, run an event if it is due, and update the learning rate.

        An event that is not ready is postponed by a step.
        """
        self.zeros.apply()
        if run.step in self.events:
            share = self.events.pop(run.step)
            if self.ready():
                self._take_event(run, share)
            else:
                self.events = {run.step + 1: share} | self.events
                self.plan = [*(event for event in self.plan if event[0] < run.step), *self.events.items()]
        self._rate.follow(run)

    def finish(self, run: Run) -> None:
        """Remove all-zero units, unfreeze the embeddings and complete the report; warn if the target is missed."""
        self.abandon()
        self.zeros.apply()
        self.complete(run)
        if self.events:
            logger.warning("training ended at step %d, before the events at %s", run.step, sorted(self.events))
        elif self.settings.sparsity is not None:
            warn_if_missed(run, self.settings.sparsity)
        self.report["removed_heads"] = removed_heads(run.model)

    def abandon(self) -> None:
        """Unfreeze the embeddings, restore dropout, and return control of the learning rate to its schedule."""
        self._frozen.release()
        self._dropout.release()
        self._rate.detach()

    def _plan(self, run: Run, plan: Sequence[tuple[int, float]] | None = None) -> None:
        """Compute the step of each event and the sparsity after it, unless a plan is given."""
        steps = event_steps(run.total_steps, self.settings.start, self.settings.end, self.settings.events)
        shares = cubic_schedule(self.settings.sparsity or 0.0, len(steps))
        self.plan = list(zip(steps, shares, strict=True)) if plan is None else plan
        self.events = {step: share for step, share in self.plan if step > run.step}

    def _take_event(self, run: Run, share: float) -> None:
        last = not self.events
        run.model.zero_grad()  # the step has used them; with the statistics they would dominate the peak memory
        self.prune(run, round(share * prunable_weights(run.model)), last)
        self.report["events"].append({"step": run.step, "asked": share} | reached(run.model))
        if last:
            self._after_last(run)

    def _after_last(self, run: Run) -> None:
        """Freeze the embeddings, reduce dropout, and start to raise the learning rate."""
        if self.settings.freeze_embeddings:
            self._frozen = freeze_embeddings(run)
        self._dropout.begin(run.model)
        self._rate.begin(run)

    def _resume_without_state(self, run: Run) -> None:
        """Continue after the last event with a cut model but without the saved method state."""
        found = measure_sparsity(run.model).weights
        if found < (self.settings.sparsity or 0.0) - MISSED:
            raise UserError(
                f"training resumes at step {run.step} of {run.total_steps}, after the last event, with a model of "
                f"{found:.1%} sparsity instead of {self.settings.sparsity:.1%}; load the cut model with "
                "neuroprune.from_pretrained, or train from the beginning."
            )
        self.zeros = KeptZeros.of(run.blocks)
        self._dropout.begin(run.model)
        if self.settings.freeze_embeddings:
            self._frozen = freeze_embeddings(run)
