"""The picture that decides: metric against measured inference time and against training time, for all methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from neuroprune.results.figures.figure4 import like_with_like
from neuroprune.results.figures.grid import column, interval
from neuroprune.results.figures.style import (
    GREY,
    INK,
    METRIC_SPAN,
    PAGE_WIDTH,
    at_least,
    method_look,
    nothing_to_show,
    say_empty,
)
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.summary import batch_sizes, summarize

PANELS = ("inference", "training")
MOST_ROWS = 8  # models and tasks that fit below each other on a page


def frontier(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw metric against times, with the efficient frontier of all methods, for at most eight models and tasks.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure, and all that it could show: one row a mark of the models and tasks on which methods are `compared`;
        how many of these do not fit, the figure says. A note in place of both if no pruned run is finished.

    Raises:
        UserError: If there is no table of runs.
    """
    runs = read_runs(study_dir)
    shown = frontier_data(summarize(runs))
    if shown.empty:
        return nothing_to_show("Nothing to show: no pruned run with a metric is finished.")
    drawn = compared(shown)
    return _plot(drawn, left_out=len(drawn) < len(shown)), drawn


def drawn_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Choose the models and tasks that fit: of every model its first task, then of every model its second.

    Args:
        pairs: Models and tasks.

    Returns:
        At most eight of them, in the same order.
    """
    turn = [sum(model == earlier for earlier, _ in pairs[:place]) for place, (model, _) in enumerate(pairs)]
    first = sorted(range(len(pairs)), key=lambda place: turn[place])[:MOST_ROWS]
    return [pairs[place] for place in sorted(first)]


def compared(shown: pd.DataFrame) -> pd.DataFrame:
    """Select the models and tasks on which several methods are compared; all, if there is none.

    Args:
        shown: What ``frontier_data`` has listed.

    Returns:
        Its rows of models and tasks with at least two methods beside dense.
    """
    pruned = shown[shown["method"] != "dense"]
    count = pruned.groupby(["model", "task"])["method"].nunique()
    several = {pair for pair, methods in count.items() if methods > 1}
    chosen = [pair in several for pair in zip(shown["model"], shown["task"], strict=True)]
    return shown[np.array(chosen)] if several else shown


def frontier_data(table: pd.DataFrame) -> pd.DataFrame:
    """Select what is drawn: the runs of Figures 4 and 11, and the dense models.

    Args:
        table: The means of ``summarize``.

    Returns:
        One row a mark: ``model``, ``task``, ``method``, ``form``, ``panel``, ``unit``, ``sparsity_percent``; ``time``
        with ``time_low`` and ``time_high``, ``value`` (the metric in percent) with ``low`` and ``high`` (mean ±
        standard deviation over seeds; for inference of one seed the quartiles of its passes), ``seeds``, and
        ``efficient``: no other mark of the panel is as good and as quick, and better or quicker.
    """
    pruned = like_with_like(table)
    known = pruned[pruned["value"].notna()]
    pairs = set(zip(known["model"], known["task"], strict=True))
    dense = table[(table["method"] == "dense") & (table["runs"] > 0) & (table["variant"] == "")]
    rows = pd.concat([dense, known])
    marks = [_mark(row, panel, batch_sizes(table)) for row in rows.to_dict("records") for panel in PANELS]
    shown = pd.DataFrame([mark for mark in marks if mark and (mark["model"], mark["task"]) in pairs])
    if shown.empty:
        return shown
    shown = shown[shown["time"].notna() & shown["value"].notna()].reset_index(drop=True)
    best = pd.Series(False, index=shown.index)
    for _, panel in shown.groupby(["model", "task", "panel"]):
        best[panel.index] = efficient(panel["time"], panel["value"])
    return shown.assign(efficient=best)


def efficient(cost: ArrayLike, gain: ArrayLike) -> np.ndarray:
    """Tell which points lie on the efficient frontier.

    Args:
        cost: What should be small, ``[points]``.
        gain: What should be large, ``[points]``.

    Returns:
        bool ``[points]``: no other point costs at most as much and gains at least as much, and is better in one of the
        two. Points with a value that is not finite are never on it.
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
    return {
        **{key: row[key] for key in ("model", "model_random", "task", "method", "form")},
        "panel": panel,
        "unit": unit,
        "metric": row["metric"],
        "sparsity_percent": 100 * row["sparsity"],
        "time": factor * row[name],
        "time_low": factor * time_low,
        "time_high": factor * time_high,
        "value": 100 * row["value"],
        "low": 100 * low,
        "high": 100 * high,
        "seeds": row["runs"],
    }


