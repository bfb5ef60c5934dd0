"""Panels of metric, inference time and training time, one row of them a model: Figures 4, 5, 11 and the two forms."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neuroprune.results.figures.style import (
    FILLED,
    GREY,
    INK,
    METRIC_SPAN,
    PAGE_WIDTH,
    at_least,
    colours,
    from_zero,
    method_line,
    say_empty,
)
from neuroprune.results.runs import GUESSES, LABELS
from neuroprune.results.tables.summary import batch_sizes, dense_rows

LEGEND_LETTERS, KEY_LETTERS = 108, 7  # what fits on a line of the page, and what a key takes beside its name
FACES = {"majority": INK, "copied": "white"}  # of the triangles at the right edge
PANELS = ("metric", "inference", "training")


def marks(table: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """List what is drawn: a mark for each row and panel that has a value.

    Args:
        table: The means of ``summarize``, in which the dense models stand too.
        drawn: Those of its rows that are drawn; a column ``heading`` names the row of panels.

    Returns:
        One row a mark: ``heading``, ``model``, ``form``, ``task``, ``method``, ``panel``, ``unit``,
        ``sparsity_percent``, ``heads_left``; ``value`` with ``low`` and ``high`` (mean ± standard deviation over seeds;
        for inference of one seed the quartiles of its passes; NaN if there is no spread); ``seeds``, ``dense`` (the
        dense model's value), ``majority`` and ``copied`` (metric only).
    """
    sizes = batch_sizes(table)
    rows = [_mark(row, panel, sizes, _dense(table, row)) for row in drawn.to_dict("records") for panel in PANELS]
    shown = pd.DataFrame([row for row in rows if row])
    return shown[shown["value"].notna()].reset_index(drop=True) if len(shown) else shown


def heading(rows: pd.DataFrame, form: bool = True) -> list[str]:
    """Name the model of each row, whether its weights are random, and the form."""
    marks = rows["model_random"].map({True: " (random weights)", False: ""})
    return list(rows["model"] + marks + (", " + rows["form"] + " form" if form else ""))


def _dense(table: pd.DataFrame, row: dict[Any, Any]) -> dict[str, Any]:
    """Return the usual dense model's row on the same model and task, or an empty one."""
    same = table[(table["model"] == row["model"]) & (table["task"] == row["task"])]
    rows = dense_rows(same).to_dict("records")
    return {str(name): value for name, value in rows[0].items()} if rows else {}


def _mark(row: dict[Any, Any], panel: str, sizes: list[int], dense: dict[str, Any]) -> dict[str, Any] | None:
    """Return one mark of one panel, or None if the panel has no column."""
    name, factor, unit = column(row, panel, sizes)
    if name is None:
        return None
    reference = row[f"dense_{name}"] if panel == "inference" else dense.get(name, math.nan)
    low, high = interval(row, name)
    return {
        **{key: row[key] for key in ("heading", "model", "form", "task", "method")},
        "panel": panel,
        "unit": unit,
        "sparsity_percent": 100 * row["sparsity"],
        "heads_left": row["heads_left"],
        "value": factor * row[name],
        "low": factor * low,
        "high": factor * high,
        "seeds": row["runs"],
        "dense": factor * reference,
        **{name: factor * row[name] if panel == "metric" else math.nan for name in GUESSES},
    }


def column(row: dict[Any, Any], panel: str, sizes: list[int]) -> tuple[str | None, float, str]:
    """Return a panel's column of the summary, the factor to its unit, and the unit."""
    if panel == "metric":
        return "value", 100.0, f"{row['metric'].replace('_', ' ')} (%)"
    if panel == "training":
        return "train_seconds_without_eval", 1.0, "training (s), without evaluation"
    largest = max(sizes, default=None)
    return (f"inference_ms_b{largest}" if largest else None), 1.0, f"inference (ms an example), batch {largest}"


def interval(row: dict[Any, Any], name: str) -> tuple[float, float]:
    """Return mean ± standard deviation; for one timed seed the quartiles of its passes; else NaN."""
    if math.isfinite(row[f"{name}_sd"]):
        return row[name] - row[f"{name}_sd"], row[name] + row[f"{name}_sd"]
    return row.get(f"{name}_q1", math.nan), row.get(f"{name}_q3", math.nan)


def note(runs: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Say what the bars are and what is missing."""
    bars = "bars: ± 1 sd over seeds" if shown["seeds"].max() > 1 else "one seed a point"
    diverged = int((runs["status"] == "diverged").sum())
    return bars + (f"; {diverged} diverged run{'s' * (diverged > 1)} left out" if diverged else "")


def plot(shown: pd.DataFrame, note: str, x: str = "sparsity_percent", label: str = "sparsity (%)") -> Figure:
    """Draw the grid of panels with one legend above it.

    Args:
        shown: What ``marks`` has listed, at least one row.
        note: A line below all panels.
        x: The column that runs to the right.
        label: What that column is.

    Returns:
        The figure: a row of panels for each heading.
    """
    headings = list(shown.assign(x=shown[x]).groupby("heading", sort=False))
    tasks = colours(shown["task"].unique())
    figure = Figure(figsize=(PAGE_WIDTH, 0.85 + 1.9 * len(headings)), layout="constrained")
    grid = figure.subplots(len(headings), len(PANELS), squeeze=False, sharex=True)
    for axes_row, (title, rows) in zip(grid, headings, strict=True):
        for axes, panel in zip(axes_row, PANELS, strict=True):
            _panel(axes, rows[rows["panel"] == panel], tasks)
        axes_row[0].set_title(f"{title}\n", loc="left", fontweight="bold")  # above its neighbours' titles
    for axes in grid[-1]:
        axes.set_xlabel(label)
    handles = _legend(shown, tasks)
    marked = {label for axes in grid.flat for label in axes.get_legend_handles_labels()[1]}
    for name, label in GUESSES.items():
        if label in marked:
            handles.append(
                Line2D([], [], color=INK, marker="<", markerfacecolor=FACES[name], linestyle="", label=label)
            )
    figure.legend(handles=handles, loc="outside upper center", ncols=_columns(handles), columnspacing=1.4)
    figure.supxlabel(note, fontsize=7, color=GREY)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, tasks: dict[str, str]) -> None:
    """Draw one panel: a line for each task and method, the dense models as dotted lines."""
    if rows.empty:
        say_empty(axes, "not measured")
        return
    for (task, method), group in rows.groupby(["task", "method"], sort=False):
        line = group.sort_values(["x", "sparsity_percent"])
        below, above = line["value"] - line["low"], line["high"] - line["value"]
        axes.errorbar(
            line["x"],
            line["value"],
            yerr=[below.fillna(0).clip(lower=0), above.fillna(0).clip(lower=0)],
            color=tasks[str(task)],
            capsize=1.8,
            elinewidth=0.8,
            markerfacecolor=tasks[str(task)] if method in FILLED else "white",
            **method_line(str(method)),
        )
    for task, dense in rows.groupby("task", sort=False)["dense"].mean().dropna().items():
        axes.axhline(dense, color=tasks[str(task)], linestyle=":", linewidth=1, zorder=1)
    units = rows["unit"].unique()
    quantity, _, circumstances = (units[0] if len(units) == 1 else "metric (%)").partition(", ")
    axes.set_ylabel(quantity)
    axes.set_title(circumstances, loc="left")
    if rows["panel"].iloc[0] != "metric":
        from_zero(axes)
    else:
        at_least(axes, METRIC_SPAN)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    counted = bool((rows["x"] % 1 == 0).all())  # heads
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=counted))
    for name in GUESSES:
        _mark_guess(axes, rows, tasks, name)


def _mark_guess(axes: Axes, rows: pd.DataFrame, tasks: dict[str, str], name: str) -> None:
    """Point at what the most frequent class, or a copy, would reach alone, if the panel reaches so far."""
    bottom, top = axes.get_ylim()
    style: dict[str, Any] = {"marker": "<", "label": GUESSES[name], "clip_on": False}
    for task, value in rows.groupby("task", sort=False)[name].first().dropna().items():
        if bottom <= value <= top:
            colour = tasks[str(task)]
            face = colour if FACES[name] == INK else FACES[name]
            axes.plot([1.0], [value], color=colour, markerfacecolor=face, transform=axes.get_yaxis_transform(), **style)
    axes.set_ylim(bottom, top)


def _columns(handles: list[Line2D]) -> int:
    """Return how many keys of the legend fit side by side."""
    widths = [len(str(handle.get_label())) + KEY_LETTERS for handle in handles]
    return len(handles) if sum(widths) <= LEGEND_LETTERS else max(1, LEGEND_LETTERS // max(widths))


def _legend(shown: pd.DataFrame, tasks: dict[str, str]) -> list[Line2D]:
    """Return one key for each task, each method, and the dense model."""
    keys = [Line2D([], [], color=colour, linewidth=3, label=task) for task, colour in tasks.items()]
    for method in shown["method"].unique():
        face = INK if method in FILLED else "white"
        label = LABELS.get(method, method)
        keys.append(Line2D([], [], color=INK, markerfacecolor=face, label=label, **method_line(method)))
    return [*keys, Line2D([], [], color=INK, linestyle=":", linewidth=1, label="dense")]
