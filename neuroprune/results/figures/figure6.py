"""Figure 6: metric against remaining heads, and sparsity against remaining heads at a similar metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroprune.results.figures.context import below, pair_title, penalties, seeds
from neuroprune.results.figures.figure5 import runs_by_heads
from neuroprune.results.figures.frontier import efficient
from neuroprune.results.figures.grid import interval
from neuroprune.results.figures.style import (
    PAGE_WIDTH,
    bars,
    each_method,
    mark_empty,
    nothing_to_show,
    plot_methods,
    say_below,
    say_empty,
    titled,
)
from neuroprune.results.runs import drawn_runs
from neuroprune.results.tables.partners import dense_rows
from neuroprune.results.tables.summary import summarize

SIMILAR = 0.95  # fraction of the dense model's metric


def figure6(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 6 of a study for its translation task, or else for the first task compared by heads.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark. Both are replaced by a note if no finished run has removed heads.

    Raises:
        UserError: If the table of runs is missing.
    """
    table = summarize(drawn_runs(study_dir))
    rows, _ = runs_by_heads(table)
    rows = rows[rows["value"].notna()]
    if rows.empty:
        return nothing_to_show("Nothing to show: no finished run with a metric has removed heads.")
    translated = rows[rows["metric"] == "bleu"]
    model, task, metric = (translated if len(translated) else rows)[["model", "task", "metric"]].iloc[0]
    all_of_it = table[(table["model"] == model) & (table["task"] == task)]
    curves = _curves(rows[(rows["model"] == model) & (rows["task"] == task)])
    points = _similar(all_of_it)
    note = below(*penalties(all_of_it[all_of_it["runs"] > 0]), seeds(curves["seeds"]))
    figure = _plot(curves, points, str(metric).replace("_", " "), pair_title(all_of_it.iloc[0].to_dict()), note)
    return figure, pd.concat([curves, points], ignore_index=True)


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the left panel: ``method``, ``heads_left``, ``value`` with ``low`` and ``high`` in percent, ``seeds``."""
    spans = [interval(row, "value") for row in rows.to_dict("records")]
    shown = pd.DataFrame(
        {
            "panel": "metric",
            "method": rows["method"],
            "form": rows["form"],
            "heads_left": rows["heads_left"],
            "empty_layers": rows["empty_layers"],
            "value": 100 * rows["value"],
            "low": [100 * low for low, _ in spans],
            "high": [100 * high for _, high in spans],
            "seeds": rows["runs"],
        }
    )
    return shown.sort_values("heads_left", kind="stable")


def _similar(table: pd.DataFrame) -> pd.DataFrame:
    """Return the right panel: finished runs with at least 95 % of the dense metric, with efficient ones marked."""
    dense = dense_rows(table)["value"]
    pruned = table[(table["method"] != "dense") & (table["runs"] > 0)]
    wanted = SIMILAR * (dense.iloc[0] if len(dense) else pruned["value"].max())
    good = pruned[pruned["value"] >= wanted]
    shown = pd.DataFrame(
        {
            "panel": "frontier",
            "method": good["method"],
            "form": good["form"],
            "heads_left": good["heads_left"],
            "empty_layers": good["empty_layers"],
            "sparsity_percent": 100 * good["sparsity"],
            "value": 100 * good["value"],
            "seeds": good["runs"],
        }
    ).sort_values("heads_left", kind="stable")
    return shown.assign(efficient=efficient(shown["heads_left"], shown["sparsity_percent"]))


def _plot(curves: pd.DataFrame, points: pd.DataFrame, metric: str, heading: str, note: str) -> Figure:
    """Draw both panels with one legend."""
    figure = Figure(figsize=(PAGE_WIDTH, 3.1), layout="constrained")
    left, right = titled(figure, heading).subplots(1, 2)
    for line, look in each_method(curves):
        spread = bars(line)
        left.errorbar(line["heads_left"], line["value"], yerr=spread, capsize=1.8, **look)
    mark_empty(left, curves, "heads_left", "value")
    left.set(xlabel="remaining heads", ylabel="%")
    left.set_title(metric, loc="left")
    left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _frontier(right, points, metric)
    handles = {h.get_label(): h for h in left.get_legend_handles_labels()[0] + right.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=min(4, len(handles)))
    say_below(figure, note)
    return figure


def _frontier(axes: Axes, points: pd.DataFrame, metric: str) -> None:
    """Draw the runs with a similar metric, and the efficient frontier as steps."""
    if points.empty:
        say_empty(axes, f"no run reaches {100 * SIMILAR:.0f} % of the dense {metric}")
        return
    plot_methods(axes, points, "heads_left", "sparsity_percent", linestyle="")
    best = points[points["efficient"]]
    axes.step(
        best["heads_left"], best["sparsity_percent"], where="post", color="#222222", lw=1, zorder=1, label="efficient"
    )
    ring: dict[str, Any] = {
        "markersize": 9,
        "markeredgecolor": "#222222",
        "markerfacecolor": "none",
        "markeredgewidth": 0.8,
    }
    axes.plot(best["heads_left"], best["sparsity_percent"], "o", **ring)
    axes.set(xlabel="remaining heads", ylabel="sparsity (%)")
    axes.set_title(f"{metric} at least {100 * SIMILAR:.0f} % of dense", loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
