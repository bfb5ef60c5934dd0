"""Comparison of a study's files with its plan, to find those that are missing or were made with other settings.

Snakemake knows earlier settings only from its metadata, which are lost when results are moved or ``.snakemake`` is
deleted. Heavy imports are avoided because Snakemake imports this module while it builds the job graph.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from neuroprune.config.canonical import canonical, settings_hash
from neuroprune.config.jobs import Job
from neuroprune.config.plan import Plan
from neuroprune.config.settings import RunSettings, TimingSettings
from neuroprune.config.versions import different_versions, named, version_of
from neuroprune.files.atomic import finite
from neuroprune.results.manifests import OF_DATA, OF_MODEL, is_usable
from neuroprune.results.records import RunRecord, TimingRecord, read_record, read_timing, read_valid


def has_record(folder: Path, run: RunSettings) -> bool:
    """Return whether a study's folder contains a valid record of a run with exactly these settings."""
    return _trained(_record(folder, run.run), run)


def repeated(folder: Path, runs: Iterable[RunSettings]) -> str:
    """Describe existing records that are replaced because they do not have the planned settings.

    Args:
        folder: The study's folder.
        runs: Planned runs.

    Returns:
        One sentence with the number of records and why they are replaced; empty if there are none.
    """
    stored = [(run, _record(folder, run.run)) for run in runs if (folder / "runs" / run.run / "run.json").exists()]
    reasons = Counter(_reason(record, run) for run, record in stored if not _trained(record, run))
    if not reasons:
        return ""
    parts = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    runs_have = "1 run has" if reasons.total() == 1 else f"{reasons.total()} runs have"
    return f"{runs_have} a record that does not count and will be repeated: {parts}."


def _reason(record: RunRecord | None, run: RunSettings) -> str:
    """Describe why a record does not count for a planned run."""
    if record is None:
        return "cannot be read"
    if different_versions(record.settings.method, run.method):
        return f"made by {named(record.settings.method)} instead of version {version_of(run.method)}"
    return "made with other settings"


def is_written(plan: Plan) -> bool:
    """Return whether ``plan.json`` contains this plan, in the same order because tables follow it."""
    try:
        written = json.loads(Path(plan.study.folder, "plan.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return json.dumps(written) == json.dumps(finite(plan.as_dict()))


def outdated_files(plan: Plan, name: str, job: Job) -> list[str]:
    """Return the files of a job that must be made again.

    Settings are compared as in `training.job`, which decides for each run whether it is repeated.

    Args:
        plan: The plan.
        name: The job's name.
        job: The job.

    Returns:
        Paths of the lists ``runs.json`` and ``timings.json`` that are missing, or list a file that is missing or has
        other settings, and of the manifests of data and model if they are needed and can't be read, or a record
        has other settings of these.
    """
    folder, first = Path(plan.study.folder), plan.runs[job.runs[0]]
    records = {run: _record(folder, run) for run in job.runs}
    missing = [run for run in job.runs if not _trained(records[run], plan.runs[run])]
    timed = all(timed_with(_times(folder, run), plan.study.timing) for run in job.timed)
    done = timed and not missing
    others = [record.settings for run in missing if (record := records[run]) is not None]
    runs, timings = (folder / "jobs" / name / file for file in ("runs.json", "timings.json"))
    data, model = folder / "data" / f"{first.task.name}.json", folder / "models" / f"{first.model.name}.json"
    current = {
        data: done or (is_usable(data, OF_DATA) and all(_equal(other.task, first.task) for other in others)),
        model: done or (is_usable(model, OF_MODEL) and all(_equal(other.model, first.model) for other in others)),
        runs: not missing and runs.exists(),
        timings: timed and (timings.exists() or not job.timed),
    }
    return [str(path) for path, is_current in current.items() if not is_current]


def _equal(one: BaseModel, other: BaseModel) -> bool:
    return settings_hash(one) == settings_hash(other)


def _trained(record: RunRecord | None, run: RunSettings) -> bool:
    return record is not None and _equal(record.settings, run)


def timed_with(times: TimingRecord | None, timing: TimingSettings) -> bool:
    """Return whether there are times, measured with these settings."""
    return times is not None and canonical(times.settings, "timing") == canonical(timing, "timing")


def _record(folder: Path, run: str) -> RunRecord | None:
    return read_valid(read_record, folder / "runs" / run / "run.json")


def _times(folder: Path, run: str) -> TimingRecord | None:
    return read_valid(read_timing, folder / "runs" / run / "timing.json")
