"""Comparison of the paper's algorithm, NeuroPrune (penalties), with this project's, NeuroPrune-FC."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures import grid
from neuroprune.results.figures.style import nothing_to_show
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.nearest import nearest_to_wanted
from neuroprune.results.tables.summary import drawn_means


def forms(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw metric, inference and training time of both NeuroPrune algorithms against sparsity.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark, see ``grid.marks``. Both are replaced by a note unless both
        algorithms have finished runs on the same model and task.

    Raises:
        UserError: If the table of runs is missing.
    """
    runs = read_runs(study_dir)
    table = drawn_means(runs)
    drawn = both_forms(table)
    if drawn.empty:
        return nothing_to_show("Nothing to show: no model and task has finished runs of both NeuroPrune algorithms.")
    shown = grid.marks(table, drawn)
    return grid.plot(shown, grid.note(runs, drawn)), shown


def both_forms(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the usual finished runs of both algorithms, for models and tasks with runs of both."""
    usual = (table["method"] == "neuroprune") & (table["runs"] > 0) & (table["variant"] == "")
    ours = nearest_to_wanted(table[usual & table["heads_asked"].isna()])
    kinds = ours.groupby(["model", "task"])["form"].transform("nunique")
    both = ours[kinds > 1]
    return both.assign(heading=grid.headings(both))
