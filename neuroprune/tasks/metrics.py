"""The metrics of classification, with the keys that the hub's `glue` metric gives.

They are `evaluate.Metric`s of our own, so that `add_batch`, `compute`, `combine` and `save` work without the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, Value
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


class ClassMetric(evaluate.Metric):
    """A metric that compares predicted with true classes, both int64 [rows]."""

    name: str

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: class numbers",
            features=Features({"predictions": Value("int64"), "references": Value("int64")}),
        )


class Accuracy(ClassMetric):
    """Share of the rows whose class is right."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(ClassMetric):
    """Harmonic mean of precision and recall of class 1, as GLUE judges MRPC and QQP; for two classes only."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, pos_label=1, average="binary", zero_division=0.0))}


class MatthewsCorrelation(ClassMetric):
    """Correlation of predicted and true classes, as GLUE judges CoLA: 0 for a constant answer, 1 for all right."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


METRICS: dict[str, type[ClassMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
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
    values: dict[str, float] = {}
    for name in names:
        values |= METRICS[name]().compute(predictions=predictions, references=references) or {}
    return values
