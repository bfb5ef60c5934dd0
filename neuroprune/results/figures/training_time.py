"""Training-time figure: metric against training time of runs that differ in their number of epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from neuroprune.results.figures.beside_marks import write_beside
from neuroprune.results.figures.context import below, pair_title, penalties, rough_training, seeds
from neuroprune.results.figures.grid import column, drawn_pairs, interval
from neuroprune.results.figures.style import (
    METRIC_SPAN,
    PAGE_WIDTH,
    at_least,
    bars,
    each_method,
    empty_key,
    inks,
    mark_empty,
    method_look,
    nothing_to_show,
    say_below,
)
from neuroprune.results.runs import method_label, read_runs
from neuroprune.results.tables.summary import drawn_means

SERIES = ["model", "task", "method", "form", "point", "heads_asked", "alpha", "beta", "theta", "strength"]
EPOCHS_ALONE = r"(?:epochs_[\d.]+)?"  # variants of runs without other unusual settings


def training_time(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw metric against training time, with one line per method and target through its numbers of epochs.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark, see ``training_time_data``. Both are replaced by a note unless two
        finished runs differ only in their number of epochs.

    Raises:
        UserError: If the table of runs is missing.
    """
    runs = read_runs(study_dir)
    chosen = by_epochs(drawn_means(runs))
    shown = training_time_data(chosen)
    if shown.empty:
        return nothing_to_show("Nothing to show: no two finished runs differ only in their number of epochs.")
    texts = ["numbers: epochs", _targets(shown), *penalties(chosen), seeds(shown["seeds"]), *rough_training(runs)]
    return _plot(shown, below(*texts)), shown


def _targets(shown: pd.DataFrame) -> str:
    asked = shown.loc[shown["target"] != "", ["method", "form", "target"]].drop_duplicates()
    named = [f"{method_label(*map(str, names))} {target}" for *names, target in asked.itertuples(index=False)]
    return f"targets: {', '.join(named)}" if named else ""


def by_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the rows that belong to series of at least two numbers of epochs.

    Args:
        table: The means of ``summarize``.

    Returns:
        Finished rows with a metric and a training time that differ from the usual settings at most in their epochs, of
        all series in which the number of epochs varies.
    """
    alone = (table["runs"] > 0) & table["variant"].str.fullmatch(EPOCHS_ALONE)
    rows = table[alone & table["value"].notna() & table["train_time"].notna()]
    return rows[rows.groupby(SERIES, dropna=False)["epochs"].transform("nunique") > 1]


def training_time_data(chosen: pd.DataFrame) -> pd.DataFrame:
    """List the marks.

    Args:
        chosen: Output of ``by_epochs``.

    Returns:
        One row per mark: ``model``, ``model_random``, ``task``, ``train_rows``, ``method``, ``form``, ``target``,
        ``epochs``, ``empty_layers``; ``metric``, ``value`` (in percent) and ``time`` (in ``unit``), each with the ends
        of its error bar; ``relative``, the time over that of the shortest dense run on the same model and task, with
        ``relative_low`` and ``relative_high`` (over the shortest of all runs if there is no dense one); ``seeds``.
    """
    marks = pd.DataFrame([_mark(row) for row in chosen.to_dict("records")])
    if marks.empty:
        return marks
    for _, rows in marks.groupby(["model", "task"]):
        dense = rows[rows["method"] == "dense"]
        unit = (dense if len(dense) else rows)["time"].min()
        for end in ("", "_low", "_high"):
            marks.loc[rows.index, f"relative{end}"] = rows[f"time{end}"] / unit
    return marks


def _mark(row: dict[Any, Any]) -> dict[str, Any]:
    (low, high), (time_low, time_high) = interval(row, "value"), interval(row, "train_time")
    return {
        **{key: row[key] for key in ("model", "model_random", "task", "train_rows", "method", "form")},
        "target": _target(row),
        "epochs": row["epochs"],
        "empty_layers": row["empty_layers"],
        "metric": row["metric"],
        "value": 100 * row["value"],
        "low": 100 * low,
        "high": 100 * high,
        "unit": column(row, "training", [])[2],
        "time": row["train_time"],
        "time_low": time_low,
        "time_high": time_high,
        "seeds": row["runs"],
    }


def _target(row: dict[Any, Any]) -> str:
    """Return the target sparsity and number of heads as text; empty if there is none."""
    asked = [f"{100 * row['point']:g} %"] if math.isfinite(row["point"]) and row["form"] != "penalty" else []
    return ", ".join(asked + ([f"{row['heads_asked']:.0f} heads"] if math.isfinite(row["heads_asked"]) else []))


def _plot(shown: pd.DataFrame, note: str) -> Figure:
    """Draw one panel per model and task, with one legend above and a note below."""
    rows_of = {(str(model), str(task)): rows for (model, task), rows in shown.groupby(["model", "task"], sort=False)}
    pairs = drawn_pairs(list(rows_of))
    figure = Figure(figsize=(PAGE_WIDTH, 0.7 + 2.6 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), 1, squeeze=False)[:, 0]
    for axes, pair in zip(grid, pairs, strict=True):
        _panel(axes, rows_of[pair])
    handles = _legend(shown)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)))
    more = len(rows_of) - len(pairs)
    say_below(figure, "\n".join([note, *([f"{more} more models and tasks are in the csv"] if more else [])]))
    figure.draw_without_rendering()  # computes the layout, so that positions are known
    for axes, pair in zip(grid, pairs, strict=True):
        rows = rows_of[pair]
        texts = rows["epochs"].map("{:g}".format)
        write_beside(axes, zip(rows["relative"], rows["value"], texts, inks(rows), strict=True))
    return figure


def _legend(shown: pd.DataFrame) -> list[Line2D]:
    """Return legend keys for each method and (if present) empty layers."""
    methods = shown[["method", "form"]].drop_duplicates().itertuples(index=False)
    keys = [Line2D([], [], **method_look(str(method), str(form))) for method, form in methods]
    return [*keys, *empty_key(shown)]


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the series of one model and task on a logarithmic axis of times."""
    for some, look in each_method(rows):
        for _, line in some.groupby("target", sort=False):
            series = line.sort_values("time")
            ends: dict[str, Any] = {
                "xerr": bars(series, "relative", "relative_low", "relative_high"),
                "yerr": bars(series),
            }
            axes.errorbar(series["relative"], series["value"], **ends, capsize=1.8, elinewidth=0.7, **look)
    mark_empty(axes, rows, "relative", "value")
    one = rows.iloc[0]
    dense = rows[rows["method"] == "dense"]
    reference = f"dense, {dense['epochs'].min():g} epochs" if len(dense) else "the shortest run"
    axes.set_title(pair_title(one.to_dict()), loc="left", fontweight="bold")
    axes.set_ylabel(f"{one['metric'].replace('_', ' ')} (%)")
    axes.set_xlabel(f"training time, {reference} = 1 ({one['unit'].partition(', ')[2]})")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.06)
    at_least(axes, METRIC_SPAN)
