"""Times of training steps for each size of the model during a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from neuroprune.results.records import StepTimes
from neuroprune.training.inference_time import quartiles

Mark = Any  # a point in time: seconds on the CPU, an event in the queue of a GPU
Stretch = Sequence[Any]  # steps at one model size: number of parameters, and the seconds of each step


class StepClock(TrainerCallback):
    """Callback that times every step, from its forward pass to the end of the method's `after_step`.

    On a GPU, events are queued at both ends and read later, so that the clock does not synchronize; on a CPU it is
    wall-clock time. Data loading, evaluation and checkpoints are excluded. The callback must follow the method in the
    Trainer's list.

    Args:
        stretches: Earlier steps of the run, in order. The steps of this job are appended, at the latest before a
            checkpoint.
    """

    def __init__(self, stretches: list[Stretch]) -> None:
        self._stretches = stretches
        self._open: deque[tuple[list[float], Mark, Mark]] = deque()
        self._begun: Mark = None

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start the clock; start a new stretch if the model's size has changed."""
        size = sum(parameter.numel() for parameter in model.parameters())
        if not self._stretches or size != self._stretches[-1][0]:
            self._stretches.append((size, []))
        self._begun = _mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock."""
        self._open.append((self._stretches[-1][1], self._begun, _mark()))
        while self._open and _is_over(self._open[0][2]):
            self._read()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read all pending marks."""
        self._finish()

    def times(self) -> list[StepTimes]:
        """Return the times for each size of the model, in order; synchronizes the device."""
        self._finish()
        return [
            StepTimes(parameters=size, steps=len(seconds), ms=quartiles(1000 * np.array(seconds)))
            for size, seconds in self._stretches
            if seconds
        ]

    def _finish(self) -> None:
        """Synchronize the device and read all pending marks."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        while self._open:
            self._read()

    def _read(self) -> None:
        """Read the oldest pair of marks."""
        seconds, begun, ended = self._open.popleft()
        seconds.append(round(ended - begun if isinstance(ended, float) else begun.elapsed_time(ended) / 1000, 6))


def _mark() -> Mark:
    """Return the current point in time; on a GPU, an event in its queue."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _is_over(mark: Mark) -> bool:
    """Return whether the device has reached a mark."""
    return isinstance(mark, float) or bool(mark.query())
