"""Estimate of a study's cost on this machine: runs, time and disk space."""

from __future__ import annotations

from pathlib import Path

import torch

from neuroprune.config.cores import available_cores
from neuroprune.config.gpu_hours import cost
from neuroprune.config.plan import Plan
from neuroprune.config.workload import operations
from neuroprune.errors import UserError
from neuroprune.results.outdated import has_record, repeated
from neuroprune.results.progress import minutes
from neuroprune.training.machine_speed import operations_per_second

RUN_SECONDS = 20.0  # core seconds per run in addition to training: loading, evaluation, timing
STUDY_SECONDS = 60.0  # seconds for tables, figures and report


def estimate(plan: Plan, cores: str = "all") -> str:
    """Estimate the time and disk space for the runs of a study that have no record with the planned settings.

    Args:
        plan: The study.
        cores: Number of cores, or `all`.

    Returns:
        One paragraph.

    Raises:
        UserError: If `cores` is invalid.
    """
    runs = {name: run for name, run in plan.runs.items() if not has_record(Path(plan.study.folder), run)}
    done = len(plan.runs) - len(runs)
    heading = f"{plan.study.study}: {len(plan.runs)} runs" + (f", {done} of them done" if done else "")
    stored = set(plan.runs if plan.study.keep_models else plan.timed)
    needed = cost(runs, stored)
    disk = f"{(needed.records + needed.models) / 1e9:.1f} GB of disk space in {plan.study.folder}"
    other = repeated(Path(plan.study.folder), runs.values())
    return " ".join(filter(None, [f"{heading}.", other, _time(plan, list(runs), _count(cores)), f"{disk}."]))


def _count(cores: str) -> int:
    if cores == "all":
        return available_cores()
    if not cores.isdecimal() or int(cores) < 1:
        raise UserError(f"--cores {cores}: give a number of cores, or `all`.")
    return int(cores)


def _time(plan: Plan, names: list[str], cores: int) -> str:
    """Describe how long runs take; count those with an unknown model or dataset."""
    runs = [plan.runs[name] for name in names]
    if torch.cuda.is_available():
        known = cost({name: plan.runs[name] for name in names}, ())
        return f"About {minutes(3600 * known.hours)} on one GPU{_unknown(known.unknown)}."
    work = [operations(run) for run in runs]
    speed = operations_per_second()
    seconds = sum(found or 0 for found in work) / speed + RUN_SECONDS * len(runs)
    total = minutes(seconds / cores + STUDY_SECONDS)
    many = f"{cores} core{'s' * (cores > 1)}"
    basis = f"{speed / 1e9:.0f} GFLOP/s per core, measured just now"
    return f"About {total} on {many} if nothing else runs ({basis}){_unknown(work.count(None))}."


def _unknown(count: int) -> str:
    return f", without the training of {count} runs whose model or dataset is unknown" if count else ""
