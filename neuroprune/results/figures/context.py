"""Titles and notes of figures: pretrained or random weights, training rows, penalty settings, and seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuroprune.results.runs import left_out_times, method_label
from neuroprune.results.tables.formats import NBSP
from neuroprune.results.tables.summary import batch_sizes

SYMBOLS = {"alpha": "α", "beta": "β", "theta": "θ", "strength": "λ"}
LETTERS = 122  # characters per line below the panels
SEVERAL_TASKS = {"task": "several tasks", "train_rows": math.nan}  # used in a title instead of a single task
UNSTEADY = 1.3  # ratio of slowest to fastest timing of one dense model above which a note warns


def weights(random: Any) -> str:
    """Describe the origin of a model's weights."""
    return "random-initialised" if random else "pretrained"


def pair_title(row: Mapping[Any, Any]) -> str:
    """Name a model, its weights, a task and its number of training rows."""
    rows = row.get("train_rows", math.nan)
    count = f", {rows:,.0f} training rows" if math.isfinite(rows) else ""
    return f"{row['model']} ({weights(row['model_random'])}) on {row['task']}{count}"


def runs_title(row: Mapping[Any, Any]) -> str:
    """Name model, weights, task, rows and algorithm of runs that differ only in strength or sparsity."""
    return f"{pair_title(row)}: {method_label(row['method'], row['form'])}"


def sparsity_label(row: Mapping[Any, Any]) -> str:
    """Format a run's sparsity, or "dense"; append a cross if a layer has lost all its heads or neurons."""
    if row["method"] == "dense":
        return "dense"
    return f"{100 * row['sparsity']:.1f} %" + (" ✗" if row["empty_layers"] > 0 else "")


def runs_note(rows: pd.DataFrame) -> str:
    """Return a note on penalty strengths, the number of seeds, and the cross of `sparsity_label`."""
    empty = "✗: a layer has lost all its heads or all its neurons" if (rows["empty_layers"] > 0).any() else ""
    return below(*penalties(rows), f"one seed each (n{NBSP}={NBSP}1)", empty)


def penalties(rows: pd.DataFrame) -> list[str]:
    """Describe the mode and strengths of each penalty method.

    Args:
        rows: Rows of the tidy table or of ``summarize``.

    Returns:
        One text for each method: its name, its mode, and the range of each strength.
    """
    found = []
    named = rows[rows["form"].isin(["penalty", "regulated"])]
    for (method, form), some in named.groupby(["method", "form"], sort=False):
        spans = [f"{sign}{NBSP}{_span(some[name])}" for name, sign in SYMBOLS.items() if some[name].notna().any()]
        modes = " and ".join(mode for mode in some["mode"].unique() if mode)
        found.append(", ".join(filter(None, [f"{method_label(str(method), str(form))}: {modes}", *spans])))
    return found


def _span(values: pd.Series) -> str:
    """Format a single strength, or the range of several."""
    ends = dict.fromkeys(f"{value:g}".replace("e-0", "e-") for value in (values.min(), values.max()))
    return " to ".join(ends)


def seeds(counts: pd.Series) -> str:
    """Return a note on the number of seeds per mark and the meaning of the error bars."""
    ends = dict.fromkeys((int(counts.min()), int(counts.max())))
    if max(ends) == 1:
        return f"one seed per mark (n{NBSP}={NBSP}1)"
    return f"bars: ±{NBSP}1{NBSP}sd over seeds (n{NBSP}={NBSP}{' to '.join(map(str, ends))})"


def rough_times(runs: pd.DataFrame) -> list[str]:
    """Return warnings about times that depend on what else the machine was doing, and about those left out."""
    left_out = len(left_out_times(runs))
    text = f"inference times of {left_out} run{'s' * (left_out > 1)} with other timing settings are left out"
    return [
        *rough_training(runs),
        *_unsteady_inference(runs),
        *([text] if left_out else []),
    ]


def rough_training(runs: pd.DataFrame) -> list[str]:
    """Return warnings about wall-clock times of training: left out beside processor times, and rough on their own."""
    done = runs[(runs["status"] == "done") & runs["train_seconds_without_eval"].notna()]
    recorded = done["train_cpu_seconds"].notna().groupby([done["model"], done["task"]]).agg(["any", "all"])
    warnings = {
        "training times of runs without processor time are left out": recorded["any"] & ~recorded["all"],
        "training times are rough: some include waiting for other jobs": ~recorded["any"],
    }
    return [text for text, pairs in warnings.items() if pairs.any()]


def _unsteady_inference(runs: pd.DataFrame) -> list[str]:
    """Return a warning if the same dense model was timed very differently in different jobs."""
    timed = runs[runs["method"] != "dense"]
    columns = [f"dense_inference_ms_b{size}" for size in batch_sizes(timed)][-1:]
    spans = [group[name].agg(["min", "max"]) for name in columns for _, group in timed.groupby(["model", "task"])]
    worst = max(spans, key=lambda span: span["max"] / span["min"], default=pd.Series({"min": 1.0, "max": 1.0}))
    if not worst["max"] > UNSTEADY * worst["min"]:
        return []
    return [
        f"inference times are rough: one dense model took {worst['min']:.1f} to {worst['max']:.1f} ms an example "
        "in different timings"
    ]


def below(*texts: str) -> str:
    """Join texts and wrap them to the width of the page."""
    return "\n".join(textwrap.wrap("; ".join(filter(None, texts)), LETTERS))
