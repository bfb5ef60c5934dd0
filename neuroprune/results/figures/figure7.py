"""Figure 7: importance of removed heads relative to remaining ones, and their distribution over layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroprune.errors import UserError
from neuroprune.results.figures.context import below, pair_title, penalties
from neuroprune.results.figures.figure5 import runs_by_heads
from neuroprune.results.figures.style import (
    PAGE_WIDTH,
    method_look,
    nothing_to_show,
    plot_methods,
    say_below,
    say_empty,
    titled,
)
from neuroprune.results.records import read_arrays
from neuroprune.results.runs import layers_of, read_runs, run_file, usual_first, with_file
from neuroprune.results.tables.summary import summarize

HEADS = "heads.safetensors"
IMPORTANCE = ["panel", "method", "form", "empty_layers", "run", "heads_left", "relative_importance"]


def figure7(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 7 of a study for its translation task, or else for the first task compared by heads.

    Args:
        study_dir: The study's folder with ``runs.csv`` and the dense runs' ``heads.safetensors``.

    Returns:
        The figure and its data: points of the left panel, bars of the right one. Both are replaced by a note if no
        finished run has removed heads.

    Raises:
        UserError: If the table of runs is missing, an array can't be read, or a run has removed heads that the dense
            model does not have.
    """
    runs = read_runs(study_dir)
    rows, _ = runs_by_heads(summarize(runs))
    done = runs[(runs["status"] == "done") & runs["group"].isin(rows["group"])]
    done = done[np.array([any(layers_of(text)) for text in done["removed_heads"]], dtype=bool)]
    if done.empty:
        return nothing_to_show("Nothing to show: no finished run has removed heads.")
    translated = done[done["metric"] == "bleu"]
    model, task = (translated if len(translated) else done)[["model", "task"]].iloc[0]
    ours = done[(done["model"] == model) & (done["task"] == task)]
    ratios, layers = _ratios(ours, _importance(study_dir, runs, str(model), str(task))), _layers(ours)
    note = below(*penalties(ours), "left: each seed separately; right: mean ± 1 sd over all runs of a method")
    return _plot(ratios, layers, pair_title(ours.iloc[0].to_dict()), note), pd.concat(
        [ratios, layers], ignore_index=True
    )


def relative_importance(removed: list[list[int]], importance: list[np.ndarray]) -> float:
    """Return the ratio of the mean importance of removed to remaining heads, averaged over layers with both.

    Args:
        removed: Positions of removed heads for each layer.
        importance: Importance of the heads of each layer, ``[heads]``: the sum of a head's absolute weights in W^O.

    Returns:
        The ratio; below 1 if less important heads were removed; NaN if no layer has both removed and remaining heads.
    """
    ratios = []
    for gone, weights in zip(removed, importance, strict=True):
        stays = np.delete(weights, gone)
        if len(gone) and len(stays) and stays.mean() > 0:
            ratios.append(weights[gone].mean() / stays.mean())
    return float(np.mean(ratios)) if ratios else math.nan


def _importance(study_dir: Path, runs: pd.DataFrame, model: str, task: str) -> list[np.ndarray] | None:
    """Return the importance of heads in the first usual dense run of a model and task that has stored it."""
    dense = runs[(runs["method"] == "dense") & (runs["model"] == model) & (runs["task"] == task)]
    there = with_file(study_dir, usual_first(dense[dense["status"] == "done"]), HEADS)["run"]
    if there.empty:
        return None
    arrays = read_arrays(run_file(study_dir, there.iloc[0], HEADS))
    count = sum(name.startswith("importance.") for name in arrays)
    return [arrays[f"importance.{layer}"].astype(float) for layer in range(count)]


def _ratios(runs: pd.DataFrame, importance: list[np.ndarray] | None) -> pd.DataFrame:
    """Return one row per run: ``panel`` (importance), ``method``, ``run``, ``heads_left``, ``relative_importance``."""
    found: list[dict[str, Any]] = [
        {
            "panel": "importance",
            "method": row["method"],
            "form": row["form"],
            "empty_layers": row["empty_layers"],
            "run": row["run"],
            "heads_left": row["heads_left"],
            "relative_importance": _ratio(str(row["run"]), layers_of(row["removed_heads"]), importance),
        }
        for row in runs.to_dict("records")
        if importance is not None
    ]
    shown = pd.DataFrame(found, columns=IMPORTANCE)
    return shown[shown["relative_importance"].notna()].sort_values("heads_left", kind="stable")


def _ratio(run: str, removed: list[list[int]], importance: list[np.ndarray]) -> float:
    """Return the relative importance; raise UserError if the dense model has no such heads."""
    sizes = [len(weights) for weights in importance]
    if len(removed) != len(sizes) or any(gone and max(gone) >= size for gone, size in zip(removed, sizes, strict=True)):
        raise UserError(
            f"{run}: the dense model, whose layers have {sizes} heads, has no heads at the removed positions "
            f"{removed}; delete the run's run.json and run again."
        )
    return relative_importance(removed, importance)


def _layers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method and layer: ``panel`` (layers), ``removed`` heads, mean, and ``sd`` over ``runs``."""
    rows = []
    for (method, form), some in runs.groupby(["method", "form"], sort=False):
        counts = pd.DataFrame([[len(gone) for gone in layers_of(text)] for text in some["removed_heads"]])
        rows += [
            {"panel": "layers", "method": method, "form": form, "layer": layer, "removed": counts[layer].mean()}
            | {"sd": counts[layer].std(), "runs": len(some)}
            for layer in counts
        ]
    return pd.DataFrame(rows)


def _plot(ratios: pd.DataFrame, layers: pd.DataFrame, heading: str, note: str) -> Figure:
    """Draw both panels."""
    figure = Figure(figsize=(PAGE_WIDTH, 3.0), layout="constrained")
    left, right = titled(figure, heading).subplots(1, 2)
    if ratios.empty:
        say_empty(left, "no dense run has left the\nimportance of its heads")
    else:
        plot_methods(left, ratios, "heads_left", "relative_importance", linestyle="")
        left.axhline(1, color="#777777", lw=0.8, ls=":")
        left.set(xlabel="remaining heads", ylabel="removed / remaining", title="")
        left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    left.set_title("relative importance of removed heads", loc="left")
    _bars(right, layers)
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    say_below(figure, note)
    return figure


def _bars(axes: Axes, layers: pd.DataFrame) -> None:
    """Draw grouped bars: one group per layer, one bar per method."""
    methods = list(layers[["method", "form"]].drop_duplicates().itertuples(index=False, name=None))
    width = 0.8 / len(methods)
    for place, (method, form) in enumerate(methods):
        bars, look = layers[(layers["method"] == method) & (layers["form"] == form)], method_look(method, form)
        x = bars["layer"] + (place - (len(methods) - 1) / 2) * width
        below = np.minimum(bars["sd"], bars["removed"])  # NaN for a single run, which has no error bar
        spread: dict[str, Any] = {"yerr": [below, bars["sd"]], "capsize": 1.6}
        axes.bar(x, bars["removed"], width, color=look["color"], label=look["label"], **spread)
    axes.set(xlabel="attention layer (counted from 0)", ylabel="heads")
    axes.set_title("heads removed", loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.grid(visible=False, axis="x")
