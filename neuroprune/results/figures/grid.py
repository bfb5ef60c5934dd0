"""Grid of metric, inference and training time, one row per model and task: Figures 4, 5, 11 and forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neuroprune.results.figures.context import below, pair_title, penalties, rough_times, seeds
from neuroprune.results.figures.style import (
    EMPTY,
    INK,
    METRIC_SPAN,
    PAGE_WIDTH,
    at_least,
    bars,
    each_method,
    from_zero,
    mark_empty,
    method_look,
    say_below,
    say_empty,
)
from neuroprune.results.runs import GUESSES
from neuroprune.results.tables.partners import dense_rows
from neuroprune.results.tables.summary import batch_sizes

LEGEND_LETTERS, KEY_LETTERS = 108, 9  # characters per line of the page, and the width of a legend key without its name
FACES = {"majority": INK, "copied": "white"}  # colour of the triangles at the right edge
PANELS = ("metric", "inference", "training")
TITLES: dict[str, Callable[[str], str]] = {  # panel titles, from the unit in the csv
    "metric": lambda unit: unit.removesuffix(" (%)"),
    "inference": lambda unit: f"inference time, {unit.partition(', ')[2]}",
    "training": lambda unit: "training time",
}
UNITS = {"metric": "%", "inference": "ms an example", "training": "seconds"}  # used where no dense run is known
MOST_ROWS = 8  # largest number of rows of panels on a page
SPREAD = 5.0  # ratio to the dense time from which an axis of times is logarithmic
BARS: dict[str, Any] = {"capsize": 1.8, "elinewidth": 0.8}
DENSE_STAR: dict[str, Any] = {"marker": "*", "color": INK, "linestyle": "", "markersize": 6, "label": "dense"}
Pair = tuple[str, pd.DataFrame]


def marks(table: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """List the marks to draw, one per row and panel with a value.

    Args:
        table: The means of ``summarize``, dense models included.
        drawn: The rows to draw; the column ``heading`` is the title of the row of panels.

    Returns:
        One row per mark: ``heading``, ``model``, ``form``, ``task``, ``method``, ``panel``, ``unit``,
        ``sparsity_percent``, ``heads_left``, ``empty_layers``; ``value`` with ``low`` and ``high`` (mean ± standard
        deviation over seeds; for inference of one seed the quartiles of its passes; NaN if there is no spread);
        ``seeds``, ``dense`` (the dense model's value); ``relative``, a time over the dense model's, with
        ``relative_low`` and ``relative_high``, for inference pass by pass in the same job; ``majority`` and ``copied``
        (metric only).
    """
    sizes = batch_sizes(table)
    rows = [_mark(row, panel, sizes, dense_of(table, row)) for row in drawn.to_dict("records") for panel in PANELS]
    shown = pd.DataFrame([row for row in rows if row])
    return shown[shown["value"].notna()].reset_index(drop=True) if len(shown) else shown


def headings(rows: pd.DataFrame) -> list[str]:
    """Return a heading for each row: model, weights, task and training rows."""
    return [pair_title(row) for row in rows.to_dict("records")]


def drawn_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Choose the models and tasks that fit: the first task of every model, then every second task, and so on.

    Args:
        pairs: Models and tasks.

    Returns:
        At most eight of them, in the same order.
    """
    turn = [sum(model == earlier for earlier, _ in pairs[:place]) for place, (model, _) in enumerate(pairs)]
    first = sorted(range(len(pairs)), key=lambda place: turn[place])[:MOST_ROWS]
    return [pairs[place] for place in sorted(first)]


def dense_of(table: pd.DataFrame, row: dict[Any, Any]) -> dict[str, Any]:
    """Return the row of the usual dense run on the same model and task, or an empty one."""
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
        "empty_layers": row["empty_layers"],
        "value": factor * row[name],
        "low": factor * low,
        "high": factor * high,
        "seeds": row["runs"],
        "dense": factor * reference,
        **relative_times(row, panel, name, (low, row[name], high)),
        **{name: factor * row[name] if panel == "metric" else math.nan for name in GUESSES},
    }


