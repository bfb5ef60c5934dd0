"""Selection from a grid of penalty strengths, as in the paper: the run nearest to each wanted sparsity."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

from neuroprune.results.tables.published import SPARSITIES
from neuroprune.results.tables.summary import summarize

MOST_AWAY = 0.05  # largest distance from a wanted sparsity


def nearest_to_wanted(table: pd.DataFrame, wanted: tuple[float, ...] = SPARSITIES) -> pd.DataFrame:
    """Keep the penalty runs of each model, task and method that are nearest to the wanted sparsities.

    A penalty's strength does not determine the sparsity. The paper therefore runs a grid of strengths and shows, for
    each sparsity, the nearest run; among equally near runs, the one with the better metric. Here, a sparsity with no
    run within five percentage points is left out.

    Args:
        table: Means of `summarize`, of any form.
        wanted: Sparsities as fractions.

    Returns:
        The same rows without the unselected runs of grids that have more runs than wanted sparsities. Smaller grids and
        other forms are unchanged.
    """
    penalties = table[(table["form"] == "penalty") & table["sparsity"].notna()]
    dropped: set[Hashable] = set()
    for _, grid in penalties.groupby(["model", "task", "method"], sort=False):
        if len(grid) > len(wanted):
            best_first = grid.sort_values("value", ascending=False, kind="stable")
            dropped |= set(grid.index) - {row for point in wanted for row in _nearest(best_first["sparsity"], point)}
    return table.drop(index=list(dropped))


def out_of_reach(table: pd.DataFrame, wanted: tuple[float, ...] = SPARSITIES) -> tuple[float, ...]:
    """Return wanted sparsities for which a large grid of penalties has no run within five percentage points.

    Args:
        table: Means of `summarize`, of any form.
        wanted: Sparsities as fractions.

    Returns:
        The sparsities without a run in `nearest_to_wanted`, in their order.
    """
    penalties = table[(table["form"] == "penalty") & table["sparsity"].notna()]
    grids = [grid["sparsity"] for _, grid in penalties.groupby(["model", "task", "method"]) if len(grid) > len(wanted)]
    return tuple(point for point in wanted if any(not _nearest(found, point) for found in grids))


def _nearest(sparsities: pd.Series, point: float) -> list[Hashable]:
    """Return the index of the sparsity nearest to a point (the first of equals), or nothing if none is near."""
    away = (sparsities - point).abs().round(6)
    return [away.idxmin()] if away.min() <= MOST_AWAY else []


def nearest_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs that belong to the rows kept by `nearest_to_wanted`.

    Args:
        runs: Rows of the tidy table.

    Returns:
        The same rows without the rest of large grids of penalties.
    """
    return runs[runs["group"].isin(nearest_to_wanted(summarize(runs))["group"])] if len(runs) else runs
