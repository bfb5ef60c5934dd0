"""Figure 4: metric, inference time and training time against sparsity, one row of panels a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures import grid
from neuroprune.results.figures.style import nothing_to_show
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.nearest import nearest_to_wanted
from neuroprune.results.tables.summary import summarize

LARGE = 300e6  # parameters; larger models are shown in Figure 11


def figure4(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure, and what it shows: one row a mark, see ``grid.marks``. A note in place of both if no pruned run of a
        model of at most 300 M parameters is finished.

    Raises:
        UserError: If there is no table of runs.
    """
    return sparsity_grid(study_dir, large=False)


def sparsity_grid(study_dir: Path, large: bool) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4 (``large`` false) or Figure 11 of a study; without a large model the largest takes its place."""
    runs = read_runs(study_dir)
    table = summarize(runs)
    pruned = like_with_like(table)
    drawn = pruned[(pruned["dense_parameters"] > LARGE) == large]
    notes = []
    if large and drawn.empty and len(pruned):
        drawn = pruned[pruned["dense_parameters"] == pruned["dense_parameters"].max()]
        notes = [f"no model here has more than 300 M parameters: the largest, of {_millions(drawn)} M, in its place"]
    shown = grid.marks(table, drawn.assign(heading=grid.heading(drawn)))
    if shown.empty:
        which = "model" if large else "model of at most 300 M parameters"
        return nothing_to_show(f"Nothing to show: no pruned run of a {which} is finished.")
    return grid.plot(shown, "; ".join([grid.note(runs, shown), *notes])), shown


def _millions(rows: pd.DataFrame) -> str:
    return f"{rows['dense_parameters'].max() / 1e6:.3g}"


def like_with_like(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the rows in which methods are compared at sparsities.

    Args:
        table: Means of ``summarize``.

    Returns:
        Its rows without dense, unfinished and unusual runs, without those that asked for a number of heads, without a
        model's penalty forms if it has targets and only one method has penalties, and of a grid of penalties only those
        nearest to the wanted sparsities.
    """
    usual = (table["method"] != "dense") & (table["runs"] > 0) & (table["variant"] == "")
    pruned = table[usual & table["heads_asked"].isna()].copy()
    pruned["form"] = pruned["form"].replace("", "target")
    both = pruned.groupby(["model", "form"])["method"].nunique()
    has_target = set(pruned["model"][pruned["form"] == "target"])
    lonely = [
        form == "penalty" and model in has_target and both[model, form] < 2
        for model, form in zip(pruned["model"], pruned["form"], strict=True)
    ]
    return nearest_to_wanted(pruned[~np.array(lonely, dtype=bool)])
