"""The paper's choice out of a grid of penalties: the run whose sparsity is nearest to each that is wanted."""

from __future__ import annotations

import pandas as pd

from neuroprune.results.tables.published import SPARSITIES
from neuroprune.results.tables.summary import summarize


def nearest_to_wanted(table: pd.DataFrame, wanted: tuple[float, ...] = SPARSITIES) -> pd.DataFrame:
    """Keep, of each model, task and method's penalty runs, those nearest to the sparsities that are wanted.

    Strengths of a penalty do not say how sparse a model gets, so the paper runs a grid of them and shows, for each
    sparsity, the run that came nearest; of equally near ones the better.

    Args:
        table: Means of `summarize`, with any forms.
        wanted: The sparsities, fractions.

    Returns:
        The same rows without the rest of those grids that have more runs than there are wanted sparsities; smaller ones
        and other forms stay as they are.
    """
    penalties = table[(table["form"] == "penalty") & table["sparsity"].notna()]
    dropped: set[int] = set()
    for _, grid in penalties.groupby(["model", "task", "method"], sort=False):
        if len(grid) > len(wanted):
            best_first = grid.sort_values("value", ascending=False, kind="stable")
            chosen = {(best_first["sparsity"] - point).abs().round(6).idxmin() for point in wanted}
            dropped |= set(grid.index) - chosen
    return table.drop(index=list(dropped))


def nearest_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs of the rows that `nearest_to_wanted` keeps.

    Args:
        runs: Rows of the tidy table.

    Returns:
        The same rows without the rest of large grids of penalties.
    """
    return runs[runs["group"].isin(nearest_to_wanted(summarize(runs))["group"])] if len(runs) else runs
