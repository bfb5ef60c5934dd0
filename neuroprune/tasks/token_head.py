"""Training and evaluation of a model with a head for each token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, Trainer

from neuroprune.config.settings import TaskSettings
from neuroprune.tasks.sources import mapped

IGNORED = -100


@dataclass(frozen=True)
class TokenHead:
    """Cross-entropy at the first token of each word; other tokens have no label.

    Args:
        task: The task.
        tokenizer: The model's tokenizer, a fast one.
    """

    task: TaskSettings
    tokenizer: Any
    trainer_class: ClassVar[type] = Trainer

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the Trainer in addition to the training settings: none."""
        return {}

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise the words, joined by spaces; return the tokenizer's columns and `labels`."""
        task, longest = self.task, min(self.task.max_length, self.tokenizer.model_max_length)

        def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
            words = batch[task.inputs[0]]
            encoded = self.tokenizer([" ".join(row) for row in words], truncation=True, max_length=longest)
            tagged = enumerate(zip(words, batch[task.label], strict=True))
            return {**encoded, "labels": [_labels(encoded, i, row, tags) for i, (row, tags) in tagged]}

        return mapped(rows, tokenise)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows and their labels to a batch."""
        return DataCollatorForTokenClassification(self.tokenizer)(features)

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Compute the metrics over all labelled tokens."""
        from neuroprune.tasks import metrics  # scikit-learn is slow to import

        present = prediction.label_ids != IGNORED
        return metrics.tagging(np.argmax(prediction.predictions, axis=-1)[present], prediction.label_ids[present])

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows without labels."""
        rows = [{name: row[name] for name in row if name != "labels"} for row in features]
        return DataCollatorWithPadding(self.tokenizer)(rows)

    def answer(self, model: Any, **batch: torch.Tensor) -> torch.Tensor:
        """Return the logits `[rows, tokens, classes]` for a batch from `question`."""
        return model(**batch).logits


def _labels(encoded: Any, row: int, words: list[str], tags: list[int]) -> list[int]:
    """Return a label for each token of a row: that of a word at its first token, if it was not truncated."""
    labels = [IGNORED] * len(encoded["input_ids"][row])
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    for start, tag in zip(starts, tags, strict=False):
        token = encoded.char_to_token(row, start)
        if token is not None and labels[token] == IGNORED:
            labels[token] = tag
    return labels