def _plot(shown: pd.DataFrame, left_out: bool) -> Figure:
    """Draw two panels for each model and task, with one legend above; say if some are left out."""
    rows_of = {(str(model), str(task)): rows for (model, task), rows in shown.groupby(["model", "task"], sort=False)}
    pairs = drawn_pairs(list(rows_of))
    figure = Figure(figsize=(PAGE_WIDTH, 0.75 + 2.3 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), len(PANELS), squeeze=False, sharey="row")
    for axes_row, (model, task) in zip(grid, pairs, strict=True):
        rows = rows_of[model, task]
        for axes, panel in zip(axes_row, PANELS, strict=True):
            _panel(axes, rows[rows["panel"] == panel])
        random = " (random weights)" if rows["model_random"].any() else ""
        axes_row[0].set_title(f"{model}{random} on {task}", loc="left", fontweight="bold")
        axes_row[0].set_ylabel(f"{rows['metric'].iloc[0].replace('_', ' ')} (%)")
    looks = [method_look(method) for method in shown["method"].unique()]
    handles = [Line2D([], [], **(look | {"linestyle": ""})) for look in looks]
    handles.append(Line2D([], [], color=INK, lw=1, label="efficient frontier"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    bars = "bars: ± 1 sd over seeds" if shown["seeds"].max() > 1 else "one seed a point"
    rest = "; with one method alone: Figure 4" if left_out else ""
    more = len(rows_of) - len(pairs)
    rest += (
        f"\nof {len(rows_of)} pairs of model and task {len(pairs)} are drawn, {more} more are in the csv"
        if more
        else ""
    )
    figure.supxlabel(f"numbers: sparsity in %; {bars}; up and to the left is better{rest}", fontsize=7, color=GREY)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the marks of one panel, their sparsities, and the frontier as steps."""
    if rows.empty:
        say_empty(axes, "not measured")
        return
    for method, some in rows.groupby("method", sort=False):
        look = method_look(str(method)) | {"linestyle": "", "zorder": 3}
        bars: dict[str, Any] = {"xerr": _spread(some, "time", "time_"), "yerr": _spread(some, "value", "")}
        axes.errorbar(some["time"], some["value"], **bars, elinewidth=0.7, **look)
    best = rows[rows["efficient"]].sort_values("time")
    x, y = [*best["time"], rows["time"].max()], [*best["value"], best["value"].iloc[-1]]
    axes.step(x, y, where="post", color=INK, lw=1, zorder=2, alpha=0.7)
    for row in rows[rows["method"] != "dense"].to_dict("records"):
        text = {
            "textcoords": "offset points",
            "xytext": (4, -7),
            "fontsize": 6,
            "color": method_look(row["method"])["color"],
        }
        axes.annotate(f"{row['sparsity_percent']:.0f}", (row["time"], row["value"]), **text)
    quantity, _, how = rows["unit"].iloc[0].partition(", ")
    axes.set_xlabel(f"{quantity}, {how}")
    axes.margins(0.12)  # room for the numbers
    axes.set_xlim(left=0)
    at_least(axes, METRIC_SPAN)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _spread(rows: pd.DataFrame, middle: str, prefix: str) -> list[pd.Series]:
    below, above = rows[middle] - rows[f"{prefix}low"], rows[f"{prefix}high"] - rows[middle]
    return [below.fillna(0).clip(lower=0), above.fillna(0).clip(lower=0)]
