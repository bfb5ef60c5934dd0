"""Checkpoints: an interrupted run resumes from the last complete one and ends with the same weights.

transformers' Trainer writes and reads them (model, optimizer, schedule, random states), the method adds its own state
(see `methods.components.state_files`), and this module adds `progress.json`. That file is written last. It contains the
state for the run's record, and the size and hash of every other file. A checkpoint that does not match it is never
used.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neuroprune import distributed
from neuroprune.config.jobs import CHECKPOINTS
from neuroprune.files.atomic import file_hash, finite, sync, text_hash, write_json
from neuroprune.methods.components.state_files import checkpoint_folder
from neuroprune.pruning.sparsity import event_steps

log = logging.getLogger(__name__)

MARK = "progress.json"
STDOUT = 1


@dataclass
class Progress:
    """State of a run's training, accumulated over all jobs that have worked on it.

    Args:
        identity: Everything that the result depends on: settings, data, code. Checkpoints with another identity are not
            used.
        train_seconds: Wall-clock time of training up to the checkpoint, including evaluations. Steps lost in an
            interrupted job and repeated count once.
        eval_seconds: The part of it spent on evaluation.
        cpu_seconds: Processor time of this process up to the checkpoint, including evaluations.
        eval_cpu_seconds: The part of it spent on evaluation.
        resumed_at: Steps at which jobs resumed.
        step_seconds: Times of the steps up to the checkpoint, one pair for each size of the model: the number of
            parameters, and a list with the seconds of each step.
        checkpoint: The folder to resume from; None at the beginning.
    """

    identity: Mapping[str, Any]
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    cpu_seconds: float = 0.0
    eval_cpu_seconds: float = 0.0
    resumed_at: list[int] = field(default_factory=list)
    step_seconds: list[Sequence[Any]] = field(default_factory=list)
    checkpoint: Path | None = None


def find_progress(folder: Path, identity: Mapping[str, Any]) -> Progress:
    """Find the newest intact checkpoint of a run; newer ones that cannot be used are deleted with a warning.

    Args:
        folder: The run's folder.
        identity: Everything that the result depends on, JSON-serializable.

    Returns:
        The progress stored in that checkpoint, or that of a run that starts from the beginning.
    """
    for checkpoint in sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=_step, reverse=True):
        try:
            progress = _load(checkpoint, identity)
        except (_Unusable, OSError) as problem:
            shutil.rmtree(checkpoint, ignore_errors=True)
            log.warning(
                "%s: %s; the checkpoint is deleted, and training resumes from an earlier one or starts again.",
                checkpoint,
                problem,
            )
        else:
            progress.resumed_at.append(_step(checkpoint))
            return progress
    return Progress(identity)


def delete_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a run."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


@contextmanager
def kept_log(folder: Path) -> Iterator[None]:
    """Preserve the log of an interrupted job through a hard link named `train.1.log`, or with the next number.

    Snakemake deletes a job's log before it restarts the job. The link is removed when the job succeeds. Nothing happens
    if the standard output is not the run's log, or the file system has no hard links.

    Args:
        folder: The run's folder, which contains the log `train.log`.
    """
    current, earlier = folder / "train.log", sorted(path.name for path in folder.glob("train.*.log"))
    if not (current.exists() and os.path.samestat(os.fstat(STDOUT), current.stat())):
        yield
        return
    interrupted = f"; logs of interrupted jobs: {', '.join(earlier)}" if earlier else ""
    print(f"Job started at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC{interrupted}", flush=True)
    link = folder / f"train.{len(earlier) + 1}.log"
    with suppress(OSError):
        link.hardlink_to(current)
    yield
    link.unlink(missing_ok=True)


@dataclass(frozen=True)
class Branch:
    """Copy of the checkpoint before the first removal, from which other runs continue.

    Args:
        folder: Folder of the copy, which must not exist yet. It is not created if the first removal follows the first
            step.
        start: Time of the first removal as a fraction of the steps.
        end: Time of the last removal as a fraction of the steps.
        events: Number of removals.
    """

    folder: Path
    start: float
    end: float
    events: int

    def step(self, steps: int) -> int:
        """Return the step before the first removal in a run of this many steps."""
        return event_steps(steps, self.start, self.end, self.events)[0] - 1


class Checkpoints(TrainerCallback):
    """Callback that makes the Trainer write checkpoints, keeps the last complete one, and accumulates times.

    It must follow the method and the step clock in the Trainer's callbacks.

    Args:
        progress: The run's progress so far.
        minutes: Time between checkpoints; 0: after every step; inf: never.
        branch: Optional copy of the checkpoint before the first removal.
    """

    def __init__(self, progress: Progress, minutes: float, branch: Branch | None = None) -> None:
        self._branch, self._branch_step = branch, -1
        self.progress, self._interval = progress, 60 * minutes
        self._before, self._cpu_before = progress.train_seconds, progress.cpu_seconds
        self._started = self._saved = time.perf_counter()
        self._cpu_started = time.process_time()

    def stop(self) -> None:
        """Update the training time."""
        self.progress.train_seconds = self._before + time.perf_counter() - self._started
        self.progress.cpu_seconds = self._cpu_before + time.process_time() - self._cpu_started

    def evaluate(self, evaluation: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap an evaluation function so that its processor time is accumulated.

        Args:
            evaluation: The Trainer's `evaluate`.

        Returns:
            A function with the same arguments and result.
        """

        @functools.wraps(evaluation)
        def timed(*args: Any, **kwargs: Any) -> Any:
            """Evaluate and accumulate the time."""
            started = time.process_time()
            try:
                return evaluation(*args, **kwargs)
            finally:
                self.progress.eval_cpu_seconds += time.process_time() - started

        return timed

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Compute the branch's step from the planned number of steps, which a run at dense cost exceeds later."""
        if self._branch is not None:
            self._branch_step = self._branch.step(state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a checkpoint if one is due; after an epoch's last step, hooks and evaluation come first."""
        if not float(state.epoch).is_integer():
            self._request(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a checkpoint if one is due."""
        self._request(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Add the time of an evaluation."""
        self.progress.eval_seconds += metrics.get("eval_runtime", 0.0)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as complete and delete earlier ones."""
        self.stop()
        distributed.wait()  # every process writes its own file
        if distributed.is_main():
            self._finish(checkpoint_folder(args, state), state)
        self._saved = time.perf_counter()

    def _finish(self, new: Path, state: Any) -> None:
        write_mark(new, self.progress)
        if self._branch is not None and state.global_step == self._branch_step:
            shutil.copytree(new, self._branch.folder)
        for old in new.parent.glob("checkpoint-*"):
            if old != new:
                shutil.rmtree(old)

    def _request(self, state: Any, control: Any) -> None:
        due = math.isfinite(self._interval) and distributed.from_main(self._is_due)
        due = due or state.global_step == self._branch_step
        control.should_save = control.should_save or (due and state.global_step < state.max_steps)

    def _is_due(self) -> bool:
        return time.perf_counter() - self._saved >= self._interval


class _Unusable(Exception):  # noqa: N818
    """A checkpoint must not be used; the message is the reason."""


def read_progress(checkpoint: Path) -> Progress:
    """Return the progress in a complete checkpoint."""
    return Progress(**_read_mark(checkpoint / MARK)["progress"])


def write_mark(checkpoint: Path, progress: Progress) -> None:
    """Write a checkpoint's `progress.json` once all its files are on disk."""
    files = {name: _fingerprint(path) for name, path in _files(checkpoint).items()}
    for path in [*_files(checkpoint).values(), checkpoint, checkpoint.parent]:
        sync(path)
    state = {key: value for key, value in asdict(progress).items() if key != "checkpoint"}
    content = finite({"progress": state, "files": files})
    write_json(checkpoint / MARK, {"sha256": _digest(content), **content})


def _load(checkpoint: Path, identity: Mapping[str, Any]) -> Progress:
    """Return the progress in a checkpoint; raise `_Unusable` unless its identity and files match."""
    mark = _read_mark(checkpoint / MARK)
    if mark["progress"]["identity"] != identity:
        raise _Unusable("it belongs to other settings, data or code")
    files = _files(checkpoint)
    if missing := mark["files"].keys() - files.keys():
        raise _Unusable(f"{min(missing)} is missing")
    if unknown := files.keys() - mark["files"].keys():
        raise _Unusable(f"{min(unknown)} is not part of it")
    for name, path in files.items():
        if mark["files"][name] != _fingerprint(path):
            raise _Unusable(f"{name} has changed since it was written")
    return Progress(**mark["progress"], checkpoint=checkpoint)


def _read_mark(path: Path) -> dict[str, Any]:
    """Return the content of a `progress.json`, checked against its own hash."""
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        intact = mark.pop("sha256") == _digest(mark)
    except FileNotFoundError:
        raise _Unusable(f"it was not completed: it has no {MARK}") from None
    except (ValueError, KeyError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise _Unusable(f"{MARK} has changed since it was written")
    return mark


def _files(checkpoint: Path) -> dict[str, Path]:
    """Return all files of a checkpoint except its mark, by their relative names."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {path.relative_to(checkpoint).as_posix(): path for path in files if path != checkpoint / MARK}


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def _digest(content: Mapping[str, Any]) -> str:
    return text_hash(json.dumps(content, sort_keys=True))


def _step(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name, -1 if the Trainer did not write it."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
