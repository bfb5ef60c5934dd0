"""Timing table: training steps before and after the cuts, and inference compared with dense."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from neuroprune.results.runs import method_label, read_runs
from neuroprune.results.tables.formats import Table
from neuroprune.results.tables.partners import dense_rows
from neuroprune.results.tables.summary import (
    Row,
    asked,
    batch_sizes,
    notes_on,
    number,
    summarize,
    without_empty,
)

IDENTITY = ["model", "model_random", "task", "method", "form", "point", "runs", "sparsity", "parameters"]


def timing(study_dir: Path) -> Table:
    """Make the timing table of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        One row per model, task, method and point: milliseconds of a training step at the dense and at the final size,
        their ratio to the dense run's, and inference times with speed-ups.
    """
    runs = read_runs(study_dir)
    table = summarize(runs).reindex(columns=_columns(runs))
    sizes = batch_sizes(table)
    dense = dense_rows(table).groupby(["model", "task"])["step_ms_last"].first()
    table["step_ratio"] = [
        row["step_ms_last"] / dense.get((row["model"], row["task"]), math.nan) for row in table.to_dict("records")
    ]
    sections = {
        f"{model}{'†' if rows['model_random'].any() else ''} on {task}": without_empty(
            pd.DataFrame([_cells(row, sizes) for row in rows.to_dict("records")])
        )
        for (model, task), rows in table.groupby(["model", "task"], sort=False)
    }
    notes = [
        "Training step: median time of forward and backward pass, optimizer and method, on the device's clock; at the "
        "dense size, and at the size after the last cut with its ratio to the dense run's in parentheses.",
        "Inference: milliseconds per example, median over passes of the physically cut model; in parentheses the "
        "speed-up over the dense model, both timed alternately in one job.",
    ]
    return Table(f"Timing of the study “{study_dir.name}”", table, sections, notes + notes_on(runs, table))


def _columns(runs: pd.DataFrame) -> list[str]:
    """Return the identifying and timing columns of the averaged table."""
    times = [
        f"{kind}_b{size}" for size in batch_sizes(runs) for kind in ("inference_ms", "dense_inference_ms", "speedup")
    ]
    more = ["variant", "heads_asked", "speedup_asked", "alpha", "beta", "theta", "strength", "mode"]
    return [*IDENTITY, *more, "step_ms_first", "step_ms_last", *times]


def _cells(row: Row, sizes: list[int]) -> dict[str, Any]:
    """Format one row for readers."""
    cells = {
        "Method": method_label(row["method"], row["form"]),
        "Target": asked(row),
        "Sparsity %": number(100 * row["sparsity"], 1),
        "Parameters (M)": number(row["parameters"] / 1e6, 2),
        "Step, dense size (ms)": number(row["step_ms_first"], 1),
        "Step, last size (ms)": _with(row["step_ms_last"], row["step_ratio"], 1),
    }
    for size in sizes:
        time, speedup = row[f"inference_ms_b{size}"], row[f"speedup_b{size}"]
        cells[f"Inference (ms), batch {size}"] = _with(time, speedup, 3)
    return cells


def _with(time: float, ratio: float, digits: int) -> str:
    """Format a time, with a ratio in parentheses if known."""
    return number(time, digits) + (f" (×{number(ratio, 2)})" if math.isfinite(ratio) else "")
