"""Table 1: metrics, inference time and training time at each sparsity, with the paper's values if comparable."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from neuroprune.results.runs import method_label, read_runs
from neuroprune.results.tables.formats import NothingToShowError, Table
from neuroprune.results.tables.nearest import nearest_to_wanted, out_of_reach
from neuroprune.results.tables.published import SUMMARIZATION, is_the_papers
from neuroprune.results.tables.published import table1 as published_table1
from neuroprune.results.tables.summary import batch_sizes, number, summarize

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum", "bleu": "BLEU"}
OTHERS = (
    "accuracy",
    "f1",
    "matthews_correlation",
    "spearmanr",
    "pearson",
    "token_accuracy",
    "macro_f1",
    "exact_match",
)  # metrics of other tasks


def table1(study_dir: Path) -> Table:
    """Make Table 1 of a study for its summarization tasks, or else for all tasks.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        One row per model, task, sparsity and method: metrics in percent, milliseconds per example, seconds of training.
        For T5-base on CNN/DailyMail the paper's rows are added.

    Raises:
        UserError: If the table of runs is missing.
        NothingToShowError: If no run is finished.
    """
    table = summarize(read_runs(study_dir))
    usual = table[(table["runs"] > 0) & (table["variant"] == "") & table["heads_asked"].isna()]
    summaries = usual[usual["metric"].isin(ROUGE)]
    shown = summaries if len(summaries) else usual
    rows = nearest_to_wanted(shown)
    if rows.empty:
        raise NothingToShowError(
            f"{study_dir}: no run is finished, so Table 1 has no rows; the summary says what is missing."
        )
    numbers = pd.concat([_numbers(some) for _, some in rows.groupby(["model", "task"], sort=False)], ignore_index=True)
    sections = {
        f"{model} on {task}": _cells(some) for (model, task), some in numbers.groupby(["model", "task"], sort=False)
    }
    return Table(f"Table 1 of the study “{study_dir.name}”", numbers, sections, _notes(numbers, out_of_reach(shown)))


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the study's rows by sparsity, with the paper's rows last if the study repeats its experiment."""
    size = max(batch_sizes(rows), default=None)
    found = [_row(row, size) for row in rows.to_dict("records")]
    if is_the_papers(str(rows["model"].iloc[0]), str(rows["task"].iloc[0]), SUMMARIZATION):
        found += [_published(row) for row in published_table1().to_dict("records")]
    table = pd.DataFrame(found)
    table["asked"] = table["asked_percent"].fillna(table["sparsity_percent"]).round()
    order = table.sort_values(
        ["asked", "source"], key=lambda c: c == "paper" if c.name == "source" else c, kind="stable"
    )
    return order.drop(columns="asked").dropna(axis=1, how="all")


def _row(row: dict[Any, Any], size: int | None) -> dict[str, Any]:
    """Return one row of the study."""
    names = ROUGE if row["metric"] in ROUGE else (row["metric"],)
    metrics = {name: 100 * row.get(f"metric_{name}", row["value"]) for name in names}
    return {
        **{key: row[key] for key in ("model", "task", "method", "form")},
        "source": "ours",
        "asked_percent": 0.0 if row["method"] == "dense" else 100 * row["point"],
        "sparsity_percent": 100 * row["sparsity"],
        **metrics,
        "inference_ms": row[f"inference_ms_b{size}"] if size else math.nan,
        "batch_size": size or math.nan,
        "training_s": row["train_seconds"],
        "seeds": row["runs"],
    }


def _published(row: dict[Any, Any]) -> dict[str, Any]:
    """Return one of the paper's rows."""
    return {
        "model": SUMMARIZATION[0],
        "task": SUMMARIZATION[1],
        "method": row["method"],
        "form": "" if row["method"] == "dense" else "penalty",
        "source": "paper",
        "asked_percent": 100 * row["point"],
        "sparsity_percent": 100 * row["point"],
        **{name: row[name] for name in ROUGE},
        "inference_ms": 1000 * row["inference_s"],
        "training_s": row["train_s"],
    }


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Format the rows for readers without empty columns."""
    metrics = [name for name in rows if name in NAMES or name in OTHERS]
    cells = pd.DataFrame(
        {
            "Sparsity %": [number(value, 1) for value in rows["sparsity_percent"]],
            "Method": [_name(row) for row in rows.to_dict("records")],
            **{NAMES.get(name, name.replace("_", " ")): [number(v, 2) for v in rows[name]] for name in metrics},
            "Inference (ms)": [number(v, 2) for v in rows.get("inference_ms", [math.nan] * len(rows))],
            "Training (s)": [number(v, 1 if v < 100 else 0) for v in rows["training_s"]],
        }
    )
    return cells[[name for name in cells if (cells[name] != "").any()]]


def _name(row: dict[Any, Any]) -> str:
    label = method_label(row["method"], row["form"])
    return f"{label}, the paper's value" if row["source"] == "paper" else label


def _notes(numbers: pd.DataFrame, missed: tuple[float, ...]) -> list[str]:
    """Return notes on the meaning of the numbers and on sparsities missing from a grid of penalties."""
    sizes = sorted({int(size) for size in numbers.get("batch_size", pd.Series(dtype=float)).dropna()})
    batch = f", batch size {sizes[-1]}" if sizes else ""
    notes = [
        "Metrics in %, means over seeds. Sparsity: fraction of attention and MLP weights that is removed or zero.",
        f"Inference: milliseconds per test example{batch}. Training: wall time with evaluation, as in the paper.",
        "From a grid of penalties, the runs nearest to 25, 50, 70, 80, 90 and 95 % are shown, as in the paper.",
    ]
    if missed:
        points = ", ".join(f"{100 * point:.0f}" for point in missed)
        notes.append(f"A grid of penalties has no run within 5 points of {points} %, so none is shown there.")
    if (numbers["source"] == "paper").any():
        notes.append("The paper's values: arXiv 2404.01306, Table 1, on an A100 with 40 GB.")
    return notes
