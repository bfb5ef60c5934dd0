"""Comparison of a study's CPU threads with the processor cores of this machine."""

from __future__ import annotations

import os

from neuroprune.config.plan import Plan
from neuroprune.config.training import TrainingSettings


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def too_many_threads(made: Plan, cores: int) -> list[str]:
    """Report experiments that use more concurrent CPU threads than there are cores.

    Args:
        made: The plan of a study.
        cores: Number of cores.

    Returns:
        One sentence per experiment and number of threads, and one for timing.
    """
    found = {
        f"experiments.{name}: {text}": None
        for name, runs in made.experiments.items()
        for run in runs
        if (text := crowded(made.runs[run].training, cores))
    }
    if made.timed and (threads := made.study.timing.threads) > cores:
        found[f"timing: threads: {threads} exceeds the {cores} cores of this machine; times will be too long"] = None
    return list(found)


def crowded(training: TrainingSettings, cores: int) -> str | None:
    """Report that a run uses more CPU threads than there are cores.

    Args:
        training: Its settings.
        cores: Number of cores.

    Returns:
        A sentence without location; None if there are enough cores.
    """
    processes, threads = training.processes, training.threads
    if (total := processes * threads) <= cores:
        return None
    made = f"threads: {threads}" if processes == 1 else f"processes: {processes} with threads: {threads}"
    return f"{made} makes {total} threads for the {cores} cores of this machine, which slows training down"