def relative_times(row: dict[Any, Any], panel: str, name: str, times: tuple[float, ...]) -> dict[str, float]:
    """Return a time relative to dense with the ends of its error bar; NaN for metrics."""
    names = ("relative_low", "relative", "relative_high")
    if panel == "inference":
        slow, fast = interval(row, speedup := name.replace("inference_ms", "speedup"))
        return dict(zip(names, (1 / fast, 1 / row[speedup], 1 / slow), strict=True))
    scale = row["training_to_dense"] / row[name] if panel == "training" else math.nan
    return dict(zip(names, (scale * time for time in times), strict=True))


def column(row: dict[Any, Any], panel: str, sizes: list[int]) -> tuple[str | None, float, str]:
    """Return a panel's column of the summary, the factor to its unit, and the unit."""
    if panel == "metric":
        return "value", 100.0, f"{row['metric'].replace('_', ' ')} (%)"
    if panel == "training":
        measured = row["train_time"] == row["train_seconds_without_eval"]
        return "train_time", 1.0, f"training ({'s' if measured else 'processor s'}), without evaluation"
    largest = max(sizes, default=None)
    return (f"inference_ms_b{largest}" if largest else None), 1.0, f"inference (ms an example), batch {largest}"


def interval(row: dict[Any, Any], name: str) -> tuple[float, float]:
    """Return the ends of the error bar: mean ± standard deviation, or quartiles of one seed's passes, or NaN."""
    if math.isfinite(row[f"{name}_sd"]):
        return row[name] - row[f"{name}_sd"], row[name] + row[f"{name}_sd"]
    return row.get(f"{name}_q1", math.nan), row.get(f"{name}_q3", math.nan)


def note(runs: pd.DataFrame, drawn: pd.DataFrame, *more: str) -> str:
    """Return the note on penalty strengths, error bars, variation of times, and missing runs."""
    diverged = int((runs["status"] == "diverged").sum())
    left_out = f"{diverged} diverged run{'s' * (diverged > 1)} left out" if diverged else ""
    return below(*penalties(drawn), seeds(drawn["runs"]), *rough_times(runs), *more, left_out)


def plot(shown: pd.DataFrame, note: str, x: str = "sparsity_percent", label: str = "sparsity (%)") -> Figure:
    """Draw the grid of panels with one legend above it.

    A pair of model and task has its own row of panels if any method has marks at several x positions. The other pairs
    share one row of panels, each on its own line. Pairs with a single mark are named below the panels if other pairs
    are drawn.

    Args:
        shown: Output of ``marks``, at least one row.
        note: A text below all panels.
        x: The column on the horizontal axis.
        label: The label of that axis.

    Returns:
        The figure.
    """
    curves, dots, rest = _split(shown.assign(x=shown[x]))
    heights = [1.9] * len(curves) + [0.85 + (0.3 if len(_models(dots)) == 1 else 0.42) * len(dots)] * bool(dots)
    figure = Figure(figsize=(PAGE_WIDTH, 0.8 + sum(heights)), layout="constrained")
    parts = cast(np.ndarray, figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights))[
        :, 0
    ]  # each with the width of its own labels
    for part, (title, rows) in zip(parts, curves, strict=False):
        for axes, panel in zip(part.subplots(1, len(PANELS)), PANELS, strict=True):
            _panel(axes, rows[rows["panel"] == panel], label)
        part.suptitle(title, x=0.01, ha="left", fontsize=8, fontweight="bold")
    if dots:
        for axes, panel in zip(parts[-1].subplots(1, len(PANELS)), PANELS, strict=True):
            _dots(axes, dots, panel)
        parts[-1].suptitle(_dots_title(dots, label), x=0.01, ha="left", fontsize=8, fontweight="bold")
    handles = _legend(shown, figure.axes)
    figure.legend(handles=handles, loc="outside upper center", ncols=_columns(handles))
    say_below(figure, "\n".join([note, *rest]))
    return figure


