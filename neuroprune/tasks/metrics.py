"""Metrics of classification and regression, with the keys of the hub's `glue` metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def f1(references: Any, predictions: Any) -> float:
    """Return the harmonic mean of precision and recall of class 1, as used in GLUE for MRPC and QQP."""
    return f1_score(references, predictions, pos_label=1, average="binary", zero_division=0.0)


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "f1": f1,
    "matthews_correlation": matthews_corrcoef,  # GLUE's metric for CoLA: 0 for a constant prediction
}


CORRELATIONS: dict[str, Callable[[Any, Any], Any]] = {"pearson": stats.pearsonr, "spearmanr": stats.spearmanr}


def judge(names: Sequence[str], predictions: Any, references: Any) -> dict[str, float]:
    """Return the value of each named metric.

    Args:
        names: Keys of `METRICS`.
        predictions: Predicted classes, int [rows].
        references: True classes, int [rows].

    Returns:
        The values by name.
    """
    return {name: float(METRICS[name](references, predictions)) for name in names}


def tagging(predictions: Any, references: Any) -> dict[str, float]:
    """Return the share of words with the right class, and the mean F1 of the classes.

    Args:
        predictions: Predicted classes, int `[words]`.
        references: True classes, int `[words]`.

    Returns:
        `token_accuracy` and `macro_f1`.
    """
    macro = f1_score(references, predictions, average="macro", zero_division=0.0)
    return {"token_accuracy": float(accuracy_score(references, predictions)), "macro_f1": float(macro)}


def correlations(predictions: Any, references: Any) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation, as used in GLUE for STS-B; 0 if all predictions are equal.

    Args:
        predictions: Predicted numbers, `[rows]`.
        references: True numbers, `[rows]`, not all equal.

    Returns:
        `pearson` and `spearmanr`.
    """
    found, wanted = (np.asarray(values, dtype=np.float64) for values in (predictions, references))
    if np.ptp(found) == 0:
        return dict.fromkeys(CORRELATIONS, 0.0)
    return {name: float(correlation(found, wanted)[0]) for name, correlation in CORRELATIONS.items()}
