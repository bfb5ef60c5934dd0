"""A small synthetic results folder with valid records, for tests of tables and figures.

The values follow simple formulas, so that means and spreads can be checked by hand: seed s of 0, 1, 2 shifts the metric
by (s - 1) / 100, so three seeds have the mean of the formula and a standard deviation of 0.01.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from neuroprune.config.canonical import settings_hash
from neuroprune.config.settings import ModelSettings, RunSettings, TaskSettings, TimingSettings
from neuroprune.config.training import TrainingSettings
from neuroprune.files.atomic import file_hash, write_json
from neuroprune.results.records import (
    BatchTiming,
    Quartiles,
    RunRecord,
    TimingRecord,
    pack_patterns,
    read_record,
    read_timing,
    shrink,
)

DENSE = {"movie_snippets": 0.86, "verse_pairs": 0.82}
MAJORITY = {"movie_snippets": 0.52, "verse_pairs": 0.5}
LOSS_AT_ALL = {"neuroprune": 0.05, "l1": 0.12}  # loss of the metric at sparsity 1, quadratic in sparsity
LAYERS, HEADS, WIDTH, MLP_WIDTH = 3, 4, 32, 64
CUTS = ("neuroprune", "dsp")  # methods that make the model smaller
PARAMETERS, PRUNABLE = 100_000, 80_000


def environment(**changes):
    values = {
        "versions": {"python": "3.11.7", "torch": "2.13.0", "neuroprune": "0.1.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "platform": "Linux-test",
        "device": "cpu",
        "cpu": "Test CPU",
        "threads": 1,
        "started": "2026-01-02T03:04:05+00:00",
        "settings_sha256": "0" * 64,
        "data_sha256": "1" * 64,
    }
    return values | changes


def settings(
    task="movie_snippets",
    method=None,
    seed=0,
    model="minilm",
    source="some/minilm",
    label=None,
    training=None,
    **task_fields,
):
    method = method or {"name": "dense"}
    point = f"-{method['sparsity'] * 100:g}" if "sparsity" in method else ""
    label = label or f"{method['name']}{point}"
    return RunSettings(
        run=f"{model}-{task}-{label}-s{seed}",
        model=ModelSettings(name=model, source=source),
        task=TaskSettings(name=task, source="demo", inputs=("text",), **task_fields),
        method=method,
        training=TrainingSettings(**(training or {})),
        seed=seed,
    )


def removed_heads(left, seed):
    """Remove the first heads of each layer, starting at a different one for each seed."""
    return [sorted((head + seed) % HEADS for head in range(HEADS - count)) for count in left]


def record(run, sparsity=None, status="done", value=None, metrics=(), parameters=PARAMETERS, guesses=None, **changes):
    """Return the record of a run with the given settings; the metric follows the formula unless a value is given."""
    gone = (getattr(run.method, "sparsity", None) or 0.0) if sparsity is None else sparsity
    name, task = run.method.name, run.task.name
    formula = DENSE.get(task, 0.8) - LOSS_AT_ALL.get(name, 0.0) * gone**2 + (run.seed - 1) / 100
    found = None if status == "diverged" else formula if value is None else value
    heads = [max(1, round(HEADS * (1 - gone)))] * LAYERS if name in CUTS else [HEADS] * LAYERS
    left = round(parameters - PRUNABLE * gone) if name in CUTS else parameters
    stretches = [(parameters, 40, 20.0)] + [(left, 60, 20.0 * (1 - gone / 2))] * (left < parameters)
    result = {
        "metric": run.task.metric,
        "value": found,
        "metrics": {**dict(metrics), run.task.metric: found},
        **(guesses or {"majority": MAJORITY.get(task, 0.5)}),
        "labels": ["no", "yes"],
        "train_rows": 1000,
        "eval_rows": 200,
        "steps": 100,
        "epochs": run.training.epochs,
        "train_seconds": ({"verse_pairs": 35.0}.get(task, 50.0) - (20.0 * gone if name == "neuroprune" else 0.0))
        * (run.training.epochs / 3)
        + run.seed,
        "eval_seconds": 2.0,
        "seconds_per_step": 0.5,
        "step_times": [
            {"parameters": size, "steps": steps, "ms": {"median": ms, "q1": ms - 1, "q3": ms + 1}}
            for size, steps, ms in stretches
        ],
        "sparsity": {
            "weights": gone,
            "heads": 1 - sum(heads) / (HEADS * LAYERS),
            "neurons": gone if name == "neuroprune" else 0.0,
            "parameters": left,
            "dense_parameters": parameters,
            "heads_per_layer": heads,
            "neurons_per_layer": [MLP_WIDTH] * LAYERS,
        },
        "method": {} if name == "dense" else {"removed_heads": removed_heads(heads, run.seed)},
        "degree_sd_percent": 0.1 + 40.0 * gone * (1 - gone),
    }
    return RunRecord(
        run=run.run,
        status=status,
        settings=run,
        environment=environment(settings_sha256=settings_hash(run), **changes),
        result=result,
    )


def timing(run, gone, parameters=PARAMETERS, dense_parameters=PARAMETERS):
    """Return a timing: dense 8 ms per example at batch 1 and 4 ms at batch 32, reduced by 3/4 of the sparsity."""
    share = 1 - 0.75 * gone if run.method.name == "neuroprune" else 1.0
    batches = []
    for size, dense in ((1, 8.0), (32, 4.0)):
        dense *= {"verse_pairs": 1.5}.get(run.task.name, 1.0)
        cut = dense * share
        batches.append(
            BatchTiming(
                batch_size=size,
                examples=128,
                ms_per_example=Quartiles(median=cut, q1=cut * 0.95, q3=cut * 1.05),
                dense_ms_per_example=Quartiles(median=dense, q1=dense * 0.95, q3=dense * 1.05),
                speedup=Quartiles(median=1 / share, q1=0.95 / share, q3=1.05 / share),
            )
        )
    return TimingRecord(
        run=run.run,
        settings=TimingSettings(),
        environment=environment(settings_sha256=settings_hash(TimingSettings())),
        dense_parameters=dense_parameters,
        parameters=parameters,
        batches=batches,
    )


def arrays(gone, seed, width=WIDTH, mlp_width=MLP_WIDTH):
    """Return the small arrays of a model without some rows, columns and single entries."""
    generator = np.random.default_rng(seed)
    units, inputs = 1 - 0.7 * gone, 1 - 0.4 * gone

    def matrix(rows, columns, whole_rows, whole_columns):
        here = generator.random((rows, columns)) > 0.3 * gone
        here &= (generator.random(rows) < whole_rows)[:, None]
        return here & (generator.random(columns) < whole_columns)[None, :]

    shapes = dict.fromkeys(("q", "k", "v"), (width, width, units, inputs))
    shapes |= {"in": (mlp_width, width, units, inputs), "out": (width, mlp_width, 1.0, units)}
    patterns = {f"{name}.1": matrix(*shape) for name, shape in shapes.items()}
    degrees = {
        f"{name}.{layer}": matrix(*shapes[name]).mean(axis=1).astype(np.float16)
        for layer in range(LAYERS)
        for name in ("in", "out")
    }
    layers = {f"{name}.{layer}": matrix(*shape) for layer in range(LAYERS) for name, shape in shapes.items()}
    cells = {name: np.rint(100 * shrink(mask, 64)).astype(np.uint8) for name, mask in layers.items()}
    return {"degrees": degrees, "patterns": pack_patterns(patterns), "cells": cells, "heads": head_arrays(seed)}


def head_arrays(seed):
    """Return arrays like those of `weight_arrays.head_arrays`.

    Head h of each layer has importance h + 1; distances are those of random points.
    """
    points = np.random.default_rng(seed).random((LAYERS, HEADS, 2))
    distances = np.abs(points[:, :, None] - points[:, None]).max(axis=3).astype(np.float32)
    importance = {f"importance.{layer}": np.arange(1, HEADS + 1, dtype=np.float32) for layer in range(LAYERS)}
    return importance | {f"distance.{layer}": distances[layer] for layer in range(LAYERS)}


def write_run(study, run, with_timing=True, with_arrays=True, sizes=(WIDTH, MLP_WIDTH), **changes):
    """Write one run's folder and return it."""
    entry = record(run, **changes)
    folder = Path(study) / "runs" / run.run
    write_json(folder / "run.json", entry)
    left = entry.result.sparsity
    gone = left.weights
    if with_timing:
        write_json(folder / "timing.json", timing(run, gone, left.parameters, left.dense_parameters))
    if with_arrays:
        for name, tensors in arrays(gone, run.seed, *sizes).items():
            save_file(tensors, folder / f"{name}.safetensors")
    return folder