def _split(shown: pd.DataFrame) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return the pairs with curves, the pairs with marks at one position, and a text about pairs not drawn."""
    groups = shown.groupby("heading", sort=False)
    pairs = {(rows["model"].iloc[0], rows["task"].iloc[0]): (str(title), rows) for title, rows in groups}
    fitting = [pairs[pair] for pair in drawn_pairs(list(pairs))]
    more = len(pairs) - len(fitting)
    rest = [f"{more} more models and tasks are in the csv"] if more else []
    curves = [(title, rows) for title, rows in fitting if _places(rows) > 1]
    dots = [(title, rows) for title, rows in fitting if _places(rows) == 1 and _count(rows) > 1]
    alone = [(title, rows) for title, rows in fitting if _places(rows) == 1 and _count(rows) == 1]
    if alone and not curves and not dots:
        return [], alone, rest
    names = ", ".join(f"{rows['model'].iloc[0]} on {rows['task'].iloc[0]}" for _, rows in alone)
    return curves, dots, [*rest, *([below(f"single runs, see the summary table: {names}")] if alone else [])]


def _places(rows: pd.DataFrame) -> int:
    """Return the largest number of different x positions of one method."""
    return int(rows.assign(x=rows["x"].round()).groupby(["method", "form"])["x"].nunique().max())


def _count(rows: pd.DataFrame) -> int:
    """Count the marks of a panel."""
    return int(rows["panel"].value_counts().max())


def _panel(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    """Draw one panel of curves: one line per method, with the dense model as a dotted line."""
    if rows.empty:
        say_empty(axes, "not measured")
        return
    panel = rows["panel"].iloc[0]
    times = panel != "metric" and rows["relative"].notna().any()
    rows = drawn(rows) if times else rows
    for some, look in each_method(rows):
        line = some.sort_values(["x", "sparsity_percent"])
        axes.errorbar(line["x"], line["value"], yerr=bars(line), **BARS, **look)
    mark_empty(axes, rows, "x", "value")
    if np.isfinite(reference := 1 if times else rows["dense"].mean()):
        axes.axhline(reference, color=INK, linestyle=":", linewidth=1, zorder=1)
    axes.set_title(TITLES[panel](rows["unit"].iloc[0]), loc="left")
    axes.set_ylabel("dense = 1" if times else UNITS[panel])
    axes.set_xlabel(label)
    if panel == "metric":
        at_least(axes, METRIC_SPAN)
        for name in GUESSES:
            _mark_guess(axes, rows, name)
    else:
        from_zero(axes)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    counted = bool((rows["x"] % 1 == 0).all())  # heads
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=counted))


def drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one panel with ``value``, ``low`` and ``high`` as drawn: times relative to dense."""
    if rows.empty or rows["panel"].iloc[0] == "metric":
        return rows
    times = {"value": "relative", "low": "relative_low", "high": "relative_high"}
    return rows.assign(**{name: rows[column] for name, column in times.items()})[rows["relative"].notna()]


def _dots(axes: Axes, pairs: list[Pair], panel: str) -> None:
    """Draw one panel with a line per model and task and a mark on it per method."""
    found = [drawn(rows[rows["panel"] == panel]) for _, rows in pairs]
    if all(rows.empty for rows in found):
        say_empty(axes, "not measured, or\nno dense run")
        return
    for place, rows in enumerate(found):
        offsets = [0.28 * (2 * number / max(1, len(rows) - 1) - 1) * (len(rows) > 1) for number in range(len(rows))]
        rows = rows.assign(y=[place + offset for offset in offsets])
        for some, look in each_method(rows):
            axes.errorbar(some["value"], some["y"], xerr=bars(some), **BARS, **(look | {"linestyle": ""}))
        mark_empty(axes, rows, "value", "y")
        if panel == "metric":
            axes.plot(rows["dense"].dropna().unique(), [place] * rows["dense"].nunique(), **DENSE_STAR)
    if panel != "metric":
        axes.axvline(1, color=INK, linestyle=":", linewidth=1, zorder=1)
    _lines(axes, pairs, panel, pd.concat(found))


