"""Re-warming of the learning rate after the last pruning event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuroprune.methods.hooks import Run, State

REWARM = 0.03  # fraction of the run's steps


class RaisedRate:
    """Raises the learning rate linearly from zero to `factor` times its schedule, over 3 % of the run's steps.

    Args:
        factor: Final multiple of the schedule, > 0; 1 leaves the schedule as it is.
    """

    def __init__(self, factor: float) -> None:
        self._factor, self._now = factor, 1.0
        self._first: int | None = None
        self._length = 1

    def begin(self, run: Run) -> None:
        """Begin after the current step; call `follow` then and after every later step."""
        if self._factor != 1:
            self._first, self._length = run.step, max(1, round(REWARM * run.total_steps))

    def follow(self, run: Run) -> None:
        """Set the rate of the next step, if the re-warming has begun."""
        if self._first is None:
            return
        wanted = self._factor * min(1.0, (run.step - self._first + 1) / self._length)
        if wanted != self._now:
            run.scale_learning_rate(wanted / self._now)
            self._now = wanted

    def state_dict(self) -> State:
        """Return the first step (None before `begin`), the current factor and the length.

        The rate itself is part of the optimizer and the schedule.
        """
        return {"first": self._first, "now": self._now, "length": self._length}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the progress of the re-warming."""
        self._first, self._now, self._length = state["first"], state["now"], state["length"]
