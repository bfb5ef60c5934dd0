"""Metric, sparsity and standard deviation of degrees against α, the strength of preferential attachment."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuroprune.results.figures.context import below, pair_title, seeds, weights
from neuroprune.results.figures.grid import KEY_LETTERS, LEGEND_LETTERS
from neuroprune.results.figures.style import (
    COLOURS,
    METRIC_SPAN,
    PAGE_WIDTH,
    TASK_MARKERS,
    at_least,
    colours,
    empty_key,
    mark_empty,
    nothing_to_show,
    say_below,
    say_empty,
    titled,
)
from neuroprune.results.runs import method_label, read_runs
from neuroprune.results.tables.summary import summarize

MOST_TICKS = 5  # up to this many strengths are all labelled on the axis
TITLE_LETTERS = 95  # per line
PANELS = {
    "value": ("metric (%)", 100),
    "sparsity": ("sparsity (%)", 100),
    "degree_sd_percent": ("sd of the degrees (%)", 1),
}


def strengths(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw the results of NeuroPrune's penalty form against its strength α.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark. Both are replaced by a note unless two finished runs of the penalty
        form differ in alpha.

    Raises:
        UserError: If the table of runs is missing.
    """
    table = summarize(read_runs(study_dir))
    usual = (table["runs"] > 0) & (table["method"] == "neuroprune") & (table["variant"] == "")
    rows = table[usual & (table["alpha"] > 0)]
    if rows["alpha"].nunique() < 2:
        return nothing_to_show("Nothing to show: no two finished NeuroPrune runs differ in the penalty's strength α.")
    kept = ["model", "task", "mode", "alpha", "beta", "theta", "empty_layers"]
    shown = pd.concat(
        [
            rows[kept].assign(
                panel=name, unit=unit, value=factor * rows[name], sd=factor * rows[f"{name}_sd"], seeds=rows["runs"]
            )
            for name, (unit, factor) in PANELS.items()
        ],
        ignore_index=True,
    )
    shown = shown.assign(series=_series(shown))
    return _plot(shown, _title(rows)), shown


def _title(rows: pd.DataFrame) -> str:
    """Name all models with their weights, and all tasks."""
    pairs = rows.drop_duplicates(["model", "task"]).to_dict("records")
    if len(pairs) == 1:
        return pair_title(pairs[0])
    models = [f"{pair['model']} ({weights(pair['model_random'])})" for pair in pairs]
    return f"{_listed(models)} on {_listed(pair['task'] for pair in pairs)}"


def _listed(names: Iterable[str]) -> str:
    """Join different names: `a, b and c`."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last


def _series(shown: pd.DataFrame) -> list[str]:
    """Return the label of each mark's line: mode, θ, and β or, if no two runs share β, its ratio to α.

    Where there are several models or tasks, their names come first.
    """
    same_beta = shown.groupby(["model", "task", "mode", "theta", "beta"], dropna=False)["alpha"].nunique().max() > 1
    several = [name for name in ("model", "task") if shown[name].nunique() > 1]
    names = []
    for row in shown.to_dict("records"):
        beta = f"β {row['beta']:g}" if same_beta else f"β/α {row['beta'] / row['alpha']:.3g}"
        names.append(", ".join([*(row[name] for name in several), row["mode"], beta, f"θ {row['theta']:g}"]))
    return names


def _plot(shown: pd.DataFrame, title: str) -> Figure:
    """Draw one panel per quantity and one line per series in which only the strength varies."""
    names = list(dict.fromkeys(shown["series"]))
    markers = [TASK_MARKERS[(place + place // len(COLOURS)) % len(TASK_MARKERS)] for place in range(len(names))]
    looks = dict(zip(names, zip(colours(names).values(), markers, strict=True), strict=True))
    handles = [Line2D([], [], color=c, marker=m, label=name) for name, (c, m) in looks.items()]
    handles += empty_key(shown)
    columns = max(1, min(3, LEGEND_LETTERS // (KEY_LETTERS + max(map(len, names)))))
    lines = textwrap.wrap(f"{title}: {method_label('neuroprune', 'penalty')}", TITLE_LETTERS)
    more = len(lines) - 1 + max(0, math.ceil(len(handles) / columns) - 2)  # lines of the title and legend
    figure = Figure(figsize=(PAGE_WIDTH, 3.0 + 0.16 * more), layout="constrained")
    panels = titled(figure, "\n".join(lines)).subplots(1, len(PANELS))
    for axes, (panel, (unit, _)) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, shown[shown["panel"] == panel], looks)
        axes.set(xlabel="strength α of the MLP penalty", ylabel="%")
        axes.set_title(unit.removesuffix(" (%)"), loc="left")
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    say_below(figure, below("lines join runs that differ only in α", seeds(shown["seeds"])))
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """Draw one quantity on a logarithmic axis of strengths."""
    rows = rows[rows["value"].notna()]
    if rows.empty:
        say_empty(axes, "not recorded")
        return
    for name, some in rows.groupby("series", sort=False):
        line, (colour, marker) = some.sort_values("alpha"), looks[str(name)]
        axes.errorbar(line["alpha"], line["value"], yerr=line["sd"].fillna(0), color=colour, marker=marker, capsize=1.8)
    mark_empty(axes, rows, "alpha", "value")
    axes.set_xscale("log")
    values = sorted(rows["alpha"].unique())
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values, [f"{alpha:g}".replace("e-0", "e-") for alpha in values])
        axes.minorticks_off()
    if rows["panel"].iloc[0] == "value":
        at_least(axes, METRIC_SPAN)
