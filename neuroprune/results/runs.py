"""``runs.csv``: one row a run, made of a study's records. It is all that other tables and figures read of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from neuroprune.config.settings import RunSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json, write_text
from neuroprune.results.environment import PACKAGES, Environment
from neuroprune.results.records import (
    SCHEMA_VERSION,
    AnyRecord,
    Result,
    RunRecord,
    StepTimes,
    TimingRecord,
    read_plan,
    read_record,
    read_timing,
)

Found = tuple[RunRecord, TimingRecord | None]
STRENGTHS = ("alpha", "beta", "theta", "strength", "mode")
ABLATED = {  # settings by form
    "penalty": ("degree_weight", "merge", "eps"),
    "target": ("fold", "centred", "token_weights"),
}
OPTIONS = (*ABLATED["penalty"], *ABLATED["target"])
LAYERS = ("heads_per_layer", "removed_heads")  # one number or list of numbers a layer: `12;10`, `;0 3`
NAMES = ("study", "run", "group", "status", "model", "task", "method", "form", "metric")
LATER = ("other_settings", "timing_device", "timing_cpu")  # texts that tables of earlier versions lack
TEXTS = (*NAMES, "variant", "commit", "mode", *OPTIONS, *LAYERS, "device", "cpu")
GUESSES = {"majority": "most frequent class", "copied": "source's own words"}  # what needs no model
LABELS = {
    "dense": "dense",
    "neuroprune": "NeuroPrune",
    "l1": "l1",
    "cofi": "CoFi",
    "dsp": "DSP",
    "taylor": "Taylor",
    "random": "random",
}


def method_label(method: str, form: str = "") -> str:
    """Return a method's name as the paper writes it; the penalty form is marked."""
    return LABELS.get(method, method) + (" (penalty)" if form == "penalty" else "")


def collect(study_dir: Path, output: Path | None = None) -> list[str]:
    """Write the study's tidy table, one row a run, and its provenance beside it.

    Rows follow the plan (``plan.json``) if there is one, and runs that it does not name are left out; else the names.

    Args:
        study_dir: The study's folder, ``results/<study>``.
        output: The table; default ``<study_dir>/runs.csv``.

    Returns:
        One sentence for each thing a reader has to know: incomplete, diverged and unreadable runs.

    Raises:
        UserError: If there is no readable record at all.
    """
    study_dir = Path(study_dir)
    plan = read_plan(study_dir)
    found, problems = _read_all(study_dir, plan)
    if not found:
        raise UserError(" ".join([f"{study_dir / 'runs'}: no run has a record; run the study first.", *problems[:1]]))
    rows = with_dense_times([_row(study_dir.name, *records) for records in found])
    notes = _notes(found, plan) + _left_out(study_dir, plan) + problems
    write_text(Path(output or study_dir / "runs.csv"), pd.DataFrame(rows).to_csv(index=False))
    write_json(study_dir / "provenance.json", provenance([run for run, _ in found], notes))
    return notes


def read_runs(study_dir: Path) -> pd.DataFrame:
    """Read the tidy table that ``collect`` wrote.

    Args:
        study_dir: The study's folder.

    Returns:
        One row a run; empty texts are empty strings, missing numbers NaN.

    Raises:
        UserError: If the table is missing, empty or not one of ours.
    """
    path = Path(study_dir) / "runs.csv"
    try:
        runs = pd.read_csv(path, dtype=dict.fromkeys((*TEXTS, *LATER), str))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no table of runs ({error}); run `neuroprune collect --study {study_dir}`.") from error
    missing = [name for name in (*TEXTS, *STRENGTHS, "value", "sparsity", "seed") if name not in runs]
    if missing or runs.empty:
        raise UserError(
            f"{path}: has no {missing[0] if missing else 'rows'}; run `neuroprune collect --study {study_dir}`."
        )
    absent: dict[str, Any] = {**dict.fromkeys(GUESSES, np.nan), **dict.fromkeys(LATER, "")}
    runs = runs.assign(**{name: value for name, value in absent.items() if name not in runs})
    return runs.fillna(dict.fromkeys((*TEXTS, *LATER), ""))


