"""Metric, sparsity and standard deviation of degrees against α, the strength of preferential attachment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuroprune.results.figures.context import SEVERAL_TASKS, below, pair_title, seeds
from neuroprune.results.figures.style import (
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
    titles = rows.drop_duplicates(["model", "task"]).to_dict("records")
    return _plot(shown, pair_title(titles[0] | (SEVERAL_TASKS if len(titles) > 1 else {}))), shown


def _series(shown: pd.DataFrame) -> list[str]:
    """Return the label of each mark's line: mode, θ, and β or, if no two runs share β, its ratio to α."""
    same_beta = shown.groupby(["model", "task", "mode", "theta", "beta"], dropna=False)["alpha"].nunique().max() > 1
    several = shown["task"].nunique() > 1
    names = []
    for row in shown.to_dict("records"):
        beta = f"β {row['beta']:g}" if same_beta else f"β/α {row['beta'] / row['alpha']:.3g}"
        names.append(", ".join([*([row["task"]] if several else []), row["mode"], beta, f"θ {row['theta']:g}"]))
    return names


def _plot(shown: pd.DataFrame, title: str) -> Figure:
    """Draw one panel per quantity and one line per series in which only the strength varies."""
    names = list(dict.fromkeys(shown["series"]))
    looks = dict(zip(names, zip(colours(names).values(), TASK_MARKERS * 9, strict=False), strict=True))
    figure = Figure(figsize=(PAGE_WIDTH, 3.0), layout="constrained")
    panels = titled(figure, f"{title}: {method_label('neuroprune', 'penalty')}").subplots(1, len(PANELS))
    for axes, (panel, (unit, _)) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, shown[shown["panel"] == panel], looks)
        axes.set(xlabel="strength α of the MLP penalty", ylabel="%")
        axes.set_title(unit.removesuffix(" (%)"), loc="left")
    handles = [Line2D([], [], color=c, marker=m, label=name) for name, (c, m) in looks.items()]
    handles += empty_key(shown)
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    say_below(figure, below("lines join runs that differ only in α", seeds(shown["seeds"])))
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """Draw one quantity on a logarithmic axis of strengths."""
    rows = rows[rows["value"].notna()]
    if rows.empty:
        say_empty(axes, "not recorded")
        return
    for (_, name), some in rows.groupby(["model", "series"], sort=False):
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
