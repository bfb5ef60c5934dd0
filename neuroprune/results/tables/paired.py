"""Paired significance tests of accuracy between runs that predicted the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from neuroprune.results.records import read_arrays
from neuroprune.results.runs import run_file
from neuroprune.results.tables.partners import dense_rows, functional_rows, partners

PREDICTIONS = "predictions.safetensors"
LEVEL = 0.05  # p above which there is no difference
FLIPS = 9999  # random signs of the rows' differences, where several seeds are compared
TESTED = {"p_dense", "p_fc"}
NOTE = (
    "Against dense, against NeuroPrune-FC (asked for the same): difference in accuracy in points on the same rows, and "
    "p of a paired test: McNemar's exact one for one seed, else one of random signs of the rows' differences. "
    f"No difference: p ≥ {LEVEL:g}. p is that of one comparison, not corrected for their number, and says nothing "
    "about other seeds."
)
Answers = dict[int, np.ndarray]


def with_tests(study_dir: Path, runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Add paired tests to the means of a study, where its runs have kept their predictions.

    Args:
        study_dir: The study's folder with the runs' ``predictions.safetensors``.
        runs: The tidy table.
        table: Means of ``summarize``.

    Returns:
        The means with ``points_dense`` and ``p_dense``, ``points_fc`` and ``p_fc``: accuracy minus the partner's, and
        the p of the test; unchanged if no two runs can be compared.
    """
    answers = {name: _right(study_dir, some) for name, some in runs[runs["status"] == "done"].groupby("group")}
    found = {
        "dense": partners(table, dense_rows(table), ["model", "task"])["group"],
        "fc": partners(table, functional_rows(table), ["model", "task", "point", "heads_asked"])["group"],
    }
    for name, others in found.items():
        tests = [_test(answers.get(own, {}), answers.get(other, {})) for own, other in _pairs(table["group"], others)]
        if any(math.isfinite(p) for _, p in tests):
            table = table.assign(**{f"points_{name}": [d for d, _ in tests], f"p_{name}": [p for _, p in tests]})
    return table


def _pairs(own: pd.Series, others: pd.Series) -> list[tuple[str, str]]:
    """Pair groups; a group has no partner in itself."""
    return [(one, "" if one == other else str(other)) for one, other in zip(own, others, strict=True)]


def _right(study_dir: Path, runs: pd.DataFrame) -> Answers:
    """Return which rows each seed of a group classified correctly, bool ``[rows]``, by seed."""
    paths = {seed: run_file(study_dir, run, PREDICTIONS) for seed, run in zip(runs["seed"], runs["run"], strict=True)}
    arrays = {seed: read_arrays(path) for seed, path in paths.items() if path.exists()}
    return {seed: found["predicted"] == found["true"] for seed, found in arrays.items()}


def _test(ours: Answers, theirs: Answers) -> tuple[float, float]:
    """Return the difference in points and p over the seeds that both have; NaN if there are none."""
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs or len({len(array) for pair in pairs for array in pair}) > 1:
        return math.nan, math.nan
    differences = np.mean([one.astype(int) - other.astype(int) for one, other in pairs], axis=0)
    return 100 * float(differences.mean()), p_value(differences, len(pairs))


def p_value(differences: np.ndarray, seeds: int) -> float:
    """Return the two-sided p of no difference.

    Args:
        differences: Right minus right of each row, mean over seeds, ``[rows]``.
        seeds: How many seeds were averaged.

    Returns:
        For one seed McNemar's exact p; for several the fraction of random signs with at least as large a mean.
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    if seeds == 1:
        return float(binomtest(int((changed > 0).sum()), len(changed)).pvalue)
    draw = np.random.default_rng(0)
    signs = draw.integers(0, 2, size=(FLIPS, len(changed)), dtype=np.int8) * 2 - 1
    as_large = np.abs(signs @ changed) >= abs(changed.sum()) - 1e-9
    return float((as_large.sum() + 1) / (FLIPS + 1))


def compared(row: Mapping[Any, Any], partner: str) -> str:
    """Format a difference and its p; "no difference" where p is too large; empty without a test."""
    points, p = row.get(f"points_{partner}", math.nan), row.get(f"p_{partner}", math.nan)
    if not math.isfinite(p):
        return ""
    bound = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"no difference ({bound})" if p >= LEVEL else f"{points:+.1f} ({bound})".replace("-", "−")
