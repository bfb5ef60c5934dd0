"""Frontier figure: metric against inference and training time of all methods, with the efficient frontier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from neuroprune.results.figures.beside_marks import write_beside
from neuroprune.results.figures.context import below, pair_title, penalties, rough_times, seeds
from neuroprune.results.figures.figure4 import like_with_like
from neuroprune.results.figures.grid import MOST_ROWS, column, drawn_pairs, interval, relative_times
from neuroprune.results.figures.style import (
    INK,
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
    say_empty,
)
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.summary import batch_sizes, drawn_means

PANELS = ("inference", "training")
SAME_COST = "budget_dense_flops"  # variant of runs with the training cost of dense fine-tuning
RING: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 0.7}
RING |= {"color": INK, "linestyle": "", "label": "at dense cost"}


def frontier(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw metric against times with the efficient frontier, for at most eight pairs of model and task.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark, also for pairs that do not fit; a note in the figure counts these.
        Both are replaced by a note if no pruned run is finished.

    Raises:
        UserError: If the table of runs is missing.
    """
    runs = read_runs(study_dir)
    table = drawn_means(runs)
    shown = frontier_data(table)
    if shown.empty:
        return nothing_to_show("Nothing to show: no pruned run with a metric is finished.")
    drawn = compared(shown)
    rows = like_with_like(table)
    pairs = drawn.set_index(["model", "task"]).index
    return _plot(drawn, _note(runs, rows[rows.set_index(["model", "task"]).index.isin(pairs)], shown, drawn)), drawn


def _note(runs: pd.DataFrame, rows: pd.DataFrame, shown: pd.DataFrame, drawn: pd.DataFrame) -> str:
    """Return the note below the figure: reading aid, penalty strengths, error bars, and omitted pairs."""
    count = drawn.groupby(["model", "task"]).ngroups
    more = f"of {count} pairs of model and task {MOST_ROWS} are drawn, {count - MOST_ROWS} more are in the csv"
    reading = "numbers: sparsity in %; up and to the left is better"
    alone = "pairs with a single method: Figure 4" if len(drawn) < len(shown) else ""
    texts = [*penalties(rows), seeds(drawn["seeds"]), *rough_times(runs), alone, more if count > MOST_ROWS else ""]
    return below(reading, *texts)


def compared(shown: pd.DataFrame) -> pd.DataFrame:
    """Select the pairs of model and task with several methods; all pairs if there are none.

    Args:
        shown: Output of ``frontier_data``.

    Returns:
        Its rows of models and tasks with at least two methods besides dense.
    """
    pruned = shown[shown["method"] != "dense"]
    count = pruned.groupby(["model", "task"])["method"].nunique()
    several = {pair for pair, methods in count.items() if methods > 1}
    chosen = [pair in several for pair in zip(shown["model"], shown["task"], strict=True)]
    return shown[np.array(chosen)] if several else shown


def frontier_data(table: pd.DataFrame) -> pd.DataFrame:
    """Select the runs of Figures 4 and 11, runs trained at the cost of dense, and the dense models.

    Args:
        table: The means of ``summarize``.

    Returns:
        One row per mark: ``model``, ``task``, ``method``, ``form``, ``panel``, ``unit``, ``sparsity_percent``,
        ``empty_layers``, ``same_cost``; ``time`` with ``time_low`` and ``time_high``; ``relative``, the time over the
        dense model's (for inference pass by pass in the same job); ``value`` (the metric in percent) with ``low`` and
        ``high`` (mean ± standard deviation over seeds; for inference of one seed the quartiles of its passes),
        ``seeds``, and ``efficient``: no other mark of the panel is at least as good in both metric and relative time
        and better in one of them. Without a dense model, absolute times are compared.
    """
    longer = like_with_like(table[table["variant"] == SAME_COST].assign(variant=""))
    pruned = pd.concat([like_with_like(table).assign(same_cost=False), longer.assign(same_cost=True)])
    known = pruned[pruned["value"].notna()]
    pairs = set(zip(known["model"], known["task"], strict=True))
    dense = table[(table["method"] == "dense") & (table["runs"] > 0) & (table["variant"] == "")]
    rows = pd.concat([dense.assign(same_cost=False), known])
    sizes = batch_sizes(table)
    marks = [_mark(row, panel, sizes) for row in rows.to_dict("records") for panel in PANELS]
    shown = pd.DataFrame([mark for mark in marks if mark and (mark["model"], mark["task"]) in pairs])
    if shown.empty:
        return shown
    related = shown.groupby(["model", "task", "panel"])["relative"].transform("count") > 0
    measured = shown["time"].notna() & shown["value"].notna() & (shown["relative"].notna() | ~related)
    shown = shown[measured].reset_index(drop=True)
    best = pd.Series(False, index=shown.index)
    for _, panel in shown.groupby(["model", "task", "panel"]):
        best[panel.index] = efficient(cost(panel), panel["value"])
    return shown.assign(efficient=best)


def cost(rows: pd.DataFrame) -> pd.Series:
    """Return one panel's times relative to dense, or absolute times if any of the relative ones is unknown."""
    return rows["relative"] if rows["relative"].notna().all() else rows["time"]


