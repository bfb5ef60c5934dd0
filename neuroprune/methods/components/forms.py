"""What methods share in their two forms: events that lead to a target, and penalties in every step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.config.settings import L1Settings, NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.base import Hooks, Run
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.state_files import State, nest, unnest
from neuroprune.methods.components.zero_mask import KeptZeros
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import (
    cubic_schedule,
    event_steps,
    measure_sparsity,
    prunable_projections,
    prunable_weights,
)
from neuroprune.pruning.surgery import kept_units, remove_zero_units

REWARM = 0.03  # share of the steps over which the learning rate rises again after the last event

logger = logging.getLogger(__name__)


class TargetForm(Hooks):
    """Removal events that end exactly at a sparsity, then training at a raised learning rate.

    Args:
        settings: `sparsity` (None if no share is asked for), `start`, `end`, `events`, `post_lr` and
            `freeze_embeddings` are read here.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.report: dict[str, Any] = {"form": "target", "sparsity": self.settings.sparsity, "events": []}
        self.zeros = KeptZeros()
        self._rate: RaisedRate | None = None
        self._frozen: list[Tensor] = []

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Bring the number of zero or removed weights to `goal`, exactly so at the last event."""
        raise NotImplementedError

    def start(self, run: Run) -> None:
        """Plan the events that are still to come."""
        preconditions.check_rate(run.optimizer, "post_lr", self.settings.post_lr)
        if self.settings.sparsity is not None:
            preconditions.check_target(run.model, self.settings.sparsity)
        self._plan(run)
        self.report["head_distances"] = head_distances(run.model)
        if not self.events:
            self._go_on(run)

    def state_dict(self) -> State:
        """Return the report so far, the zeros that are held, and where the learning rate and the embeddings are."""
        values = {"report": self.report, "frozen": bool(self._frozen), "plan": self.plan}
        rate = {} if self._rate is None else nest("rate", self._rate.state_dict())
        return values | rate | nest("zeros", self.zeros.state_dict(self._model))

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Keep the plan, in a longer run too; hold the same zeros, follow the learning rate further."""
        self._plan(run, state.get("plan"))
        self.report.update(state["report"])
        self.zeros = KeptZeros.from_state(run.model, unnest("zeros", state))
        if rate := unnest("rate", state):
            self._rate = RaisedRate(self.settings.post_lr, run)
            self._rate.load_state(rate)
        if state["frozen"]:
            self._frozen = freeze_embeddings(run.model)

    def after_step(self, run: Run) -> None:
        """Hold zeros, take an event if it is time, follow the learning rate."""
        self.zeros.apply()
        if run.step in self.events:
            self._take_event(run, self.events.pop(run.step))
        if self._rate is not None:
            self._rate.follow(run)

    def finish(self, run: Run) -> None:
        """Remove what is entirely zero, set embeddings free again and complete the report."""
        self.abandon()
        self.zeros.apply()
        if self.events:
            logger.warning("training ended at step %d, before the events at %s", run.step, sorted(self.events))
        remove_zero_units(run.model, run.optimizer)
        self.report["removed_heads"] = removed_heads(run.model)

    def abandon(self) -> None:
        """Set embeddings free again."""
        while self._frozen:
            self._frozen.pop().requires_grad_(True)

    def _plan(self, run: Run, plan: Sequence[tuple[int, float]] | None = None) -> None:
        """Find the steps of the events to come, and the share of the weights that each leads to; or keep a plan."""
        self._model = run.model
        steps = event_steps(run.total_steps, self.settings.start, self.settings.end, self.settings.events)
        shares = cubic_schedule(self.settings.sparsity or 0.0, len(steps))
        self.plan = list(zip(steps, shares, strict=True)) if plan is None else plan
        self.events = {step: share for step, share in self.plan if step > run.step}

    def _take_event(self, run: Run, share: float) -> None:
        last = not self.events
        self.prune(run, round(share * prunable_weights(run.model)), last)
        self.report["events"].append({"step": run.step, "asked": share} | reached(run.model))
        if last:
            self._after_last(run)

    def _after_last(self, run: Run) -> None:
        """Freeze the embeddings and begin to raise the learning rate."""
        if self.settings.freeze_embeddings:
            self._frozen = freeze_embeddings(run.model)
        if self.settings.post_lr != 1:
            self._rate = RaisedRate(self.settings.post_lr, run)

    def _go_on(self, run: Run) -> None:
        """Go on after the last event with a model that is cut already, and nothing else known."""
        found = measure_sparsity(run.model).weights
        if found < (self.settings.sparsity or 0.0) - 1e-3:
            raise UserError(
                f"training goes on at step {run.step} of {run.total_steps}, after the last event, with a model of "
                f"which {found:.1%} is gone instead of {self.settings.sparsity:.1%}; load the cut model with "
                "neuroprune.from_pretrained, or train from the beginning."
            )
        self.zeros = KeptZeros.of(run.model)
        if self.settings.freeze_embeddings:
            self._frozen = freeze_embeddings(run.model)


