"""The metrics of classification, with the keys that the hub's `glue` metric gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def f1(references: Any, predictions: Any) -> float:
    """Return the harmonic mean of precision and recall of class 1 of two, as GLUE judges MRPC and QQP."""
    return f1_score(references, predictions, pos_label=1, average="binary", zero_division=0.0)


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "f1": f1,
    "matthews_correlation": matthews_corrcoef,  # as GLUE judges CoLA: 0 for a constant answer, 1 for all right
}


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