def efficient(cost: ArrayLike, gain: ArrayLike) -> np.ndarray:
    """Mark the points on the efficient frontier.

    Args:
        cost: The quantity to minimise, ``[points]``.
        gain: The quantity to maximise, ``[points]``.

    Returns:
        bool ``[points]``: true if no other point is at least as good in both quantities and better in one. Points with
        a non-finite value are never on the frontier.
    """
    costs, gains = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    known = np.isfinite(costs) & np.isfinite(gains)
    as_good = (costs[:, None] <= costs) & (gains[:, None] >= gains)  # [a, b]: a is at least as good as b
    better = as_good & ((costs[:, None] < costs) | (gains[:, None] > gains))
    return known & ~(better & known[:, None]).any(axis=0)


def _mark(row: dict[Any, Any], panel: str, sizes: list[int]) -> dict[str, Any] | None:
    name, factor, unit = column(row, panel, sizes)
    if name is None or not math.isfinite(row[name]):
        return None
    (low, high), (time_low, time_high) = interval(row, "value"), interval(row, name)
    times = (time_low, row[name], time_high)
    return {
        **{key: row[key] for key in ("model", "model_random", "task", "train_rows", "method", "form")},
        "panel": panel,
        "unit": unit,
        "metric": row["metric"],
        "sparsity_percent": 100 * row["sparsity"],
        "empty_layers": row["empty_layers"],
        "same_cost": row["same_cost"],
        "time": factor * row[name],
        "time_low": factor * time_low,
        "time_high": factor * time_high,
        **relative_times(row, panel, name, times),
        "value": 100 * row["value"],
        "low": 100 * low,
        "high": 100 * high,
        "seeds": row["runs"],
    }


def _plot(shown: pd.DataFrame, note: str) -> Figure:
    """Draw two panels per model and task, with one legend above and a note below."""
    rows_of = {(str(model), str(task)): rows for (model, task), rows in shown.groupby(["model", "task"], sort=False)}
    pairs = drawn_pairs(list(rows_of))
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 2.4 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), len(PANELS), squeeze=False, sharey="row")
    for axes_row, pair in zip(grid, pairs, strict=True):
        rows = rows_of[pair]
        for axes, panel in zip(axes_row, PANELS, strict=True):
            _panel(axes, rows[rows["panel"] == panel])
        axes_row[0].set_title(pair_title(rows.iloc[0].to_dict()), loc="left", fontweight="bold")
        axes_row[0].set_ylabel(f"{rows['metric'].iloc[0].replace('_', ' ')} (%)")
    handles = _legend(shown)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    say_below(figure, note)
    figure.draw_without_rendering()  # computes the layout, so that positions are known
    for axes, pair, panel in zip(grid.flat, np.repeat(pairs, len(PANELS), axis=0), PANELS * len(pairs), strict=True):
        _numbers(axes, rows_of[tuple(pair)][rows_of[tuple(pair)]["panel"] == panel])
    return figure


def _legend(shown: pd.DataFrame) -> list[Line2D]:
    """Return legend keys for each method, the frontier, and (if present) empty layers."""
    methods = shown[["method", "form"]].drop_duplicates().itertuples(index=False)
    keys = [Line2D([], [], **(method_look(str(method), str(form)) | {"linestyle": ""})) for method, form in methods]
    keys.append(Line2D([], [], color=INK, lw=1, label="efficient frontier"))
    rings = [Line2D([], [], **RING)] if shown["same_cost"].any() else []
    return [*keys, *rings, *empty_key(shown)]


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the marks of one panel, joined by method, and the frontier as steps."""
    if rows.empty:
        say_empty(axes, "not measured")
        return
    rows = rows.assign(x=cost(rows))
    for some, look in each_method(rows.sort_values("sparsity_percent")):
        axes.errorbar(
            some["x"], some["value"], **_bars(some), elinewidth=0.7, **({"zorder": 3} | look | {"linestyle": ""})
        )
        line = some[~some["same_cost"]]
        axes.plot(line["x"], line["value"], color=look["color"], lw=0.6, alpha=0.5, zorder=1)
    ringed = rows[rows["same_cost"]]
    axes.plot(ringed["x"], ringed["value"], **RING)
    mark_empty(axes, rows, "x", "value")
    best = rows[rows["efficient"]].sort_values("x")
    x, y = [*best["x"], rows["x"].max()], [*best["value"], best["value"].iloc[-1]]
    axes.step(x, y, where="post", color=INK, lw=1, zorder=2, alpha=0.7)
    quantity, _, how = rows["unit"].iloc[0].partition(", ")
    relative = rows["relative"].notna().all()
    axes.set_xlabel(f"{quantity.partition(' (')[0]} time, dense = 1 ({how})" if relative else f"{quantity}, {how}")
    axes.margins(0.1)  # room for the numbers
    axes.set_xlim(left=0)
    at_least(axes, METRIC_SPAN)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _bars(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the error bars in both directions; relative times have them only where quartiles are known."""
    scale = rows["x"] / rows["time"]
    across = [scale * (rows["time"] - rows["time_low"]), scale * (rows["time_high"] - rows["time"])]
    if rows["panel"].iloc[0] == "inference" and rows["relative_low"].notna().any():
        across = [rows["x"] - rows["relative_low"], rows["relative_high"] - rows["x"]]
    return {"xerr": [bar.fillna(0).clip(lower=0) for bar in across], "yerr": bars(rows)}


def _numbers(axes: Axes, rows: pd.DataFrame) -> None:
    """Write sparsities next to the marks where there is room, starting with those on the frontier."""
    if rows.empty:
        return
    rows = rows.assign(x=cost(rows)).sort_values("efficient", ascending=False, kind="stable")
    texts = rows["sparsity_percent"].map("{:.0f}".format).where(rows["method"] != "dense", "")
    write_beside(axes, zip(rows["x"], rows["value"], texts, inks(rows), strict=True))