def record_files(folder):
    """Add the hashes of a run's arrays to its record, as training does."""
    entry = read_record(folder / "run.json")
    entry.result.files.update({path.name: file_hash(path) for path in folder.glob("*.safetensors")})
    write_json(folder / "run.json", entry)


def retime(path, factor, **settings):
    """Multiply the times of a `timing.json` by a factor, as if measured with other settings."""
    entry = read_timing(path)
    entry.settings = entry.settings.model_copy(update=settings)
    entry.environment.settings_sha256 = settings_hash(entry.settings)
    for batch in entry.batches:
        for times in (batch.ms_per_example, batch.dense_ms_per_example):
            times.q1, times.median, times.q3 = (factor * value for value in (times.q1, times.median, times.q3))
    write_json(path, entry)


def edit(path, change):
    """Apply a function to the content of a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


PENALTIES = {0.5: {"alpha": 1e-4, "beta": 1e-4, "theta": 0.2}, 0.9: {"alpha": 1e-3, "beta": 1e-3, "theta": 0.25}}


def write_study(study, tasks=tuple(DENSE), points=(0.5, 0.8, 0.9), seeds=3, penalty=True, **options):
    """Write a study like the demo: dense, NeuroPrune and l1 to targets, and two runs of the paper's form per task."""
    runs = []
    for task in tasks:
        grid = [{"name": "dense"}] + [{"name": name, "sparsity": s} for name in ("neuroprune", "l1") for s in points]
        runs += [(settings(task, method, seed), {}) for method in grid for seed in range(seeds)]
        for gone, strengths in PENALTIES.items() if penalty else ():
            method = {"name": "neuroprune", "mode": "decoupled", **strengths}
            label = f"neuroprune-a{strengths['alpha']:g}"
            runs += [(settings(task, method, 0, label=label), {"sparsity": gone + 0.012})]
    for run, changes in runs:
        write_run(study, run, **changes, **options)
    return write_plan(study, [run for run, _ in runs])


def write_plan(study, runs, timed=None):
    """Write the plan of a study, by default with all runs timed, and return the names of its runs."""
    planned = {run.run: run.model_dump(mode="json") for run in runs}
    names = [run.run for run in (runs if timed is None else timed)]
    write_json(Path(study) / "plan.json", {"schema_version": 1, "runs": planned, "timed": names})
    return list(planned)
