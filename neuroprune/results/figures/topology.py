"""Gini coefficient and tail of MLP neuron degrees by sparsity and method: a test for heavy-tailed connectivity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from neuroprune.results.figures.context import below, pair_title, penalties
from neuroprune.results.figures.heavy_tail import gini, tail
from neuroprune.results.figures.style import (
    GREY,
    PAGE_WIDTH,
    nothing_to_show,
    plot_methods,
    say_below,
    say_empty,
    titled,
)
from neuroprune.results.records import read_arrays
from neuroprune.results.runs import at_sparsities, read_runs, run_file, with_file
from neuroprune.results.tables.formats import NBSP
from neuroprune.results.tables.nearest import nearest_runs

DEGREES = "degrees.safetensors"
NOTE = "ratio above 0: the power law fits the tail better; grey: undecided (p > 0.05); no mark: no tail to fit"
UNDECIDED = 1.96  # standard deviations
MOST_RUNS = 30  # largest number of fitted runs; a fit takes a tenth of a second


def topology(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Gini coefficient, standard deviation and tail of degrees against sparsity for one model and task.

    Args:
        study_dir: The study's folder with ``runs.csv`` and the runs' ``degrees.safetensors``.

    Returns:
        The figure and its data: one row per run. Both are replaced by a note if no pruned run has stored its degrees.

    Raises:
        UserError: If the table of runs is missing or an array can't be read.
    """
    runs = read_runs(study_dir)
    done = runs[(runs["status"] == "done") & (runs["variant"] == "") & runs["sparsity"].notna()]
    there = with_file(study_dir, at_sparsities(done), DEGREES)
    pruned = there[there["method"] != "dense"]
    if pruned.empty:
        return nothing_to_show("Nothing to show: no finished pruned run has stored the degrees of its neurons.")
    model, task = pruned[["model", "task"]].iloc[0]
    same = nearest_runs(there[(there["model"] == model) & (there["task"] == task)])
    chosen = same.sort_values("seed", kind="stable").drop_duplicates("group").head(MOST_RUNS)
    shown = pd.DataFrame([_row(study_dir, row) for row in chosen.to_dict("records")])
    note = below(NOTE, *penalties(chosen), f"one seed per mark (n{NBSP}={NBSP}1)")
    return _plot(shown, pair_title(chosen.iloc[0].to_dict()), note), shown.sort_values(
        ["method", "form", "sparsity_percent"]
    )


def _row(study_dir: Path, row: dict[Any, Any]) -> dict[str, Any]:
    """Measure one run's degrees over the rows of all expanding and contracting MLP matrices, as in Figure 2."""
    arrays = read_arrays(run_file(study_dir, row["run"], DEGREES)).values()
    degrees = np.concatenate([values.astype(float).ravel() for values in arrays])
    return {
        **{key: row[key] for key in ("run", "model", "task", "method", "form", "empty_layers")},
        "sparsity_percent": 100 * row["sparsity"],
        "gini": gini(degrees),
        "sd_percent": 100 * degrees.std(),
        **tail(degrees),
    }


def _plot(shown: pd.DataFrame, heading: str, note: str) -> Figure:
    """Draw one panel per quantity with one line per method and form."""
    figure = Figure(figsize=(PAGE_WIDTH, 4.6), layout="constrained")
    (spread, inequality), (exponential, lognormal) = titled(figure, heading).subplots(2, 2, sharex=True)
    _panel(spread, shown, "sd_percent", "sd of the degrees (%)")
    _panel(inequality, shown, "gini", "Gini coefficient")
    for axes, name in ((exponential, "exponential"), (lognormal, "lognormal")):
        _panel(axes, shown, f"versus_{name}", "log-likelihood ratio (sd)")
        axes.set_yscale(
            "symlog", linthresh=UNDECIDED, linscale=0.4
        )  # linear in the undecided range, so that it is visible
        axes.yaxis.set_major_locator(
            FixedLocator([sign * 10.0**power for power in (1, 2, 3, 4) for sign in (-1, 1)] + [0])
        )
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axhspan(-UNDECIDED, UNDECIDED, color="#e4e4e4", zorder=0)
        axes.axhline(0, color=GREY, lw=0.8)
        axes.set_title(f"power law against {name}", loc="left")
        axes.set_xlabel("sparsity (%)")
    figure.legend(*spread.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    say_below(figure, note)
    return figure


def _panel(axes: Axes, shown: pd.DataFrame, name: str, label: str) -> None:
    """Draw one quantity against sparsity."""
    axes.set_ylabel(label)
    if not shown[name].notna().any():
        say_empty(axes, "no run has a tail to fit")
        return
    plot_methods(axes, shown, "sparsity_percent", name)
