"""Predicted classes of the last evaluation, stored for paired tests between runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MOST_CLASSES = 256  # of one byte


class Answers:
    """Wrapper of a Trainer's `compute_metrics` that stores the predictions of the last evaluation.

    Args:
        compute_metrics: The task's function, which computes the metrics.
    """

    def __init__(self, compute_metrics: Callable[[Any], dict[str, float]]) -> None:
        self._compute_metrics = compute_metrics
        self.arrays: dict[str, np.ndarray] = {}

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Store the predicted classes of a classification task; return the metrics."""
        self.arrays = classes(prediction.predictions, prediction.label_ids)
        return self._compute_metrics(prediction)


def classes(scores: Any, labels: Any) -> dict[str, np.ndarray]:
    """Return predicted and true classes as small integers.

    Args:
        scores: Scores of the classes, `[rows, classes]`, or a tuple that begins with them.
        labels: True classes, int `[rows]`.

    Returns:
        `predicted` and `true`, uint8 `[rows]`; empty for generated text, numbers or more than 256 classes.
    """
    scores, labels = np.asarray(scores[0] if isinstance(scores, tuple) else scores), np.asarray(labels)
    if scores.ndim != 2 or labels.ndim != 1 or not 1 < scores.shape[1] <= MOST_CLASSES:
        return {}
    return {"predicted": scores.argmax(axis=1).astype(np.uint8), "true": labels.astype(np.uint8)}
