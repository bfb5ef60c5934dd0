"""Paired significance tests of accuracy between runs evaluated on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroprune.results.records import PREDICTIONS, read_arrays
from neuroprune.results.runs import run_file
from neuroprune.results.tables.partners import dense_rows, functional_rows, partners

LEVEL = 0.05  # p from which a difference is reported as none
FLIPS = 9999  # sign flips of the permutation test for several seeds
TESTED = {"p_dense", "p_fc"}
NOTE = (
    "Against dense and against NeuroPrune-FC with the same target: difference in accuracy in points on the same rows, "
    "and p of a paired test: McNemar's exact test for one seed, else a sign-flip permutation test over the rows. "
    f"No difference: p ≥ {LEVEL:g}. p is not corrected for the number of comparisons and does not cover variation "
    "over seeds."
)
Answers = dict[int, np.ndarray]


def with_tests(study_dir: Path, runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Add paired tests to the means of a study for runs that have stored their predictions.

    Args:
        study_dir: The study's folder with the runs' ``predictions.safetensors``.
        runs: The tidy table.
        table: Means of ``summarize``.

    Returns:
        The means with ``points_dense`` and ``p_dense``, ``points_fc`` and ``p_fc``: the difference in accuracy from the
        partner, and the p-value of the test. Unchanged if no two runs can be compared.
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
    """Pair each group with its partner's group, never with itself."""
    return [(one, "" if one == other else str(other)) for one, other in zip(own, others, strict=True)]


def _right(study_dir: Path, runs: pd.DataFrame) -> Answers:
    """Return the correctly classified rows of each seed of a group, bool ``[rows]``."""
    paths = {seed: run_file(study_dir, run, PREDICTIONS) for seed, run in zip(runs["seed"], runs["run"], strict=True)}
    arrays = {seed: read_arrays(path) for seed, path in paths.items() if path.exists()}
    return {seed: found["predicted"] == found["true"] for seed, found in arrays.items()}


def _test(ours: Answers, theirs: Answers) -> tuple[float, float]:
    """Return the difference in percentage points and p over common seeds; NaN if there are none."""
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs or len({len(array) for pair in pairs for array in pair}) > 1:
        return math.nan, math.nan
    differences = np.mean([one.astype(int) - other.astype(int) for one, other in pairs], axis=0)
    return 100 * float(differences.mean()), p_value(differences, len(pairs))


def p_value(differences: np.ndarray, seeds: int) -> float:
    """Return the two-sided p-value for the hypothesis of no difference.

    Args:
        differences: Difference in correctness of each row (-1, 0 or 1), averaged over seeds, ``[rows]``.
        seeds: Number of averaged seeds.

    Returns:
        For one seed, McNemar's exact p; for several, the fraction of random sign flips with a mean at least as large.
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    if seeds == 1:
        from scipy.stats import binomtest  # slow to import, and most figures need no test

        return float(binomtest(int((changed > 0).sum()), len(changed)).pvalue)
    draw = np.random.default_rng(0)
    signs = draw.integers(0, 2, size=(FLIPS, len(changed)), dtype=np.int8) * 2 - 1
    as_large = np.abs(signs @ changed) >= abs(changed.sum()) - 1e-9
    return float((as_large.sum() + 1) / (FLIPS + 1))


def compared(row: Mapping[Any, Any], partner: str) -> str:
    """Format a difference and its p, or "no difference" if p is too large; empty without a test."""
    points, p = row.get(f"points_{partner}", math.nan), row.get(f"p_{partner}", math.nan)
    if not math.isfinite(p):
        return ""
    bound = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"no difference ({bound})" if p >= LEVEL else f"{points:+.1f} ({bound})".replace("-", "−")
