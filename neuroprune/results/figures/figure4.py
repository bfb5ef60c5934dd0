"""Figure 4: metric, inference time and training time against sparsity, a row of panels for each model and task."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures import LARGE, grid
from neuroprune.results.figures.style import nothing_to_show
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.nearest import nearest_to_wanted
from neuroprune.results.tables.summary import summarize


def figure4(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row a mark, see ``grid.marks``. Both are replaced by a note if no pruned run of a
        model of at most 300 M parameters is finished.

    Raises:
        UserError: If there is no table of runs.
    """
    return sparsity_grid(study_dir, large=False)


def sparsity_grid(study_dir: Path, large: bool) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4 (``large`` false) or Figure 11 of a study."""
    runs = read_runs(study_dir)
    table = summarize(runs)
    pruned = like_with_like(table)
    drawn = pruned[(pruned["dense_parameters"] > LARGE) == large]
    shown = grid.marks(table, drawn.assign(heading=grid.headings(drawn)))
    if shown.empty:
        which = "more than" if large else "at most"
        return nothing_to_show(f"Nothing to show: no pruned run of a model of {which} 300 M parameters is finished.")
    return grid.plot(shown, grid.note(runs, drawn)), shown


def like_with_like(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the rows in which methods are compared at sparsities.

    Args:
        table: Means of ``summarize``.

    Returns:
        Its rows without dense, unfinished and unusual runs, without those that asked for a number of heads, and of a
        grid of penalties only those nearest to the wanted sparsities.
    """
    usual = (table["method"] != "dense") & (table["runs"] > 0) & (table["variant"] == "")
    pruned = table[usual & table["heads_asked"].isna()].copy()
    pruned["form"] = pruned["form"].replace("", "target")
    return nearest_to_wanted(pruned)
