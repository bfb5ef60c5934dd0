"""Figure 2: distribution of MLP neuron degrees, and its standard deviation against sparsity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroprune.results.figures.context import SEVERAL_TASKS, below, penalties, runs_title, seeds
from neuroprune.results.figures.style import (
    GREY,
    PAGE_WIDTH,
    TASK_MARKERS,
    colours,
    mark_empty,
    nothing_to_show,
    say_below,
    say_empty,
)
from neuroprune.results.records import read_arrays
from neuroprune.results.runs import neuroprune_runs, read_runs, run_file, usual_first, with_file
from neuroprune.results.tables.nearest import nearest_runs
from neuroprune.results.tables.published import FIGURE2_SPREAD, SPREAD, is_the_papers

DEGREES = "degrees.safetensors"
BINS = 50
MOST_ROWS = 7  # largest number of distributions in the left panel


def figure2(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 2 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv`` and the runs' ``degrees.safetensors``.

    Returns:
        The figure and its data: bins of the left panel and points of the right one. Both are replaced by a note if no
        NeuroPrune run is finished or none has stored its degrees.

    Raises:
        UserError: If the table of runs is missing or an array can't be read.
    """
    runs = read_runs(study_dir)
    pruned = neuroprune_runs(runs)
    if pruned.empty:
        return nothing_to_show("Nothing to show: no NeuroPrune run is finished.")
    model = pruned["model"].iloc[0]
    same = (runs["model"] == model) & runs["task"].isin(pruned.loc[pruned["model"] == model, "task"])
    dense = runs[(runs["status"] == "done") & (runs["method"] == "dense") & same]
    both = pd.concat([_usual_of_each_task(dense), nearest_runs(pruned[pruned["model"] == model])])
    histograms, spreads = degree_histograms(study_dir, both), degree_spreads(both)
    if any(is_the_papers(str(model), task, SPREAD) for task in spreads.get("task", ())):
        spreads = pd.concat([spreads, published_spreads()])
    if histograms.empty and spreads.empty:
        return nothing_to_show("Nothing to show: no run has stored the degrees of its neurons.")
    chosen = both[both["method"] != "dense"]
    return _plot(histograms, spreads, chosen), pd.concat([histograms, spreads], ignore_index=True)


def _usual_of_each_task(dense: pd.DataFrame) -> pd.DataFrame:
    """Keep one kind of dense run for each task, preferably the one without unusual options."""
    first = usual_first(dense).drop_duplicates("task")["group"]
    return dense[dense["group"].isin(first)]


