"""Metrics of classification and regression, with the keys of the hub's `glue` metric."""

from __future__ import annotations

import re
import string
from collections import Counter
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


def answers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return SQuAD's exact match and F1 of words (Rajpurkar et al. 2016), as fractions.

    Case, punctuation and articles do not count. Of several reference answers, the best counts for each row.

    Args:
        predictions: Answers of a model.
        references: Reference answers of each row, at least one.

    Returns:
        `f1` and `exact_match`, means over the rows.
    """
    rows = [
        (_words(found), [_words(text) for text in texts]) for found, texts in zip(predictions, references, strict=True)
    ]
    return {
        "f1": float(np.mean([max(_common_share(found, wanted) for wanted in texts) for found, texts in rows])),
        "exact_match": float(np.mean([found in texts for found, texts in rows])),
    }


def _words(answer: str) -> list[str]:
    letters = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", letters).split()


def _common_share(found: list[str], wanted: list[str]) -> float:
    """Return the harmonic mean of precision and recall of words; without any words, whether both have none."""
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted)) if found or wanted else 1.0


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
