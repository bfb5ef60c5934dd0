"""How long training steps take, and how much shorter they are once heads and neurons are gone."""

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

Mark = Any  # of a moment: seconds on the CPU, an event in the queue of a GPU
Stretch = Sequence[Any]  # steps at one size of the model: parameters, and a list of seconds, one a step


class StepClock(TrainerCallback):
    """Times every step from its forward pass to the end of what the method does after it.

    On a GPU an event is queued at both ends and read later, so that the clock makes nobody wait; elsewhere it is wall
    time. Reading data, evaluation and checkpoints are left out. It has to come after the method among the Trainer's
    callbacks.

    Args:
        stretches: The run's earlier steps, in order; this run's are added to it, those up to a checkpoint before other
            callbacks see to it.
    """

    def __init__(self, stretches: list[Stretch]) -> None:
        self._stretches = stretches
        self._open: deque[tuple[list[float], Mark, Mark]] = deque()
        self._begun: Mark = None

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start the clock; a model of another size than before opens a new stretch."""
        size = sum(parameter.numel() for parameter in model.parameters())
        if not self._stretches or size != self._stretches[-1][0]:
            self._stretches.append((size, []))
        self._begun = _mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it."""
        self._open.append((self._stretches[-1][1], self._begun, _mark()))
        while self._open and _is_over(self._open[0][2]):
            self._read()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read all clocks."""
        self._finish()

    def times(self) -> list[StepTimes]:
        """Return the stretches in which the model kept its size, in order; waits for the device."""
        self._finish()
        return [
            StepTimes(parameters=size, steps=len(seconds), ms=quartiles(1000 * np.array(seconds)))
            for size, seconds in self._stretches
            if seconds
        ]

    def _finish(self) -> None:
        """Wait for the device and read what is open."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        while self._open:
            self._read()

    def _read(self) -> None:
        """Read the oldest pair of marks."""
        seconds, begun, ended = self._open.popleft()
        seconds.append(round(ended - begun if isinstance(ended, float) else begun.elapsed_time(ended) / 1000, 6))


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
