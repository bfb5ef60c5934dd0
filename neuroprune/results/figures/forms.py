"""NeuroPrune's two forms side by side: the run that meets a target, and the paper's penalties."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures import grid
from neuroprune.results.figures.style import nothing_to_show
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.nearest import nearest_to_wanted
from neuroprune.results.tables.summary import summarize


def forms(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw metric, inference and training time of NeuroPrune's two forms against sparsity.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure, and what it shows: one row a mark, see ``grid.marks``; its ``method`` is the form. A note in place
        of both unless both forms have finished runs on the same model and task.

    Raises:
        UserError: If there is no table of runs.
    """
    runs = read_runs(study_dir)
    table = summarize(runs)
    drawn = both_forms(table)
    if drawn.empty:
        return nothing_to_show("Nothing to show: no model and task has finished NeuroPrune runs of both forms.")
    shown = grid.marks(table, drawn)
    return grid.plot(shown, grid.note(runs, shown)), shown


def both_forms(table: pd.DataFrame) -> pd.DataFrame:
    """Choose NeuroPrune's usual, finished runs of each model and task that has both forms; the form is the method."""
    usual = (table["method"] == "neuroprune") & (table["runs"] > 0) & (table["variant"] == "")
    ours = nearest_to_wanted(table[usual & table["heads_asked"].isna()])
    kinds = ours.groupby(["model", "task"])["form"].transform("nunique")
    both = ours[kinds > 1]
    return both.assign(method=both["form"] + " form", heading=grid.heading(both, form=False))