def degree_histograms(study_dir: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Count neurons by fractional degree for the first seed of each run of the first task with arrays.

    Args:
        study_dir: The study's folder.
        runs: The dense and pruned runs of one model.

    Returns:
        One row per bin: ``panel`` (``distribution``), ``task``, ``run``, ``sparsity_percent``, ``empty_layers``,
        ``degree_from``, ``degree_to``, ``neurons_percent``.
    """
    there = with_file(study_dir, runs, DEGREES)
    if there.empty:
        return pd.DataFrame()
    task = next((task for task in there["task"] if (there["task"] == task).sum() > 1), there["task"].iloc[0])
    chosen = there[there["task"] == task].sort_values("seed", kind="stable").drop_duplicates("group")
    chosen = chosen.sort_values("sparsity")
    if len(chosen) > MOST_ROWS:  # evenly spaced, including the first and last
        chosen = chosen.iloc[np.linspace(0, len(chosen) - 1, MOST_ROWS).round().astype(int)]
    return pd.concat([_histogram(row, run_file(study_dir, row["run"], DEGREES)) for row in chosen.to_dict("records")])


def _histogram(row: dict[Any, Any], path: Path) -> pd.DataFrame:
    """Count one run's neurons by degree, over the rows of all expanding and contracting MLP matrices."""
    degrees = np.concatenate([values.astype(float).ravel() for values in read_arrays(path).values()])
    counts, edges = np.histogram(degrees, bins=BINS, range=(0.0, 1.0))
    return pd.DataFrame(
        {
            "panel": "distribution",
            "task": row["task"],
            "run": row["run"],
            "sparsity_percent": 100 * row["sparsity"],
            "empty_layers": row["empty_layers"],
            "degree_from": edges[:-1],
            "degree_to": edges[1:],
            "neurons_percent": 100 * counts / max(1, degrees.size),
        }
    )


def degree_spreads(runs: pd.DataFrame) -> pd.DataFrame:
    """Average the standard deviation of degrees over seeds.

    Args:
        runs: The dense and pruned runs of one model.

    Returns:
        One row per point: ``panel`` (``spread``), ``task``, ``sparsity_percent``, ``spread_percent`` (mean),
        ``spread_sd`` (over seeds, NaN for one), ``seeds``, ``empty_layers``, ``source`` (``ours``); sorted by task and
        ascending sparsity.
    """
    known = runs[runs["degree_sd_percent"].notna()]
    groups = known.groupby(["task", "group"], sort=False).agg(
        sparsity_percent=("sparsity", lambda values: 100 * values.mean()),
        spread_percent=("degree_sd_percent", "mean"),
        spread_sd=("degree_sd_percent", "std"),
        seeds=("seed", "size"),
        empty_layers=("empty_layers", "max"),
    )
    points = groups.reset_index().drop(columns="group").assign(panel="spread", source="ours")
    order = {task: place for place, task in enumerate(known["task"].unique())}
    return points.sort_values(["task", "sparsity_percent"], key=lambda c: c.map(order) if c.name == "task" else c)


def published_spreads() -> pd.DataFrame:
    """Return the paper's standard deviations for BERT-base on SST-2, in the format of `degree_spreads`."""
    values = {"sparsity_percent": [100 * s for s in FIGURE2_SPREAD], "spread_percent": list(FIGURE2_SPREAD.values())}
    return pd.DataFrame(values).assign(task=SPREAD[1], panel="spread", source="paper")


def _plot(histograms: pd.DataFrame, spreads: pd.DataFrame, pruned: pd.DataFrame) -> Figure:
    """Draw both panels with title and note."""
    figure = Figure(figsize=(PAGE_WIDTH, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    _distributions(left, histograms)
    _spreads(right, spreads)
    first = pruned.iloc[0].to_dict()
    title = runs_title(first if pruned["task"].nunique() == 1 else first | SEVERAL_TASKS)
    figure.suptitle(title, fontsize=8, fontweight="bold", x=0.01, ha="left")
    crossed = "✗: a layer has lost all its heads or all its neurons" if (pruned["empty_layers"] > 0).any() else ""
    heights = "left: one seed each; heights show the square root of the fraction"
    say_below(figure, below(*penalties(pruned), heights, f"right: {seeds(spreads['seeds'])}", crossed))
    return figure


def _distributions(axes: Axes, histograms: pd.DataFrame) -> None:
    """Draw each run's distribution in a separate strip scaled to its highest bin, with the dense run on top."""
    if histograms.empty:
        say_empty(axes, "no degrees were recorded")
        return
    runs = list(histograms.groupby("run", sort=False))
    shades = colormaps["viridis"](np.linspace(0.0, 0.8, len(runs)))
    for place, ((_, bins), shade) in enumerate(zip(runs, shades, strict=True)):
        base, peak = len(runs) - 1 - place, bins["neurons_percent"].max()
        edges = [*bins["degree_from"], bins["degree_to"].iloc[-1]]
        heights = base + 0.82 * np.sqrt(bins["neurons_percent"] / peak)
        axes.stairs(heights, edges, baseline=base, fill=True, color=shade, alpha=0.85)
        axes.text(1.03, base + 0.1, f"peak {peak:.0f} %", fontsize=7, color=GREY, va="bottom")
    names = [_name(bins.iloc[0]) for _, bins in runs]
    axes.set_yticks(range(len(runs)), names[::-1], va="bottom")
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1), ylim=(0, len(runs)), xlabel="fractional degree of an MLP neuron", ylabel="sparsity")
    axes.set_title(f"fraction of neurons, {histograms['task'].iloc[0]}", loc="left")


def _name(row: pd.Series) -> str:
    """Label a strip with its sparsity; a cross marks an empty layer."""
    cross = " ✗" if row["empty_layers"] > 0 else ""
    return "dense" if row["sparsity_percent"] < 0.5 else f"{row['sparsity_percent']:.0f} %{cross}"


def _spreads(axes: Axes, spreads: pd.DataFrame) -> None:
    """Draw one line per task."""
    if spreads.empty:
        say_empty(axes, "no spreads were recorded")
        return
    tasks = colours(spreads["task"].unique())
    for marker, (task, colour) in zip(TASK_MARKERS * len(tasks), tasks.items(), strict=False):
        line = spreads[(spreads["task"] == task) & (spreads["source"] == "ours")]
        error = line["spread_sd"].fillna(0)
        axes.errorbar(
            line["sparsity_percent"],
            line["spread_percent"],
            yerr=error,
            color=colour,
            marker=marker,
            capsize=1.8,
            label=task,
        )
    _published(axes, spreads)
    axes.set(xlabel="sparsity (%)", ylabel="sd of the degrees (%)")
    axes.set_ylim(bottom=0)
    mark_empty(axes, spreads, "sparsity_percent", "spread_percent")
    single = len(tasks) == 1 and (spreads["source"] == "ours").all()
    axes.set_title("MLP spread" + (f", {spreads['task'].iloc[0]}" if single else ""), loc="left")
    if not single:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, handlelength=1.2)


def _published(axes: Axes, spreads: pd.DataFrame) -> None:
    """Add the paper's values if model and task match the paper's."""
    theirs = spreads[spreads["source"] == "paper"]
    if len(theirs):
        place = (theirs["sparsity_percent"], theirs["spread_percent"])
        axes.plot(*place, "*", color=GREY, markersize=9, markerfacecolor="white", label=f"{SPREAD[1]}, paper")
