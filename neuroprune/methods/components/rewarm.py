"""Re-warming of the learning rate after the last pruning event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from neuroprune.methods.hooks import Run, State

REWARM = 0.03  # fraction of the run's steps


class RaisedRate:
    """Raise the learning rate linearly from zero to `factor` times its schedule, over 3 % of the run's steps.

    A `LambdaLR` (all schedules of transformers except two) gets higher base rates, so that logs show the actual rate.
    With another schedule or none, each optimizer step uses the raised rate, and the schedule's rate is restored after
    it, because a schedule may compute its next rate from the current one, from its own limits or from a metric. Logs
    then show the rate without the factor.

    Args:
        factor: Final multiple of the schedule, > 0; 1 leaves the schedule as it is.
    """

    def __init__(self, factor: float) -> None:
        self._factor, self._now = factor, 1.0
        self._first: int | None = None
        self._length = 1
        self._handles: list[Any] = []
        self._unraised: list[Any] = []
        self._depth = 0  # nesting depth of `step` calls: a custom `step` may call its class's, which has hooks too

    def begin(self, run: Run) -> None:
        """Start after the current step; call `follow` now and after every later step."""
        if self._factor != 1:
            self._first, self._length = run.step, max(1, round(REWARM * run.total_steps))

    def follow(self, run: Run) -> None:
        """Set the rate of the next step if re-warming has started."""
        if self._first is None:
            return
        wanted = self._factor * min(1.0, (run.step - self._first + 1) / self._length)
        if _scales_base_rates(run):
            if wanted != self._now:
                run.scale_learning_rate(wanted / self._now)
        elif not self._handles:
            before, after = run.optimizer.register_step_pre_hook, run.optimizer.register_step_post_hook
            self._handles = [before(self._raise), after(self._restore)]
        self._now = wanted

    def detach(self) -> None:
        """Remove the hooks from the optimizer."""
        while self._handles:
            self._handles.pop().remove()

    def state_dict(self) -> State:
        """Return the first step (None before `begin`), the current factor and the length."""
        return {"first": self._first, "now": self._now, "length": self._length}

    def load_state(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the progress of the re-warming; higher base rates are part of the restored schedule."""
        self._first, self._length = state["first"], state["length"]
        if _scales_base_rates(run):
            self._now = state["now"]
        else:
            self.follow(run)

    def _raise(self, optimizer: Any, *_: Any) -> None:
        if not self._depth:
            self._unraised = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self._now
        self._depth += 1

    def _restore(self, optimizer: Any, *_: Any) -> None:
        self._depth -= 1
        if not self._depth:
            for group, rate in zip(optimizer.param_groups, self._unraised, strict=True):
                group["lr"] = rate


def _scales_base_rates(run: Run) -> bool:
    """Return whether all rates of the schedule are multiples of its base rates."""
    schedule = run.scheduler
    return isinstance(schedule, LambdaLR) and type(schedule).get_lr is LambdaLR.get_lr and _owns(schedule, run)


def _owns(schedule: LambdaLR, run: Run) -> bool:
    """Return whether the schedule belongs to the run's optimizer."""
    optimizer: Any = schedule.optimizer
    return getattr(optimizer, "optimizer", optimizer) is run.optimizer
