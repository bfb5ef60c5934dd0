"""Figure 3: removal frequency of heads by position in the layer; in the paper, the last head is kept most often."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroprune.results.figures.context import SEVERAL_TASKS, below, pair_title, penalties
from neuroprune.results.figures.style import INK, PAGE_WIDTH, method_look, nothing_to_show, say_below
from neuroprune.results.runs import drawn_runs, layers_of, method_label

FEWEST, OF = 10, 144  # the paper counts runs of BERT-base with at least 10 of 144 heads removed
TOP = 3  # layers


def figure3(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 3 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per bar. Both are replaced by a note if no finished NeuroPrune run has removed
        enough heads.

    Raises:
        UserError: If the table of runs is missing.
    """
    found = runs_with_removed_heads(drawn_runs(study_dir))
    if not found:
        return nothing_to_show(
            "Nothing to show: no finished NeuroPrune run has removed 10 heads (of a small model: 7 % of them)."
        )
    parts = {form: _parts(runs).assign(form=form) for form, runs in found.items()}
    return _plot(parts, pd.concat(list(found.values()))), pd.concat(list(parts.values()), ignore_index=True)


def _parts(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the bars of one algorithm: one task's top layers, all its layers, and the mean over tasks."""
    first = "sst2" if "sst2" in set(runs["task"]) else runs["task"].iloc[0]
    parts = [
        _shares(runs[runs["task"] == first], f"{first}, top {TOP} layers", "run", top=True),
        _shares(runs[runs["task"] == first], f"{first}, all layers", "run", top=False),
    ]
    if runs["task"].nunique() > 1:
        parts.append(_shares(runs, "mean over tasks, all layers", "task", top=False))
    return pd.concat(parts, ignore_index=True)


def runs_with_removed_heads(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Choose the runs of both NeuroPrune algorithms with enough removed heads.

    Args:
        runs: The tidy table.

    Returns:
        For each form with such runs, the paper's penalties first: its rows of the first model that has any, with the
        added columns ``left`` (remaining heads per layer) and ``removed`` (positions of removed heads per layer).
    """
    done = runs[(runs["status"] == "done") & (runs["method"] == "neuroprune")]
    removed = done["removed_heads"].map(layers_of)
    left = done["heads_per_layer"].map(lambda text: [layer[0] for layer in layers_of(text)])
    done = done.assign(removed=removed, left=left)
    many = [_enough(removed, left) for removed, left in zip(done["removed"], done["left"], strict=True)]
    enough = done[np.array(many, dtype=bool)]
    enough = enough[enough["model"] == enough["model"].iloc[0]] if len(enough) else enough
    return {
        form: enough[enough["form"] == form]
        for form in ("penalty", "regulated", "target")
        if (enough["form"] == form).any()
    }


def _enough(removed: list[list[int]], left: list[int]) -> bool:
    gone = sum(map(len, removed))
    return gone >= min(FEWEST, max(1, math.ceil((gone + sum(left)) * FEWEST / OF)))


def _shares(runs: pd.DataFrame, panel: str, over: str, top: bool) -> pd.DataFrame:
    """Return the fraction of layers that lost each head, averaged over runs or over the means of tasks."""
    each = pd.DataFrame([_by_head(row["removed"], row["left"], top) for row in runs.to_dict("records")])
    if over == "task":
        each = each.groupby(runs["task"].to_numpy()).mean()
    return pd.DataFrame(
        {
            "panel": panel,
            "head": each.columns,
            "removed_percent": 100 * each.mean().to_numpy(),
            "sd": 100 * each.std().to_numpy(),
            "averaged_over": f"{over}s",
            "count": len(each),
        }
    )


def _by_head(removed: list[list[int]], left: list[int], top: bool) -> np.ndarray:
    """Return, for each head position, the fraction of layers with this head that have lost it."""
    heads = [max(len(gone) + there, 1 + max(gone, default=-1)) for gone, there in zip(removed, left, strict=True)]
    layers = list(zip(removed, heads, strict=True))[-TOP if top else 0 :]
    most = max(heads)
    lost, had = np.zeros(most), np.zeros(most)
    for gone, count in layers:
        lost[gone] += 1
        had[:count] += 1
    return lost / np.maximum(had, 1)


def _plot(parts: dict[str, pd.DataFrame], runs: pd.DataFrame) -> Figure:
    """Draw one row of panels per form; all rows have the width of the longest."""
    most = max(part["panel"].nunique() for part in parts.values())
    figure = Figure(figsize=(PAGE_WIDTH, 0.75 + 1.85 * len(parts)), layout="constrained")
    grid = figure.subplots(len(parts), most, squeeze=False, sharey="row")
    for axes_row, (form, part) in zip(grid, parts.items(), strict=True):
        panels = list(part.groupby("panel", sort=False))
        for axes, (_, bars) in zip(axes_row, panels, strict=False):
            _panel(axes, bars, method_look("neuroprune", form)["color"])
        for axes in axes_row[len(panels) :]:
            axes.set_axis_off()
        axes_row[0].set_ylabel(f"{method_label('neuroprune', form)}\nlayers that lost this head (%)", fontsize=7)
    first = runs.iloc[0].to_dict()
    title = pair_title(first if runs["task"].nunique() == 1 else first | SEVERAL_TASKS)
    figure.suptitle(title, fontsize=8, fontweight="bold", x=0.01, ha="left")
    say_below(
        figure, below(*penalties(runs), "all strengths and sparsities pooled", "bars: ± 1 sd over the n runs or tasks")
    )
    return figure


def _panel(axes: Axes, part: pd.DataFrame, colour: str) -> None:
    """Draw one bar per head with its standard deviation."""
    axes.bar(part["head"], part["removed_percent"], color=colour, width=0.75)
    if part["sd"].notna().any():
        low = part["sd"].clip(upper=part["removed_percent"])  # percentages are between 0 and 100
        high = part["sd"].clip(upper=100 - part["removed_percent"])
        place: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 0.8, "capsize": 1.6}
        axes.errorbar(part["head"], part["removed_percent"], yerr=[low.fillna(0), high.fillna(0)], **place)
    count, over = part["count"].iloc[0], part["averaged_over"].iloc[0]
    axes.set_title(f"{part['panel'].iloc[0]}\nn = {count} {over if count > 1 else over[:-1]}", loc="left")
    axes.set(xlabel="head (counted from 0)", ylim=(0, None))
    step = 1 if len(part) <= 12 else 4
    axes.set_xticks(part["head"][::step])
    axes.grid(visible=False, axis="x")
