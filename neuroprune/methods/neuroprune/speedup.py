"""NeuroPrune-FC with a target speed-up on this machine instead of a target sparsity."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from neuroprune import distributed
from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.components.latency import Example, LatencyTable, measure_table, ratio, smaller
from neuroprune.methods.components.unit_selection import (
    Chosen,
    UnitGroup,
    choose_units,
    fewest_units,
    may_empty,
    unit_groups,
)
from neuroprune.methods.hooks import Run, State
from neuroprune.methods.neuroprune.connectivity import NeuroPruneTarget
from neuroprune.pruning.sparsity import removed_weights

CLOSE = 0.03
"""Relative tolerance of the speed-up at which the search ends."""
TRIES = 5
"""Maximum number of candidates measured at an event."""
TABLES = 3
"""Maximum number of measurements of the latency table before a speed-up is rejected as unreachable."""
HALVINGS = 20
"""Number of bisection steps in the search for the number of weights."""

logger = logging.getLogger(__name__)


class NeuroPruneSpeedup(NeuroPruneTarget):
    """Strategy that removes the least connected units until the model reaches a speed-up over the dense one.

    After the first step, a latency table is measured: times of the model with fewer heads or fewer neurons in all
    layers. Each event uses it to predict the total number of weights to remove and removes its fraction of them. The
    last event measures candidates next to the current model and corrects the prediction.
    """

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self.wanted = settings.speedup or 1.0
        self.table: LatencyTable | None = None
        self.reached = 1.0
        self._example: Example | None = None
        self.report["speedup"] = {"asked": self.wanted, "measured": self.reached, "rows": settings.speedup_rows}

    def start(self, run: Run) -> None:
        """Reject runs with several processes; capture the first batch."""
        if distributed.count() > 1:
            raise UserError("speedup: can't be measured while training with several processes; give sparsity.")
        super().start(run)
        self._example = Example(run.model)

    def state_dict(self) -> State:
        """Return the state of NeuroPrune-FC and the latencies."""
        table = None if self.table is None else [self.table.attention, self.table.mlp]
        return super().state_dict() | {"latency": table, "speed": self.reached}

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Continue with the same latencies."""
        super().resume(run, state)
        self.reached = float(state["speed"])
        if state["latency"] is not None:
            self.table = LatencyTable(*([(int(n), float(s)) for n, s in table] for table in state["latency"]))
        if self.events:
            self._example = Example(run.model)

    def after_step(self, run: Run) -> None:
        """Measure the latencies after the first step, before the first event."""
        if self.table is None and self._example is not None:
            self.table = self._reachable_table(run)
        super().after_step(run)

    def abandon(self) -> None:
        """Remove hooks that an interrupted run has left on the model."""
        if self._example is not None:
            self._example.detach()
        super().abandon()

    def prune(self, run: Run, goal: int, last: bool) -> None:
        """Remove whole units: this event's part of the total or, at the last event, all that are still needed."""
        calibration = self._take_calibration(run)
        groups = unit_groups(run, self._scores(run, calibration), self.settings.min_share)
        room, self.reached = self._last_room(run, groups) if last else self._part(run, groups)
        self._remove_units(run, calibration, room)
        self.report["speedup"] |= {"measured": self.reached, "tokens": self._tokens()}
        if last and abs(self.reached / self.wanted - 1) > CLOSE:
            logger.warning("target speed-up %.2f, measured speed-up %.2f", self.wanted, self.reached)

    def _take_event(self, run: Run, share: float) -> None:
        super()._take_event(run, share)
        self.report["events"][-1] |= {"asked": None, "speedup": self.reached}

    def _batch(self) -> dict[str, Any]:
        assert self._example is not None
        return self._example.batch(self.settings.speedup_rows)

    def _tokens(self) -> int:
        """Return the length of the timed rows."""
        return max((value.shape[1] for value in self._batch().values() if value.dim() > 1), default=0)

    def _part(self, run: Run, groups: Sequence[UnitGroup]) -> tuple[int, float]:
        """Return the weights to remove at an event before the last, and the speed-up, at most the target."""
        removed = removed_weights(run.model)
        room = max(0, round(self._progress() * (removed + self._room(groups, self.wanted))) - removed)
        for part in (room >> halved for halved in range(TRIES)):
            speed = self._speed(run, groups, part)
            if speed <= self.wanted:
                break
        return part, speed

    def _speed(self, run: Run, groups: Sequence[UnitGroup], room: int) -> float:
        """Measure the speed-up over the dense model after the removal of this many weights."""
        return self.reached * ratio(run.model, smaller(run.model, _left(groups, room)), self._batch())

    def _room(self, groups: Sequence[UnitGroup], wanted: float) -> int:
        """Find the smallest number of removed weights with the wanted predicted speed-up over the dense model."""
        assert self.table is not None
        low, high = 0, sum(group.size * len(group.scores) for group in groups)
        for _ in range(HALVINGS):
            middle = (low + high) // 2
            if self.table.speedup(_left(groups, middle)) < wanted:
                low = middle
            else:
                high = middle
        return high

    def _last_room(self, run: Run, groups: Sequence[UnitGroup]) -> tuple[int, float]:
        """Measure candidates next to the current model and correct the prediction until the speed-up is met."""
        wanted, found = self.wanted, []
        for _ in range(TRIES):
            room = self._room(groups, wanted)
            speed = self._speed(run, groups, room)
            found.append((abs(speed / self.wanted - 1), room, speed))
            if found[-1][0] <= CLOSE:
                break
            wanted *= self.wanted / speed
        _, room, speed = min(found)
        return room, speed

    def _reachable_table(self, run: Run) -> LatencyTable:
        """Measure the latencies, again if other work on the machine may be why the speed-up is out of reach."""
        fewest = fewest_units(run, self.settings.min_share)
        counts = {block: min(fewest[block], block.units) for block in run.blocks.all}
        table = self._measure(run)
        for _ in range(TABLES - 1):
            if table.speedup(counts) >= self.wanted:
                break
            table = table.shortest(self._measure(run))
        most = table.speedup(counts)
        if self.wanted > most:
            raise UserError(
                f"speedup={self.wanted:g}: even with the fewest heads and neurons, this model is only "
                f"{math.floor(100 * most) / 100:g} times faster on this machine (batch size "
                f"{self.settings.speedup_rows}, measured {TABLES} times); lower speedup or min_share, or start again "
                "when less else runs on the machine."
            )
        return table

    def _measure(self, run: Run) -> LatencyTable:
        return measure_table(run.model, run.blocks, self._batch(), least=int(not may_empty(self.settings)))


def _left(groups: Sequence[UnitGroup], room: int) -> dict[Any, int]:
    """Return the units that each block keeps if this many weights are removed."""
    chosen: Chosen = choose_units(groups, room)
    return {group.block: len(group.scores) - len(chosen[group.block]) for group in groups}
