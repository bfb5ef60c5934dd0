"""Progress of a running study: finished runs, their results, and the remaining time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuroprune.config.settings import RunSettings
from neuroprune.config.workload import shares
from neuroprune.results.outdated import has_record

SECONDS = 2.0  # seconds between two checks of the folder
STARTED = 0.5  # assumed progress of a run in training


class Progress:
    """Track a study's progress by reading the records of its runs as they appear.

    Args:
        folder: The study's folder.
        runs: All planned runs by name. Records with other settings do not count, because these runs are repeated.
        clock: Function that returns the current time in seconds.
    """

    def __init__(
        self, folder: Path, runs: Mapping[str, RunSettings], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._runs, self._shares, self._clock = folder, runs, shares(runs), clock
        self._counted: dict[tuple[str, int], bool] = {}
        self._times = self._find()
        self._began, self._earlier = clock(), sum(self._shares[name] for name in self._times)
        self._logs = {name: _mtime(self._path(name, "train.log")) for name in self._shares}

    @property
    def finished(self) -> bool:
        """Whether every run has a record with the planned settings."""
        return len(self._times) == len(self._shares)

    @property
    def unfinished(self) -> list[RunSettings]:
        """Settings of the runs without a record with the planned settings."""
        return [run for name, run in self._runs.items() if name not in self._times]

    def news(self) -> list[str]:
        """Return one line per run finished since the last call: its result and the study's remaining time."""
        found = self._find()
        new = sorted((name for name in found if found[name] != self._times.get(name)), key=found.__getitem__)
        self._times = found
        return [self._line(name, number) for number, name in enumerate(new, start=len(found) - len(new) + 1)]

    def _line(self, name: str, number: int) -> str:
        rest = "" if self.finished else f"; {self._left()}"
        return f"{number} of {len(self._shares)} runs: {name}, {_result(self._path(name, 'run.json'))}{rest}"

    def _left(self) -> str:
        """Estimate the remaining time from the speed so far; runs in progress count as half done."""
        done = sum(self._shares[name] for name in self._times)
        half = STARTED * sum(self._shares[name] for name in self._shares if self._at_work(name))
        speed = (done + half - self._earlier) / max(self._clock() - self._began, 1e-9)
        if speed <= 0:
            return "remaining time unknown"
        return f"training takes about {minutes((1 - done - half) / speed)} more"

    def _at_work(self, name: str) -> bool:
        return name not in self._times and _mtime(self._path(name, "train.log")) != self._logs[name]

    def _find(self) -> dict[str, int]:
        """Return the time of each record with the planned settings; read only those that are new."""
        times = {name: _mtime(self._path(name, "run.json")) for name in self._runs}
        return {name: written for name, written in times.items() if written is not None and self._counts(name, written)}

    def _counts(self, name: str, written: int) -> bool:
        """Return whether a record written at this time has the planned settings."""
        if (name, written) not in self._counted:
            self._counted[name, written] = has_record(self._folder, self._runs[name])
        return self._counted[name, written]

    def _path(self, run: str, file: str) -> Path:
        return self._folder / "runs" / run / file


def watch(progress: Progress, say: Callable[[str], None], seconds: float = SECONDS) -> threading.Thread:
    """Start a daemon thread that reports progress until the last run has finished.

    Args:
        progress: The study's progress.
        say: Called with each line.
        seconds: Time between two checks.

    Returns:
        The thread, started.
    """

    def look() -> None:
        """Report news until all runs have finished."""
        while not progress.finished:
            time.sleep(seconds)
            for line in progress.news():
                say(line)

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    return thread


def minutes(seconds: float) -> str:
    """Format a duration: in seconds below 1.5 min, in hours from 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _result(path: Path) -> str:
    """Return a short description of a record's result."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        result = record["result"] or {}
        if record["status"] != "done":
            return str(record["status"])
        value = "is not a number" if result["value"] is None else f"{result['value']:.3f}"
        return f"{result['metric']} {value}, {minutes(result['train_seconds'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its record cannot be read"
