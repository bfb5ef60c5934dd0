"""Figure 4: metric, inference time and training time against sparsity; one row of panels per model and task."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures import LARGE, grid
from neuroprune.results.figures.style import nothing_to_show
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.nearest import nearest_to_wanted
from neuroprune.results.tables.summary import drawn_means


def figure4(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark, see ``grid.marks``. Both are replaced by a note if no pruned run of a
        model of at most 300 M parameters is finished.

    Raises:
        UserError: If the table of runs is missing.
    """
    return sparsity_grid(study_dir, large=False)


def sparsity_grid(study_dir: Path, large: bool) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4 (``large`` false) or Figure 11 of a study."""
    runs = read_runs(study_dir)
    table = drawn_means(runs)
    pruned = like_with_like(table)
    drawn = pruned[(pruned["dense_parameters"] > LARGE) == large]
    shown = grid.marks(table, drawn.assign(heading=grid.headings(drawn)))
    if shown.empty:
        which = "more than" if large else "at most"
        return nothing_to_show(f"Nothing to show: no pruned run of a model of {which} 300 M parameters is finished.")
    return grid.plot(shown, grid.note(runs, drawn)), shown


def like_with_like(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the rows that are compared at equal sparsities.

    Args:
        table: Means of ``summarize``.

    Returns:
        Its rows without dense, unfinished and unusual runs and without runs with a target number of heads. From a grid
        of penalty strengths, only the rows nearest to the wanted sparsities are kept.
    """
    usual = (table["method"] != "dense") & (table["runs"] > 0) & (table["variant"] == "")
    pruned = table[usual & table["heads_asked"].isna()].copy()
    pruned["form"] = pruned["form"].replace("", "target")
    return nearest_to_wanted(pruned)