def with_file(study_dir: Path, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the runs that have left a file of this name beside their record."""
    return runs[np.array([run_file(study_dir, run, name).exists() for run in runs["run"]], dtype=bool)]


def run_file(study_dir: Path, run: str, name: str) -> Path:
    """Return where a run leaves a file."""
    return Path(study_dir) / "runs" / run / name


def neuroprune_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the usual finished NeuroPrune runs of the paper's penalty form, or of the target form if there is none.

    Those that asked for a number of heads are left out where there are others.
    """
    ours = runs[(runs["status"] == "done") & (runs["method"] == "neuroprune") & (runs["variant"] == "")]
    done = at_sparsities(ours[ours["sparsity"].notna()])
    penalty = done[done["form"] == "penalty"]
    return penalty if len(penalty) else done


def at_sparsities(runs: pd.DataFrame) -> pd.DataFrame:
    """Leave out runs that asked for a number of heads where their model, task and method have others."""
    asked = runs["heads_asked"].notna()
    others = (~asked).groupby([runs[name] for name in ("model", "task", "method", "form")]).transform("any")
    return runs[~(asked & others.astype(bool))]


def usual_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Let rows without unusual options stand before the others."""
    return rows.sort_values("variant", key=lambda names: names != "", kind="stable")


def provenance(runs: list[RunRecord], notes: Iterable[str] = ()) -> dict[str, Any]:
    """Sum up where a study's numbers come from: versions, commits, hardware, runs by status."""
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


def _read_all(study_dir: Path, plan: dict[str, Any]) -> tuple[list[Found], list[str]]:
    """Read all records in the order of the plan, and say what could not be read."""
    names = list(plan["runs"]) or sorted(path.parent.name for path in study_dir.glob("runs/*/run.json"))
    found: list[Found] = []
    problems: list[str] = []
    for folder in (study_dir / "runs" / name for name in names):
        if run := _read_or_note(read_record, folder / "run.json", problems):
            found.append((run, _read_or_note(read_timing, folder / "timing.json", problems)))
    return found, problems


def _read_or_note(read: Callable[[Path], AnyRecord], path: Path, problems: list[str]) -> AnyRecord | None:
    """Read a record; without one, or if it is damaged, which is noted, there is none."""
    try:
        return read(path) if path.exists() else None
    except UserError as error:
        problems.append(str(error))
        return None


def _notes(found: list[Found], plan: dict[str, Any]) -> list[str]:
    """Say in sentences which runs are missing, outdated, stopped, diverged, not timed, or of uncommitted code."""
    runs = {run.run: run for run, _ in found}
    untimed = {run.run for run, timing in found if run.status == "done" and not (timing and timing.batches)}
    planned = plan["runs"]
    kinds = {
        "without a readable record": [name for name in planned if name not in runs],
        "made with other settings than the plan's": [name for name, run in runs.items() if _outdated(run, planned)],
        "averaged with a first seed of other settings": _mixed(runs.values()),
        "stopped before the end": [name for name, run in runs.items() if run.status == "stopped"],
        "diverged, without a metric": [name for name, run in runs.items() if run.status == "diverged"],
        "not timed": [name for name in plan["timed"] if name in untimed],
        "timed on another machine than they were trained on": [run.run for run, timing in found if _moved(run, timing)],
        "made by code with uncommitted changes": [name for name, run in runs.items() if run.environment.dirty],
    }
    total = len(planned or runs)
    return [f"{len(names)} of {total} runs {kind}: {_some(names)}." for kind, names in kinds.items() if names]


def _left_out(study_dir: Path, plan: dict[str, Any]) -> list[str]:
    """Say which records were not read as the plan does not name their runs."""
    names = sorted({path.parent.name for path in study_dir.glob("runs/*/run.json")} - set(plan["runs"]))
    return [f"{len(names)} runs are not in the plan and left out: {_some(names)}."] if plan["runs"] and names else []


def _outdated(run: RunRecord, planned: dict[str, Any]) -> bool:
    """Tell whether the plan asks for other settings than those of the record; fields that neither had are alike."""
    if run.run not in planned:
        return False
    try:
        return RunSettings.model_validate(planned[run.run]) != run.settings
    except ValidationError:  # a plan of another version
        return True


def _mixed(runs: Iterable[RunRecord]) -> list[str]:
    """Name the runs whose settings differ in more than the seed from those of the first run of their group."""
    first: dict[str, RunSettings] = {}
    alike = ((run, run.settings.model_copy(update={"run": "", "seed": 0})) for run in runs)
    return [run.run for run, settings in alike if first.setdefault(_group(run), settings) != settings]


def _moved(run: RunRecord, timing: TimingRecord | None) -> bool:
    """Tell whether inference was timed on another machine than the one that trained."""
    if timing is None or not timing.batches:
        return False
    return place_of(**_machine(timing.environment)) != place_of(**_machine(run.environment))


def _some(names: list[str], most: int = 5) -> str:
    """List the first few names and count the rest."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _row(study: str, run: RunRecord, timing: TimingRecord | None) -> dict[str, Any]:
    """Flatten one run to a row of the tidy table."""
    timed = _machine(timing.environment) if timing and timing.batches else dict.fromkeys(("device", "cpu"))
    machines = _machine(run.environment) | {f"timing_{name}": value for name, value in timed.items()}
    return _identity(study, run) | _outcome(run.result) | _times(timing) | machines


def _identity(study: str, run: RunRecord) -> dict[str, Any]:
    """Say what was run; ``group`` is the run's name without its seed, the same for all seeds of an experiment."""
    settings, method = run.settings, run.settings.method
    form = getattr(method, "form", "")
    strengths = {name: getattr(method, name, None) if form == "penalty" else None for name in STRENGTHS}
    return {
        "study": study,
        "run": run.run,
        "group": _group(run),
        "status": run.status,
        "dirty": run.environment.dirty,
        "commit": run.environment.commit,
        "variant": _variant(run),
        "model": settings.model.name,
        "model_random": settings.model.source.startswith("random:"),
        "task": settings.task.name,
        "method": method.name,
        "form": form,
        "point": getattr(method, "sparsity", None),
        "heads_asked": getattr(method, "heads", None),
        **strengths,
        **{name: getattr(method, name, None) if name in ABLATED.get(form, ()) else None for name in OPTIONS},
        "seed": settings.seed,
        "other_settings": _other_settings(settings, form),
    }


def _group(run: RunRecord) -> str:
    return run.run.removesuffix(f"-s{run.settings.seed}")


def _other_settings(settings: RunSettings, form: str) -> str:
    """Return a hash of all settings but run, seed and those of ``ABLATED`` and ``mode`` that the form has."""
    ablated = {*ABLATED.get(form, ()), *(["mode"] if form == "penalty" else [])}
    rest = settings.model_dump(mode="json", exclude={"run": True, "seed": True, "method": ablated})
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12]


