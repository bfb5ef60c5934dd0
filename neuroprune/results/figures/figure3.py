"""Figure 3: which head of a layer is removed how often; the paper finds that the last one is kept most."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroprune.results.figures.style import COLOURS, PAGE_WIDTH, nothing_to_show
from neuroprune.results.runs import layers_of, read_runs

FEWEST, OF = 10, 144  # the paper counts runs of BERT-base with at least 10 of 144 heads removed
TOP = 3  # layers


def figure3(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 3 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure, and what it shows: one row a bar. A note in place of both if no finished NeuroPrune run has removed
        enough heads.

    Raises:
        UserError: If there is no table of runs.
    """
    runs = runs_with_removed_heads(read_runs(study_dir))
    if runs.empty:
        return nothing_to_show(
            "Nothing to show: no finished NeuroPrune run has removed 10 heads (of a small model: 7 % of them)."
        )
    first = "sst2" if "sst2" in set(runs["task"]) else runs["task"].iloc[0]
    parts = [
        _shares(runs[runs["task"] == first], f"{first}, top {TOP} layers", "run", top=True),
        _shares(runs[runs["task"] == first], f"{first}, all layers", "run", top=False),
        _shares(runs, "mean over tasks, all layers", "task", top=False),
    ]
    return _plot(parts, str(runs["model"].iloc[0])), pd.concat(parts, ignore_index=True)


def runs_with_removed_heads(runs: pd.DataFrame) -> pd.DataFrame:
    """Choose NeuroPrune runs of one model with enough removed heads: of the penalty form if there are, else targets.

    Args:
        runs: The tidy table.

    Returns:
        Rows of the first model that has any, with the columns ``left`` (heads left in each layer) and ``removed``
        (positions of removed heads in each layer); none if there is no such run.
    """
    done = runs[(runs["status"] == "done") & (runs["method"] == "neuroprune")]
    removed = done["removed_heads"].map(layers_of)
    left = done["heads_per_layer"].map(lambda text: [layer[0] for layer in layers_of(text)])
    done = done.assign(removed=removed, left=left)
    many = [_enough(removed, left) for removed, left in zip(done["removed"], done["left"], strict=True)]
    enough = done[np.array(many, dtype=bool)]
    for form in ("penalty", "target"):
        chosen = enough[enough["form"] == form]
        if len(chosen):
            return chosen[chosen["model"] == chosen["model"].iloc[0]]
    return enough


def _enough(removed: list[list[int]], left: list[int]) -> bool:
    gone = sum(map(len, removed))
    return gone >= min(FEWEST, max(1, math.ceil((gone + sum(left)) * FEWEST / OF)))


def _shares(runs: pd.DataFrame, panel: str, over: str, top: bool) -> pd.DataFrame:
    """Average over runs, or over the means of tasks: the share of layers in which each head is removed."""
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
    """Return for each head of a layer the share of layers that have it and have lost it."""
    heads = [len(gone) + there for gone, there in zip(removed, left, strict=True)]
    layers = list(zip(removed, heads, strict=True))[-TOP if top else 0 :]
    most = max(heads)
    lost, had = np.zeros(most), np.zeros(most)
    for gone, count in layers:
        lost[gone] += 1
        had[:count] += 1
    return lost / np.maximum(had, 1)


def _plot(parts: list[pd.DataFrame], model: str) -> Figure:
    """Draw the two panels of one task together and the one of all tasks beside them."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.3), layout="constrained")
    panels = figure.subplots(1, len(parts), sharey=True)
    for axes, part, colour in zip(panels, parts, COLOURS, strict=False):
        _panel(axes, part, colour)
    panels[0].set_ylabel("layers that lost this head (%)")
    figure.suptitle(f"{model}, NeuroPrune", fontsize=8, fontweight="bold", x=0.01, ha="left")
    return figure


def _panel(axes: Axes, part: pd.DataFrame, colour: str) -> None:
    """Draw one bar a head with its spread."""
    axes.bar(part["head"], part["removed_percent"], color=colour, width=0.75)
    if part["sd"].notna().any():
        low = part["sd"].clip(upper=part["removed_percent"])  # no share lies below 0 or above 100
        high = part["sd"].clip(upper=100 - part["removed_percent"])
        place: dict[str, Any] = {"fmt": "none", "ecolor": "#222222", "elinewidth": 0.8, "capsize": 1.6}
        axes.errorbar(part["head"], part["removed_percent"], yerr=[low.fillna(0), high.fillna(0)], **place)
    count, over = part["count"].iloc[0], part["averaged_over"].iloc[0]
    axes.set_title(f"{part['panel'].iloc[0]}\n{count} {over if count > 1 else over[:-1]}", loc="left")
    axes.set(xlabel="head (counted from 0)", ylim=(0, None))
    step = 1 if len(part) <= 12 else 4
    axes.set_xticks(part["head"][::step])
    axes.grid(visible=False, axis="x")
