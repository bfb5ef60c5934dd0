"""What the strength of preferential attachment does: metric, sparsity and spread of degrees against alpha."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuroprune.results.figures.style import (
    GREY,
    METRIC_SPAN,
    PAGE_WIDTH,
    TASK_MARKERS,
    at_least,
    colours,
    nothing_to_show,
    say_empty,
)
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.summary import summarize

MOST_TICKS = 5  # strengths that are written below the axis one by one
PANELS = {
    "value": ("metric (%)", 100),
    "sparsity": ("sparsity (%)", 100),
    "degree_sd_percent": ("sd of the degrees (%)", 1),
}


def strengths(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw the paper's penalty form against its strength.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure, and what it shows: one row a mark. A note in place of both unless two finished runs of the penalty
        form differ in alpha.

    Raises:
        UserError: If there is no table of runs.
    """
    table = summarize(read_runs(study_dir))
    usual = (table["runs"] > 0) & (table["method"] == "neuroprune") & (table["variant"] == "")
    rows = table[usual & (table["alpha"] > 0)]
    if rows["alpha"].nunique() < 2:
        return nothing_to_show("Nothing to show: no two finished NeuroPrune runs differ in the penalty's strength α.")
    shown = pd.concat(
        [
            rows[["model", "task", "mode", "alpha", "beta", "theta"]].assign(
                panel=name, unit=unit, value=factor * rows[name], sd=factor * rows[f"{name}_sd"], seeds=rows["runs"]
            )
            for name, (unit, factor) in PANELS.items()
        ],
        ignore_index=True,
    )
    return _plot(shown), shown


def _plot(shown: pd.DataFrame) -> Figure:
    """Draw a panel a quantity and a line for each series in which only the strength grows."""
    names = [f"{task}, {mode}" for task, mode in zip(shown["task"], shown["mode"], strict=True)]
    looks = dict(
        zip(
            dict.fromkeys(names),
            zip(colours(dict.fromkeys(names)).values(), TASK_MARKERS * 9, strict=False),
            strict=True,
        )
    )
    figure = Figure(figsize=(PAGE_WIDTH, 2.5), layout="constrained")
    for axes, (panel, (unit, _)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _panel(axes, shown.assign(name=names)[shown["panel"] == panel], looks)
        axes.set(xlabel="strength α of the MLP penalty", ylabel=unit)
    handles = [Line2D([], [], color=c, marker=m, label=name) for name, (c, m) in looks.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    figure.suptitle(", ".join(shown["model"].unique()), fontsize=8, fontweight="bold", x=0.01, ha="left")
    note = "a line: one θ, and one β or one ratio of β to α" + ("; bars: ± 1 sd" if shown["seeds"].max() > 1 else "")
    figure.supxlabel(note, fontsize=7, color=GREY)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """Draw one quantity on a logarithmic axis of strengths."""
    rows = rows[rows["value"].notna()]
    if rows.empty:
        say_empty(axes, "not recorded")
        return
    same_beta = rows.groupby(["model", "name", "theta", "beta"], dropna=False)["alpha"].nunique().max() > 1
    series = rows["beta"] if same_beta else (rows["beta"] / rows["alpha"]).round(6)
    for (_, name, _, _), some in rows.assign(series=series).groupby(["model", "name", "theta", "series"], dropna=False):
        line, (colour, marker) = some.sort_values("alpha"), looks[str(name)]
        axes.errorbar(line["alpha"], line["value"], yerr=line["sd"].fillna(0), color=colour, marker=marker, capsize=1.8)
    axes.set_xscale("log")
    values = sorted(rows["alpha"].unique())
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values, [f"{alpha:g}" for alpha in values])
        axes.minorticks_off()
    if rows["panel"].iloc[0] == "value":
        at_least(axes, METRIC_SPAN)
