"""How long training steps take, and how much shorter they are once heads and neurons are gone."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from neuroprune.records import StepTimes
from neuroprune.timing import quartiles

Mark = Any  # of a moment: seconds on the CPU, an event in the queue of a GPU


class StepClock(TrainerCallback):
    """Times every step from its forward pass to the end of what the method does after it.

    On a GPU an event is queued at both ends and read later, so that the clock makes nobody wait; elsewhere it is wall
    time. Reading data, evaluation and checkpoints are left out. It has to come after the method among the Trainer's
    callbacks.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []  # one an entry of _seconds
        self._seconds: list[list[float]] = []
        self._open: deque[tuple[list[float], Mark, Mark]] = deque()
        self._begun: Mark = None

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start the clock; a model of another size than before opens a new stretch."""
        size = sum(parameter.numel() for parameter in model.parameters())
        if not self._sizes or size != self._sizes[-1]:
            self._sizes.append(size)
            self._seconds.append([])
        self._begun = _mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it."""
        self._open.append((self._seconds[-1], self._begun, _mark()))
        while self._open and _is_over(self._open[0][2]):
            self._read()

    def stretches(self) -> list[StepTimes]:
        """Return the stretches in which the model kept its size, in order; waits for the device."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        while self._open:
            self._read()
        timed = zip(self._sizes, self._seconds, strict=True)
        return [
            StepTimes(parameters=size, steps=len(seconds), ms=quartiles(1000 * np.array(seconds)))
            for size, seconds in timed
            if seconds
        ]

    def _read(self) -> None:
        """Read the oldest pair of marks."""
        seconds, begun, ended = self._open.popleft()
        seconds.append(ended - begun if isinstance(ended, float) else begun.elapsed_time(ended) / 1000)


def _mark() -> Mark:
    """Mark this moment, on a GPU in its queue."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _is_over(mark: Mark) -> bool:
    """Tell whether the device has come to a mark."""
    return isinstance(mark, float) or bool(mark.query())
