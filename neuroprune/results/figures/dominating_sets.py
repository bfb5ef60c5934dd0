"""Quality of the paper's approximate dominating set: heads kept by Algorithm 3 and by the exact minimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroprune.pruning.dominating_sets import find_dominating, minimum_dominating_set
from neuroprune.results.figures.style import COLOURS, GREY, PAGE_WIDTH, nothing_to_show
from neuroprune.results.records import read_arrays
from neuroprune.results.runs import drawn_runs, run_file, usual_first, with_file

HEADS = "heads.safetensors"
THRESHOLDS = 12  # number of thresholds: quantiles of all distances of a model
MOST_RUNS = 3


def dominating_sets(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw the sizes of approximate and exact dominating sets on the head graphs stored by runs.

    Args:
        study_dir: The study's folder with ``runs.csv`` and the runs' ``heads.safetensors``.

    Returns:
        The figure and its data: one row per graph (a layer of a run at one threshold). Both are replaced by a note if
        no run has stored the distances of at least two heads.

    Raises:
        UserError: If the table of runs is missing or an array can't be read.
    """
    runs = _choose(study_dir, drawn_runs(study_dir))
    parts = [graphs(read_arrays(run_file(study_dir, run, HEADS))).assign(run=run) for run in runs["run"]]
    shown = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if shown.empty:
        return nothing_to_show("Nothing to show: no finished run has stored the distances between its heads.")
    return _plot(shown), shown


def _choose(study_dir: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Choose finished runs of the first model and task that give graphs of different weights.

    At most three, in this order: the dense run, the first run of each form of NeuroPrune, the first of each other
    method.
    """
    done = with_file(study_dir, runs[runs["status"] == "done"], HEADS)
    ours = (
        done[(done["model"] == done["model"].iloc[0]) & (done["task"] == done["task"].iloc[0])] if len(done) else done
    )
    ranked = usual_first(ours).assign(rank=ours["method"].map({"dense": 0, "neuroprune": 1}).fillna(2))
    return ranked.sort_values(["rank", "seed"], kind="stable").drop_duplicates(["method", "form"]).head(MOST_RUNS)


def graphs(arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """Compare approximate and exact dominating sets on all graphs of one run.

    Args:
        arrays: ``distance.<layer>``: ``[heads, heads]``.

    Returns:
        One row per layer and threshold: ``theta``, ``layer``, ``heads``, ``approximate`` and ``exact`` (numbers of kept
        heads).
    """
    distances = {int(name.split(".")[1]): found for name, found in arrays.items() if name.startswith("distance.")}
    pairs = [found[np.triu_indices(len(found), 1)] for found in distances.values()]
    if not any(len(found) for found in pairs):
        return pd.DataFrame()
    rows = []
    for theta in np.quantile(np.concatenate(pairs), np.linspace(0, 1, THRESHOLDS)):
        for layer, found in sorted(distances.items()):
            similar = found <= theta
            stays = int((find_dominating(similar) == np.arange(len(similar))).sum())
            exact = len(minimum_dominating_set(similar)) if stays > 1 and not similar.all() else stays
            row = {"theta": float(theta), "layer": layer, "heads": len(similar)}
            rows.append(row | {"approximate": stays, "exact": exact})
    return pd.DataFrame(rows)


def _plot(shown: pd.DataFrame) -> Figure:
    """Draw the first run's kept heads against the threshold, and approximate against exact sizes of all graphs."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = shown["run"].iloc[0]
    totals = shown[shown["run"] == first].groupby("theta")[["heads", "approximate", "exact"]].sum()
    for name, colour, style in (("approximate", COLOURS[0], "o-"), ("exact", COLOURS[1], "s--")):
        label = "FIND_DOMINATING" if name == "approximate" else "exact minimum"
        left.plot(totals.index, totals[name], style, color=colour, label=label, markerfacecolor="white")
    left.set(xlabel="threshold θ", ylabel=f"heads kept, of {totals['heads'].iloc[0]}", ylim=(0, None))
    left.set_title(str(first), loc="left", fontsize=7)
    left.legend()
    _scatter(right, shown)
    return figure


def _scatter(axes: Axes, shown: pd.DataFrame) -> None:
    """Draw a circle for each pair of sizes; its area shows the frequency."""
    counts = shown.groupby(["exact", "approximate"]).size().reset_index(name="graphs")
    most = shown["approximate"].max() + 0.7
    axes.plot([0, most], [0, most], color=GREY, lw=0.8, ls=":")
    area = 8 + 160 * counts["graphs"] / counts["graphs"].max()
    axes.scatter(counts["exact"], counts["approximate"], s=area, color=COLOURS[0], alpha=0.55, lw=0)
    equal = (shown["exact"] == shown["approximate"]).mean()
    axes.set(
        xlabel="heads in the exact minimum", ylabel="heads kept by FIND_DOMINATING", xlim=(0, most), ylim=(0, most)
    )
    axes.set_title(f"{len(shown)} graphs of {shown['run'].nunique()} runs: equal in {100 * equal:.0f} %", loc="left")
