"""Figure 5: metric, inference time and training time against the number of remaining heads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures import grid
from neuroprune.results.figures.figure4 import like_with_like
from neuroprune.results.figures.style import nothing_to_show
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.summary import drawn_means


def figure5(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 5 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark, see ``grid.marks``. Both are replaced by a note if no finished run
        has removed heads.

    Raises:
        UserError: If the table of runs is missing.
    """
    runs = read_runs(study_dir)
    table = drawn_means(runs)
    drawn, asked = runs_by_heads(table)
    shown = grid.marks(table, drawn.assign(heading=grid.headings(drawn)))
    if shown.empty:
        return nothing_to_show("Nothing to show: no finished run has removed heads.")
    which = "" if asked else "no run has a target number of heads: all runs that removed heads"
    return grid.plot(shown, grid.note(runs, drawn, which), x="heads_left", label="remaining heads"), shown


def runs_by_heads(table: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Choose the rows compared by heads: runs with a target number of heads, else all that removed heads.

    Args:
        table: Means of ``summarize``.

    Returns:
        Its rows without unfinished and unusual runs, and whether they had a target number of heads.
    """
    asked = table[(table["runs"] > 0) & (table["variant"] == "") & table["heads_asked"].notna()]
    others = like_with_like(table)
    return (asked, True) if len(asked) else (others[others["heads_gone"] > 0], False)