def _variant(run: RunRecord) -> str:
    """Return the options in a run's name that tell it from the first run of its kind: ``events_1``, or nothing."""
    settings = run.settings
    kind = f"{settings.model.name}-{settings.task.name}-{settings.method.name}"
    options = re.search(r"-([a-z]{2}.*)-s\d+$", run.run.removeprefix(kind))
    return options.group(1) if options else ""


def _outcome(result: Result) -> dict[str, Any]:
    """Say how good, how sparse and how dear the model is."""
    sparsity = result.sparsity
    return {
        "metric": result.metric,
        "value": result.value,
        **{f"metric_{name}": value for name, value in result.metrics.items()},
        **{name: getattr(result, name) for name in GUESSES},
        "sparsity": sparsity.weights,
        "heads_gone": sparsity.heads,
        "neurons_gone": sparsity.neurons,
        "heads_left": sum(sparsity.heads_per_layer),
        "heads_per_layer": ";".join(map(str, sparsity.heads_per_layer)),
        "removed_heads": _listed(result.method.get("removed_heads", ())),
        "parameters": sparsity.parameters,
        "dense_parameters": sparsity.dense_parameters,
        "train_seconds": result.train_seconds,
        "train_seconds_without_eval": result.train_seconds - result.eval_seconds,
        "seconds_per_step": result.seconds_per_step,
        **_step_times(result.step_times),
        "epochs": result.epochs,
        "steps": result.steps,
        "degree_sd_percent": result.degree_sd_percent,
    }


