"""Conversion of a run's record and timing to one row of the tidy table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pandas as pd

from neuroprune.config.canonical import json_hash
from neuroprune.config.settings import RunSettings
from neuroprune.results.environment import Environment
from neuroprune.results.groups import Group
from neuroprune.results.records import Result, RunRecord, StepTimes, TimingRecord
from neuroprune.results.runs import ABLATED, GUESSES, OPTIONS, STRENGTHS

TIMED = ("timing_device", "timing_cpu", "timing_settings")  # machine and settings of the inference timing
TIMES = ("inference_ms_b", "dense_inference_ms_b", "speedup_b")  # columns of inference times, without the batch size
PENALISED = ("penalty", "regulated")  # forms whose strengths have columns


def row(study: str, run: RunRecord, timing: TimingRecord | None, group: Group) -> dict[str, Any]:
    """Flatten one run into a row of the tidy table."""
    machines = machine(run.environment) | _timed(timing)
    return _identity(study, run, group) | _outcome(run.result) | _times(timing) | machines


def _identity(study: str, run: RunRecord, group: Group) -> dict[str, Any]:
    """Return the columns that identify a run; all seeds of an experiment have the same ``group``."""
    settings, method = run.settings, run.settings.method
    form = getattr(method, "form", "")
    strengths = {name: getattr(method, name, None) if form in PENALISED else None for name in STRENGTHS}
    return {
        "study": study,
        "run": run.run,
        "group": group.name,
        "status": run.status,
        "dirty": run.environment.dirty,
        "commit": run.environment.commit,
        "variant": group.variant,
        "model": settings.model.name,
        "model_random": settings.model.source.startswith("random:"),
        "task": settings.task.name,
        "method": method.name,
        "form": form,
        "point": getattr(method, "sparsity", None),
        "heads_asked": getattr(method, "heads", None),
        "speedup_asked": getattr(method, "speedup", None),
        **strengths,
        **{name: getattr(method, name, None) if name in ABLATED.get(form, ()) else None for name in OPTIONS},
        "seed": settings.seed,
        "other_settings": _other_settings(settings, form),
    }


def _other_settings(settings: RunSettings, form: str) -> str:
    """Return a hash of all settings except run, seed, ``mode`` and the form's settings in ``ABLATED``."""
    ablated = {*ABLATED.get(form, ()), *(["mode"] if form in PENALISED else [])}
    rest = settings.model_dump(mode="json", exclude={"run": True, "seed": True, "method": ablated})
    return json_hash(rest)[:12]


def _outcome(result: Result) -> dict[str, Any]:
    """Return the columns with metrics, sparsity and costs."""
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
        "removed_heads": _listed(result.method.get("removed_heads") or ()),
        "parameters": sparsity.parameters,
        "dense_parameters": sparsity.dense_parameters,
        "empty_layers": [*sparsity.heads_per_layer, *sparsity.neurons_per_layer].count(0),
        "train_rows": result.train_rows,
        "eval_rows": result.eval_rows,
        "train_seconds": result.train_seconds,
        "train_seconds_without_eval": result.train_seconds - result.eval_seconds,
        "train_cpu_seconds": result.train_cpu_seconds,
        "seconds_per_step": result.seconds_per_step,
        **_step_times(result.step_times),
        "epochs": result.epochs,
        "steps": result.steps,
        "degree_sd_percent": result.degree_sd_percent,
    }


def _step_times(stretches: list[StepTimes]) -> dict[str, float]:
    """Return the median time of a training step in milliseconds, before the first cut and after the last one."""
    ends = {"first": stretches[0], "last": stretches[-1]} if stretches else {}
    return {f"step_ms_{name}": stretch.ms.median for name, stretch in ends.items()}


def _listed(layers: Iterable[Iterable[int]]) -> str:
    """Format one list of numbers per layer as text: `;0 3`."""
    return ";".join(" ".join(map(str, numbers)) for numbers in layers)


def _times(timing: TimingRecord | None) -> dict[str, Any]:
    """Return the timing columns of each batch size, such as ``inference_ms_b32``, with quartiles over passes."""
    row: dict[str, Any] = {}
    for batch in timing.batches if timing else []:
        kinds = {"inference_ms": batch.ms_per_example, "dense_inference_ms": batch.dense_ms_per_example}
        for kind, value in {**kinds, "speedup": batch.speedup}.items():
            name = f"{kind}_b{batch.batch_size}"
            row |= {name: value.median, f"{name}_q1": value.q1, f"{name}_q3": value.q3}
    return row


def _timed(timing: TimingRecord | None) -> dict[str, str | None]:
    """Return the columns ``TIMED``: machine, and settings that change times."""
    if timing is None or not timing.batches:
        return dict.fromkeys(TIMED)
    place, settings = machine(timing.environment), timing.settings
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    text = f"{threads}, {settings.precision}, {timing.batches[0].examples} rows"
    return dict(zip(TIMED, (place["device"], place["cpu"], text), strict=True))


def with_usual_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out inference times that were measured with other settings than most of the same model and task.

    Merged studies may have such times, and times with different threads, precisions or rows can't be compared.

    Args:
        rows: Rows of the tidy table.

    Returns:
        The same rows. A row whose times are left out has ``timing_settings``, but no ``timing_device``.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[_pair(row)].update(filter(None, [row["timing_settings"]]))
    usual = {pair: found.most_common(1)[0][0] for pair, found in counts.items() if found}
    return [row if row["timing_settings"] in (None, usual.get(_pair(row))) else _without_times(row) for row in rows]


def _pair(row: dict[str, Any]) -> tuple[str, str]:
    return row["model"], row["task"]


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if not name.startswith(TIMES)}
    return kept | {"timing_device": None, "timing_cpu": None}


def with_dense_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill in missing times of dense runs from timings of the dense model next to pruned ones.

    Args:
        rows: Rows of the tidy table.

    Returns:
        The same rows. A finished dense run without times gets a speed-up of 1 and the median ``dense_inference_ms_*``
        over the timed runs of its model and task that were trained on the same machine, and timed on the machine and
        with the settings of the first of them.
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
    """Return a dense run's times from the timings of other runs, all timed like the first of them."""
    timed = [{name: row[name] for name in TIMED} for row in beside]
    same = [row for row, how in zip(beside, timed, strict=True) if how == timed[0]]
    times = [{name: value for name, value in row.items() if name.startswith("dense_inference_ms_")} for row in same]
    row: dict[str, Any] = dict(timed[0]) if timed else {}
    for name, value in pd.DataFrame(times).median().items():
        row |= {str(name).removeprefix("dense_"): value, str(name): value}
        row[str(name).replace("dense_inference_ms", "speedup")] = 1.0
    return row


def machine(environment: Environment) -> dict[str, str]:
    """Return the machine on which a run was made."""
    return {"device": environment.device, "cpu": environment.cpu}
