"""Comparison partners of rows: the dense model, and NeuroPrune-FC with the same target."""

from __future__ import annotations

from typing import Any

import pandas as pd

from neuroprune.results.runs import usual_first


def dense_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished dense rows, those without unusual options first."""
    return usual_first(table[(table["method"] == "dense") & (table["runs"] > 0)])


def functional_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of NeuroPrune-FC without unusual options."""
    ours = (table["method"] == "neuroprune") & (table["form"] == "target")
    return table[ours & (table["variant"] == "")]


def partners(table: pd.DataFrame, chosen: pd.DataFrame, same: list[str]) -> pd.DataFrame:
    """Return, for each row, the first chosen row with equal values in the given columns.

    Args:
        table: Means of ``summarize``.
        chosen: Candidate rows of ``table``.
        same: Column names. A row whose numeric columns among these are all missing has no partner.

    Returns:
        Rows with the index of ``table``; all values are missing where there is no partner.
    """
    place: dict[tuple[Any, ...], Any] = {}
    for key, index in zip(_keys(chosen[same]), chosen.index, strict=True):
        place.setdefault(key, index)
    numbers = table[same].select_dtypes("number")
    asked = numbers.notna().any(axis=1) if len(numbers.columns) else pd.Series(True, index=table.index)
    found = [place.get(key) if known else None for key, known in zip(_keys(table[same]), asked, strict=True)]
    rows = table.reindex([index if index is not None else -1 for index in found])
    return rows.set_axis(table.index)


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in rows.fillna(-1).itertuples(index=False)]
