"""Checkpoints of a run: a training job that was killed goes on from the last one and ends with the same weights.

transformers' Trainer writes and reads them (model, optimizer, schedule, random states); the method puts its state
beside (see `methods.states`), and here follows what the run's record needs. That file comes last and marks a checkpoint
as whole; only then the one before is deleted.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neuroprune import distributed
from neuroprune.files.atomic import write_json

FOLDER, MARK = "checkpoints", "progress.json"
STDOUT = 1


@dataclass
class Progress:
    """How far a run has come, over all the jobs that have worked on it.

    Args:
        identity: What the run depends on: settings, data, code. A checkpoint of another identity is of no use.
        train_seconds: Wall time of training up to the checkpoint, evaluations included. Steps that were lost with a
            killed job and taken again count once.
        eval_seconds: Part of it that was evaluation.
        resumed_at: Steps at which a job went on where another was killed.
        step_seconds: Times of the steps up to the checkpoint, a pair for each size of the model: its parameters, and a
            list with the seconds of each step.
        checkpoint: The folder to go on from; None at the beginning.
    """

    identity: Mapping[str, Any]
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    resumed_at: list[int] = field(default_factory=list)
    step_seconds: list[Sequence[Any]] = field(default_factory=list)
    checkpoint: Path | None = None


def find_progress(folder: Path, identity: Mapping[str, Any]) -> Progress:
    """Find where a run can go on; what can't be gone on from is deleted.

    Args:
        folder: The run's folder.
        identity: What the run depends on, JSON-able.

    Returns:
        The progress of the newest whole checkpoint with this identity, or that of a run that is about to begin.
    """
    found = Progress(identity)
    for checkpoint in sorted((folder / FOLDER).glob("checkpoint-*"), key=_step, reverse=True):
        stored = _read(checkpoint / MARK)
        if found.checkpoint is None and stored.get("identity") == identity:
            found = Progress(**stored, checkpoint=checkpoint)
            found.resumed_at.append(_step(checkpoint))
        else:
            shutil.rmtree(checkpoint)
    return found


def delete_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a run."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


@contextmanager
def kept_log(folder: Path) -> Iterator[None]:
    """Keep the words of a job that is killed: give its log a second name, `train.1.log` or the next number.

    Snakemake deletes a job's log before it starts the job again. A job that ends well has no use for the second name.
    Nothing happens where the standard output is not the run's log, or the disk knows no second names.

    Args:
        folder: The run's folder, in which the log is `train.log`.
    """
    log, earlier = folder / "train.log", sorted(path.name for path in folder.glob("train.*.log"))
    if not (log.exists() and os.path.samestat(os.fstat(STDOUT), log.stat())):
        yield
        return
    words = f"; of jobs that were killed: {', '.join(earlier)}" if earlier else ""
    print(f"A job begins at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC{words}", flush=True)
    second = folder / f"train.{len(earlier) + 1}.log"
    with suppress(OSError):
        second.hardlink_to(log)
    yield
    second.unlink(missing_ok=True)


class Checkpoints(TrainerCallback):
    """Has the Trainer write a checkpoint from time to time, keeps the last whole one, and adds up times.

    It has to come after the method and the clock of the steps among the Trainer's callbacks.

    Args:
        progress: How far the run has come.
        minutes: Time between checkpoints; 0: after every step; inf: never.
    """

    def __init__(self, progress: Progress, minutes: float) -> None:
        self.progress, self._interval = progress, 60 * minutes
        self._before = progress.train_seconds
        self._started = self._saved = time.perf_counter()

    def stop(self) -> None:
        """Bring the training time up to date."""
        self.progress.train_seconds = self._before + time.perf_counter() - self._started

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint if it is time; an epoch's last step waits for its hooks and its evaluation."""
        if not float(state.epoch).is_integer():
            self._ask(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint if it is time."""
        self._ask(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Add the time of an evaluation."""
        self.progress.eval_seconds += metrics.get("eval_runtime", 0.0)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole and delete the one before."""
        self.stop()
        distributed.wait()  # each process has a file in it
        if distributed.is_main():
            self._mark(Path(args.output_dir), state)
        self._saved = time.perf_counter()

    def _mark(self, folder: Path, state: Any) -> None:
        new = folder / f"checkpoint-{state.global_step}"
        write_json(new / MARK, {key: value for key, value in asdict(self.progress).items() if key != "checkpoint"})
        for old in folder.glob("checkpoint-*"):
            if old != new:
                shutil.rmtree(old)

    def _ask(self, state: Any, control: Any) -> None:
        due = math.isfinite(self._interval) and distributed.from_main(self._is_due)
        control.should_save = control.should_save or (due and state.global_step < state.max_steps)

    def _is_due(self) -> bool:
        return time.perf_counter() - self._saved >= self._interval


def _step(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name, -1 if it is none of the Trainer's."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _read(mark: Path) -> dict[str, Any]:
    """Return what a mark says; nothing if there is none, or it is damaged."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