class PenaltyForm(Hooks):
    """A penalty in every step, coupled or decoupled, and the removal of what has become zero.

    Args:
        settings: `mode`, `eps` and `penalty_start` are read here.
    """

    def __init__(self, settings: L1Settings | NeuroPruneSettings) -> None:
        self.settings: Any = settings
        self.report: dict[str, Any] = {"form": "penalty", "mode": settings.mode, "events": []}

    def add_gradients(self, run: Run) -> None:
        """Add the penalty's gradient to the weights' `.grad`."""
        raise NotImplementedError

    def shrink(self, run: Run, rates: Mapping[nn.Parameter, float]) -> None:
        """Take the penalty's proximal step, with strength in proportion to the weights' learning rates."""
        raise NotImplementedError

    def start(self, run: Run) -> None:
        """Find the blocks; note how far apart heads are."""
        self.blocks = find_blocks(run.model)
        self.report["head_distances"] = head_distances(run.model)

    def state_dict(self) -> State:
        """Return the report so far; the rest is the model's."""
        return {"report": self.report}

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Find the blocks of the model as it is now."""
        self.blocks = find_blocks(run.model)
        self.report.update(state["report"])

    def begun(self, run: Run, step: int) -> bool:
        """Tell whether a step, counted from 0, is one with a penalty."""
        return max(0, step) >= round(self.settings.penalty_start * run.total_steps)

    def before_step(self, run: Run) -> None:
        """Coupled: let the penalty's gradient pass through the optimizer."""
        if self.settings.mode == "coupled" and self.begun(run, run.step):
            self.add_gradients(run)

    def after_step(self, run: Run) -> None:
        """Decoupled: shrink the weights after the optimizer's step."""
        if self.settings.mode == "decoupled" and self.begun(run, run.step - 1):
            self.shrink(run, run.learning_rates())

    def epoch_end(self, run: Run) -> None:
        """Decoupled: remove units that are entirely zero, for speed; the coupled form leaves no exact zeros."""
        if self.settings.mode == "decoupled":
            remove_zero_units(run.model, run.optimizer)
        self.report["events"].append({"step": run.step} | reached(run.model))

    @torch.no_grad()
    def finish(self, run: Run) -> None:
        """Set what counts as absent to zero and remove the units that are then entirely zero."""
        for projection in prunable_projections(self.blocks):
            weight = projection.weight
            weight.masked_fill_(weight.abs() < self.settings.eps, 0)
        remove_zero_units(run.model, run.optimizer)
        self.report["events"].append({"step": run.step} | reached(run.model))
        self.report["removed_heads"] = removed_heads(run.model)


class RaisedRate:
    """A learning rate that rises linearly from zero to `factor` times its schedule over 3 % of the steps.

    Args:
        factor: Factor on the schedule in the end, > 0.
        run: The run as it stands; `follow` is to be called after this step and every later one.
    """

    def __init__(self, factor: float, run: Run) -> None:
        self._factor, self._first, self._now = factor, run.step, 1.0
        self._length = max(1, round(REWARM * run.total_steps))

    def follow(self, run: Run) -> None:
        """Set the rate of the step that comes next."""
        wanted = self._factor * min(1.0, (run.step - self._first + 1) / self._length)
        if wanted != self._now:
            run.scale_learning_rate(wanted / self._now)
            self._now = wanted

    def state_dict(self) -> State:
        """Return the first step, the present factor and the length; optimizer and schedule know the rate itself."""
        return {"first": self._first, "now": self._now, "length": self._length}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Follow the rate that another has begun to raise."""
        self._first, self._now = state["first"], state["now"]
        self._length = state.get("length", self._length)


def freeze_embeddings(model: nn.Module) -> list[Tensor]:
    """Stop the training of the embeddings: no gradient, no optimizer step, no decay.

    Args:
        model: Its embeddings are frozen, except those that are an output layer too, and position biases of attentions.

    Returns:
        The parameters that were free before.
    """
    output = getattr(model, "get_output_embeddings", lambda: None)()
    in_use = {module for attention in find_blocks(model).attentions for module in attention.module.modules()}
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding) and m not in in_use]
    tied = getattr(output, "weight", None)
    frozen = [e.weight for e in embeddings if e.weight.requires_grad and e.weight is not tied]
    for weight in frozen:
        weight.requires_grad_(False)
        weight.grad = None
    return frozen


def reached(model: nn.Module) -> dict[str, Any]:
    """Return what is gone after an event: share of the weights, numbers of heads and neurons."""
    found, kept = measure_sparsity(model), kept_units(model)
    return {
        "reached": found.weights,
        "heads_removed": sum(kept.dense_heads) - sum(map(len, kept.heads)),
        "neurons_removed": sum(kept.dense_neurons) - sum(map(len, kept.neurons)),
    }


def removed_heads(model: nn.Module) -> list[list[int]]:
    """Return, for each attention, the positions in the dense model of the heads that are gone."""
    kept = kept_units(model)
    return [sorted(set(range(of)) - set(left)) for of, left in zip(kept.dense_heads, kept.heads, strict=True)]


def head_distances(model: nn.Module) -> dict[str, float] | None:
    """Return minimum and quartiles of the distances between heads of the same layer, None if no layer has two."""
    found = []
    for attention in find_blocks(model).attentions:
        distance = heads.distances(attention)
        found.append(distance[torch.ones_like(distance, dtype=torch.bool).triu(diagonal=1)].cpu())
    values = torch.cat(found)
    if len(values) == 0:
        return None
    points = torch.quantile(values, torch.tensor([0.0, 0.25, 0.5, 0.75])).tolist()
    return dict(zip(("min", "q1", "median", "q3"), points, strict=True))
