"""Collect a study's records into the tidy table ``runs.csv`` and ``provenance.json``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from neuroprune.config.canonical import canonical
from neuroprune.config.settings import RunSettings
from neuroprune.config.versions import earlier_versions, in_version
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json, write_text
from neuroprune.results.consistency import changed_files, check_metrics, check_times, wrong_times
from neuroprune.results.environment import PACKAGES
from neuroprune.results.groups import first_of_each_kind, groups, usual_first
from neuroprune.results.plain_text import csv_text
from neuroprune.results.records import (
    SCHEMA_VERSION,
    AnyRecord,
    RunRecord,
    TimingRecord,
    read_plan,
    read_record,
    read_timing,
)
from neuroprune.results.rows import machine, row, with_dense_times, with_usual_times
from neuroprune.results.runs import left_out_times, place_of

Found = tuple[RunRecord, TimingRecord | None]


def collect(study_dir: Path, output: Path | None = None) -> list[str]:
    """Write the study's tidy table, one row per run, and its provenance file next to it.

    If ``plan.json`` exists, rows follow its order and unplanned runs are left out. Otherwise rows are sorted by name.

    Args:
        study_dir: The study's folder, ``results/<study>``.
        output: The table; default ``<study_dir>/runs.csv``.

    Returns:
        One warning per problem that readers should know about: incomplete, diverged and unreadable runs.

    Raises:
        UserError: If no record can be read.
    """
    study_dir = Path(study_dir)
    plan = read_plan(study_dir)
    found, problems = _read_all(study_dir, plan)
    if not found:
        raise UserError(" ".join([f"{study_dir / 'runs'}: no run has a record; run the study first.", *problems[:1]]))
    of_run = groups([run.settings for run, _ in found], first_of_each_kind(_in_order(found, plan)))
    rows = with_usual_times([row(study_dir.name, *pair, group) for pair, group in zip(found, of_run, strict=True)])
    table = pd.DataFrame(with_dense_times(rows))
    notes = _notes(found, plan) + _left_out(study_dir, plan) + _other_timings(table) + problems
    write_text(Path(output or study_dir / "runs.csv"), csv_text(table))
    write_json(study_dir / "provenance.json", provenance([run for run, _ in found], notes))
    return notes


def provenance(runs: list[RunRecord], notes: Iterable[str] = ()) -> dict[str, Any]:
    """Summarize the origin of a study's numbers: versions, commits, hardware, and runs by status."""
    places = [run.environment for run in runs]
    versions = {name: sorted({place.versions.get(name, "?") for place in places}) for name in ("python", *PACKAGES)}
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": dict(sorted(Counter(run.status for run in runs).items())),
        "commits": sorted({place.commit or "none" for place in places}),
        "dirty_runs": sum(bool(place.dirty) for place in places),
        "versions": versions,
        "devices": sorted({place.device for place in places}),
        "cpus": sorted({place.cpu for place in places}),
        "platforms": sorted({place.platform for place in places}),
        "threads": sorted({place.threads for place in places if place.threads}),
        "first": min(place.started for place in places),
        "last": max(place.started for place in places),
        "training_seconds": round(sum(run.result.train_seconds for run in runs), 1),
        "notes": list(notes),
    }


def _in_order(found: list[Found], plan: dict[str, Any]) -> list[RunSettings]:
    """Return the settings of a study's runs in the plan's order, from their records where they exist.

    Without a plan, runs with the usual settings come first. Settings planned by another version of this program are
    left out.
    """
    settings = {run.run: run.settings for run, _ in found}
    if not plan["runs"]:
        return usual_first(settings.values())
    return [run for run in (settings.get(name) or _planned(values) for name, values in plan["runs"].items()) if run]


def _planned(values: Any) -> RunSettings | None:
    try:
        return RunSettings.model_validate(values)
    except ValidationError:
        return None


def _read_all(study_dir: Path, plan: dict[str, Any]) -> tuple[list[Found], list[str]]:
    """Read all records in the order of the plan; return them with one warning per problem."""
    names = list(plan["runs"]) or sorted(path.parent.name for path in study_dir.glob("runs/*/run.json"))
    found: list[Found] = []
    problems: list[str] = []
    for folder in (study_dir / "runs" / name for name in names):
        if pair := _read_run(folder, problems):
            found.append(pair)
    return found, problems


