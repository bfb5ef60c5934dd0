"""Selection from a grid of penalties, as in the paper: the run nearest to each wanted sparsity."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

from neuroprune.results.tables.published import SPARSITIES
from neuroprune.results.tables.summary import summarize

MOST_AWAY = 0.05  # largest distance from a wanted sparsity


def nearest_to_wanted(table: pd.DataFrame, wanted: tuple[float, ...] = SPARSITIES) -> pd.DataFrame:
    """Keep the penalty runs of each model, task and method that are nearest to the wanted sparsities.

    Strengths of a penalty do not say how sparse a model gets, so the paper runs a grid of them and shows, for each
    sparsity, the run that came nearest; of equally near ones the better. Here a sparsity that no run comes within five
    points of has none.

    Args:
        table: Means of `summarize`, with any forms.
        wanted: The sparsities, fractions.

    Returns:
        The same rows without the rest of those grids that have more runs than there are wanted sparsities; smaller ones
        and other forms stay as they are.
    """
    penalties = table[(table["form"] == "penalty") & table["sparsity"].notna()]
    dropped: set[Hashable] = set()
    for _, grid in penalties.groupby(["model", "task", "method"], sort=False):
        if len(grid) > len(wanted):
            best_first = grid.sort_values("value", ascending=False, kind="stable")
            dropped |= set(grid.index) - {row for point in wanted for row in _nearest(best_first["sparsity"], point)}
    return table.drop(index=list(dropped))


def out_of_reach(table: pd.DataFrame, wanted: tuple[float, ...] = SPARSITIES) -> tuple[float, ...]:
    """Return the wanted sparsities that no run of some large grid of penalties comes within five points of.

    Args:
        table: Means of `summarize`, with any forms.
        wanted: The sparsities, fractions.

    Returns:
        Those of them that `nearest_to_wanted` finds no run for, in their order.
    """
    penalties = table[(table["form"] == "penalty") & table["sparsity"].notna()]
    grids = [grid["sparsity"] for _, grid in penalties.groupby(["model", "task", "method"]) if len(grid) > len(wanted)]
    return tuple(point for point in wanted if any(not _nearest(found, point) for found in grids))


def _nearest(sparsities: pd.Series, point: float) -> list[Hashable]:
    """Return the index of the first of the sparsities nearest to a point, or nothing if none is near."""
    away = (sparsities - point).abs().round(6)
    return [away.idxmin()] if away.min() <= MOST_AWAY else []


def nearest_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs of the rows that `nearest_to_wanted` keeps.

    Args:
        runs: Rows of the tidy table.

    Returns:
        The same rows without the rest of large grids of penalties.
    """
    return runs[runs["group"].isin(nearest_to_wanted(summarize(runs))["group"])] if len(runs) else runs