def _lines(axes: Axes, pairs: list[Pair], panel: str, rows: pd.DataFrame) -> None:
    """Label the lines and the axis of a panel of dots."""
    titles = [_line_title(title, several=len(_models(pairs)) > 1) for title, _ in pairs]
    axes.set_yticks(range(len(pairs)), titles if panel == PANELS[0] else [""] * len(pairs))
    axes.set_ylim(len(pairs) - 0.45, -0.55)
    units = rows["unit"].unique()
    axes.set_title(TITLES[panel](units[0] if len(units) == 1 else "metric"), loc="left")
    axes.set_xlabel("%" if panel == "metric" else "dense = 1")
    if panel != "metric" and rows["value"].max() > SPREAD:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    elif panel != "metric":
        axes.set_xlim(left=0)


def _models(pairs: list[Pair]) -> list[str]:
    """Return the models of lines of dots, each with its weights in parentheses."""
    return list(dict.fromkeys(title.split(" on ", 1)[0] for title, _ in pairs))


def _line_title(title: str, several: bool) -> str:
    """Return the label of a line: the model if there are several, the task, and its training rows."""
    model, task = title.split(" on ", 1)
    lines = task.replace(", ", "\n")
    return f"{model.split(' (')[0]} on\n{lines}" if several else lines


def _dots_title(pairs: list[Pair], label: str) -> str:
    """Return the title of a panel of dots: the model or the weights, and the common x positions of the marks."""
    models = _models(pairs)
    kinds = dict.fromkeys(model.rstrip(")").split(" (")[-1] for model in models)
    named = models[0] if len(models) == 1 else f"{' and '.join(kinds)} models"
    places = sorted({f"{place:.0f}" for _, rows in pairs for place in rows["x"]})
    return f"{named}, {label}: {', '.join(places)}"


def _mark_guess(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """Mark the metric of the majority class or of copying, if it is within the panel."""
    bottom, top = axes.get_ylim()
    style: dict[str, Any] = {"marker": "<", "label": GUESSES[name], "clip_on": False, "color": INK}
    for value in rows[name].dropna().unique():
        if bottom <= value <= top:
            axes.plot([1.0], [value], markerfacecolor=FACES[name], transform=axes.get_yaxis_transform(), **style)
    axes.set_ylim(bottom, top)


def _columns(handles: list[Line2D]) -> int:
    """Return the number of legend keys that fit side by side."""
    widths = [len(str(handle.get_label())) + KEY_LETTERS for handle in handles]
    return len(handles) if sum(widths) <= LEGEND_LETTERS else max(1, LEGEND_LETTERS // max(widths))


def _legend(shown: pd.DataFrame, panels: list[Axes]) -> list[Line2D]:
    """Return legend keys for each method, the dense model, and other marks."""
    methods = shown[["method", "form"]].drop_duplicates().itertuples(index=False)
    keys = [Line2D([], [], **method_look(str(method), str(form))) for method, form in methods]
    marked = {label for axes in panels for label in axes.get_legend_handles_labels()[1]}
    keys.append(Line2D([], [], color=INK, linestyle=":", linewidth=1, label="dense", marker=_star(marked)))
    for name, label in GUESSES.items():
        if label in marked:
            keys.append(Line2D([], [], color=INK, marker="<", markerfacecolor=FACES[name], linestyle="", label=label))
    return [*keys, *([Line2D([], [], **EMPTY)] if EMPTY["label"] in marked else [])]


def _star(marked: set[str]) -> str:
    return "*" if DENSE_STAR["label"] in marked else ""
