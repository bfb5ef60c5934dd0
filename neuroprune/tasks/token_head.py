"""Training and evaluation of a model with a head for each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorForTokenClassification

from neuroprune.pruning.defaults import IGNORED
from neuroprune.tasks.class_head import ClassHead
from neuroprune.tasks.lengths import longest_input
from neuroprune.tasks.sources import mapped


def judge(scores: Any, labels: Any) -> dict[str, float]:
    """Return all metrics by name, over the labelled tokens.

    Args:
        scores: Scores of the classes, `[rows, tokens, classes]`; the largest is the prediction.
        labels: True classes, int `[rows, tokens]`.

    Returns:
        The values.
    """
    from neuroprune.tasks import metrics  # scikit-learn is slow to import

    present = labels != IGNORED
    return metrics.tagging(np.argmax(scores, axis=-1)[present], labels[present])


@dataclass(frozen=True)
class TokenHead(ClassHead):
    """Cross-entropy at the first token of each word; other tokens have no label.

    Args:
        task: The task.
        tokenizer: The model's tokenizer, a fast one.
        judge: Function from logits `[rows, tokens, classes]` and labels `[rows, tokens]` to values by metric.
    """

    judge: Callable[[Any, Any], dict[str, float]] = judge

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise the words, joined by spaces; return the tokenizer's columns and `labels`."""
        task, longest = self.task, longest_input(self.task, self.tokenizer)

        def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
            words = batch[task.inputs[0]]
            encoded = self.tokenizer([" ".join(row) for row in words], truncation=True, max_length=longest)
            tagged = enumerate(zip(words, batch[task.label], strict=True))
            return {**encoded, "labels": [_labels(encoded, i, row, tags) for i, (row, tags) in tagged]}

        return mapped(rows, tokenise)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows and their labels to a batch."""
        return DataCollatorForTokenClassification(self.tokenizer)(features)


def _labels(encoded: Any, row: int, words: list[str], tags: list[int]) -> list[int]:
    """Return a label for each token of a row: that of a word at its first token, if it was not truncated."""
    labels = [IGNORED] * len(encoded["input_ids"][row])
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    for start, tag in zip(starts, tags, strict=False):
        token = encoded.char_to_token(row, start)
        if token is not None and labels[token] == IGNORED:
            labels[token] = tag
    return labels