def _read_run(folder: Path, problems: list[str]) -> Found | None:
    """Read a run's record and timing; leave out and report files that contradict the record."""
    run = _read_or_note(_checked_record, folder / "run.json", problems)
    if run is None:
        return None
    if run.run != folder.name:
        problems.append(f"{folder}: contains the record of the run {run.run} and is left out; delete or rename it.")
        return None
    problems += changed_files(folder, run)
    timing = _read_or_note(read_timing, folder / "timing.json", problems)
    if timing is not None and (difference := wrong_times(run, timing)):
        problems.append(f"{folder / 'timing.json'}: {difference}; its times are left out. Delete it and time again.")
        timing = None
    return run, timing


def _checked_record(path: Path) -> RunRecord:
    """Read a record whose times and metrics agree with each other, the run's predictions and its evaluations."""
    run = read_record(path)
    check_times(path, run)
    check_metrics(path, run)
    return run


def _read_or_note(read: Callable[[Path], AnyRecord], path: Path, problems: list[str]) -> AnyRecord | None:
    """Read a record; return None if it is missing or damaged, and report damage."""
    try:
        return read(path) if path.exists() else None
    except UserError as error:
        problems.append(str(error))
        return None


def _notes(found: list[Found], plan: dict[str, Any]) -> list[str]:
    """Return warnings about missing, outdated, stopped, diverged, untimed and uncommitted-code runs."""
    runs = {run.run: run for run, _ in found}
    untimed = {run.run for run, timing in found if run.status == "done" and not (timing and timing.batches)}
    planned = plan["runs"]
    kinds = {
        "without a readable record": [name for name in planned if name not in runs],
        "made with other settings than the plan's": [name for name, run in runs.items() if _outdated(run, planned)],
        **earlier_versions(run.settings for run in runs.values()),
        "stopped before the end": [name for name, run in runs.items() if run.status == "stopped"],
        "finished, but their metric is not a number": [
            name for name, run in runs.items() if run.status == "done" and run.result.value is None
        ],
        "diverged, without a metric": [name for name, run in runs.items() if run.status == "diverged"],
        "not timed": [name for name in plan["timed"] if name in untimed],
        "timed on another machine than they were trained on": [run.run for run, timing in found if _moved(run, timing)],
        "made by code with uncommitted changes": [name for name, run in runs.items() if run.environment.dirty],
        **_other_content(runs.values()),
    }
    total = len(planned or runs)
    return [f"{len(names)} of {total} runs {kind}: {_some(names)}." for kind, names in kinds.items() if names]


def _other_content(runs: Iterable[RunRecord]) -> dict[str, list[str]]:
    """Return the runs whose data or model had another content than in most runs with the same settings of it."""
    named: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        task, model, made = run.settings.task, run.settings.model, run.environment
        contents = {f"data {task.name}": (task, made.data_sha256), f"model {model.name}": (model, made.model_sha256)}
        for part, (settings, found) in contents.items():
            if found:  # unknown in older records
                named[part, canonical(settings)][found].append(run.run)
    return {
        f"made with other content of the {part} than most (SHA-256 in their records), and not comparable": others
        for (part, _), by_hash in named.items()
        if (others := [name for names in sorted(by_hash.values(), key=len, reverse=True)[1:] for name in names])
    }


def _left_out(study_dir: Path, plan: dict[str, Any]) -> list[str]:
    """Return a warning about records that were not read because their runs are not in the plan."""
    names = sorted({path.parent.name for path in study_dir.glob("runs/*/run.json")} - set(plan["runs"]))
    are = "1 run is" if len(names) == 1 else f"{len(names)} runs are"
    return [f"{are} not in the plan and left out: {_some(names)}."] if plan["runs"] and names else []


def _other_timings(table: pd.DataFrame) -> list[str]:
    """Return a warning about inference times that were left out because of their settings."""
    names = list(left_out_times(table)["run"])
    text = "timed with other settings than most of their model and task; these times are left out"
    return [f"{len(names)} of {len(table)} runs {text}: {_some(names)}."] if names else []


def _outdated(run: RunRecord, planned: dict[str, Any]) -> bool:
    """Return whether the planned settings are invalid or differ from the record's in more than the method's version."""
    if run.run not in planned:
        return False
    wanted = _planned(planned[run.run])
    return wanted is None or _newest(wanted) != _newest(run.settings)


def _newest(run: RunSettings) -> RunSettings:
    return run.model_copy(update={"method": in_version(run.method)})


def _moved(run: RunRecord, timing: TimingRecord | None) -> bool:
    """Return whether inference was timed on a different machine from training."""
    if timing is None or not timing.batches:
        return False
    return place_of(**machine(timing.environment)) != place_of(**machine(run.environment))


def _some(names: list[str], most: int = 5) -> str:
    """List the first few names and count the rest."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
