"""Main result of a study as generated sentences: metric and speed-up of each NeuroPrune algorithm at 80 %."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuroprune.results.runs import method_label
from neuroprune.results.tables.partners import dense_rows

WANTED = 0.8  # runs nearest to this sparsity are described
MOST = 6  # largest number of sentences
FASTER = 1.05  # smallest speed-up reported as faster


def lead(table: pd.DataFrame, sizes: list[int]) -> list[str]:
    """Compare both NeuroPrune algorithms at the sparsity nearest to 80 % with dense, for each model and task.

    Args:
        table: Means of ``summarize``.
        sizes: Batch sizes at which inference was timed, ascending.

    Returns:
        At most six sentences.
    """
    usual = (table["variant"] == "") & (table["runs"] > 0) & table["value"].notna()
    ours = table[usual & (table["method"] == "neuroprune") & table["heads_asked"].isna()]
    sentences = []
    for (model, task), rows in ours.groupby(["model", "task"], sort=False):
        dense = dense_rows(table[(table["model"] == model) & (table["task"] == task)]).head(1).to_dict("records")
        for _, some in rows.groupby("form", sort=False):
            nearest = (some["sparsity"] - WANTED).abs().argmin()
            row = some.iloc[nearest].to_dict()
            sentences.append(_sentence(row, dense, sizes))
    return sentences[:MOST]


def _sentence(row: Mapping[Any, Any], dense: list[dict[Any, Any]], sizes: list[int]) -> str:
    """Return a sentence that compares one row with the dense model."""
    against = f" against {_value(dense[0])} dense" if dense and math.isfinite(dense[0]["value"]) else ""
    parts = [
        f"{row['model']} on {row['task']}, {100 * row['sparsity']:.0f} % of the weights removed or zero by "
        f"{method_label(row['method'], row['form'])}: {_value(row)} {row['metric'].replace('_', ' ')}{against}",
        *_speed(row, sizes[-1:]),
        *(["a layer is empty"] if row["empty_layers"] > 0 else []),
    ]
    return f"{', '.join(parts)}; n = {row['runs']}."


def _value(row: Mapping[Any, Any]) -> str:
    """Format a metric in percent with its standard deviation over seeds."""
    spread = f" ± {100 * row['value_sd']:.1f}" if math.isfinite(row["value_sd"]) else ""
    return f"{100 * row['value']:.1f}{spread} %"


def _speed(row: Mapping[Any, Any], sizes: list[int]) -> list[str]:
    """Return the speed-up over the dense model at the largest batch size; empty if it was not timed."""
    ratios = {size: row[f"speedup_b{size}"] for size in sizes if math.isfinite(row[f"speedup_b{size}"])}
    return [
        f"{ratio:.1f} × faster at batch {size}" if ratio >= FASTER else f"no faster at batch {size}"
        for size, ratio in ratios.items()
    ]