def _step_times(stretches: list[StepTimes]) -> dict[str, float]:
    """Give the median milliseconds of a training step before the first cut and after the last one."""
    ends = {"first": stretches[0], "last": stretches[-1]} if stretches else {}
    return {f"step_ms_{name}": stretch.ms.median for name, stretch in ends.items()}


def _listed(layers: Iterable[Iterable[int]]) -> str:
    """Write lists of numbers, one a layer: `;0 3`."""
    return ";".join(" ".join(map(str, numbers)) for numbers in layers)


def layers_of(text: str) -> list[list[int]]:
    """Read a column of `LAYERS`: the numbers of each layer; no layers if the text is empty."""
    return [[int(number) for number in layer.split()] for layer in text.split(";")] if text else []


def _times(timing: TimingRecord | None) -> dict[str, Any]:
    """Give each batch size its columns, for instance ``inference_ms_b32``, with the quartiles over passes."""
    row: dict[str, Any] = {}
    for batch in timing.batches if timing else []:
        kinds = {"inference_ms": batch.ms_per_example, "dense_inference_ms": batch.dense_ms_per_example}
        for kind, value in {**kinds, "speedup": batch.speedup}.items():
            name = f"{kind}_b{batch.batch_size}"
            row |= {name: value.median, f"{name}_q1": value.q1, f"{name}_q3": value.q3}
    return row


def with_dense_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give dense runs that were not timed themselves the times that the dense model had beside other runs.

    Args:
        rows: Rows of the tidy table.

    Returns:
        The same rows; a finished dense run without times has the medians of the ``dense_inference_ms_*`` of the timed
        runs of its model and task that were trained on its machine, and a speed-up of 1.
    """
    beside: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if any(name.startswith("dense_inference_ms_") for name in row):
            beside[_place(row)].append(row)
    return [row | _dense_times(beside[_place(row)]) if _lacks_times(row) else row for row in rows]


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "task", "device", "cpu"))


def _lacks_times(row: dict[str, Any]) -> bool:
    timed = any(name.startswith("inference_ms_") for name in row)
    return row["method"] == "dense" and row["status"] == "done" and not timed


def _dense_times(beside: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a dense run's times: of what was measured beside other runs, that of the machine of the first of them."""
    machine = [{name: row[name] for name in ("timing_device", "timing_cpu")} for row in beside]
    same = [row for row, place in zip(beside, machine, strict=True) if place == machine[0]]
    times = [{name: value for name, value in row.items() if name.startswith("dense_inference_ms_")} for row in same]
    row: dict[str, Any] = dict(machine[0]) if machine else {}
    for name, value in pd.DataFrame(times).median().items():
        row |= {str(name).removeprefix("dense_"): value, str(name): value}
        row[str(name).replace("dense_inference_ms", "speedup")] = 1.0
    return row


def _machine(environment: Environment) -> dict[str, str]:
    """Say where it ran."""
    return {"device": environment.device, "cpu": environment.cpu}


def place_of(device: str, cpu: str) -> str:
    """Name a machine by its accelerator or, without one, by its processor."""
    return device if device != "cpu" else f"CPU {cpu}"
