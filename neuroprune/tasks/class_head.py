"""Objective of models with a head for classes or a number, that is, all but text-to-text models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer

from neuroprune.config.availability import obstacle
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.tasks.lengths import longest_input
from neuroprune.tasks.sources import mapped


def judge(scores: Any, labels: Any) -> dict[str, float]:
    """Return all classification metrics by name, with F1 only for two classes.

    Args:
        scores: Scores of the classes, `[rows, classes]`; the largest is the prediction.
        labels: True classes, int `[rows]`.

    Returns:
        The values.
    """
    from neuroprune.tasks import metrics  # scikit-learn is slow to import and not needed for preparing data

    names = [name for name in metrics.METRICS if name != "f1" or scores.shape[-1] == 2]
    return metrics.judge(names, np.argmax(scores, axis=-1), np.asarray(labels))


def check_has_head(model: Any, task: TaskSettings, tokenizer: Any = None) -> None:
    """Reject a model that generates text for a task whose answers are not text.

    Args:
        model: The model.
        task: The task.
        tokenizer: The model's tokenizer, if the task needs the places of tokens in the text.

    Raises:
        UserError: If the model's type generates text, or the tokenizer does not provide token positions.
    """
    kind = model.config.model_type
    if text := obstacle(kind, task):
        raise UserError(f"a {kind} model can't {text}.")
    if tokenizer is not None and not tokenizer.is_fast:
        raise UserError(
            f"task {task.name}: {type(tokenizer).__name__} does not tell where a token is in the text; save a fast "
            "tokenizer (tokenizer.json) with the model."
        )


@dataclass(frozen=True)
class ClassHead:
    """Cross-entropy of class logits or mean squared error of a number, depending on the model's configuration.

    Args:
        task: The task.
        tokenizer: The model's tokenizer.
        judge: Function from logits `[rows, outputs]` and labels `[rows]` to values by metric.
    """

    task: TaskSettings
    tokenizer: Any
    judge: Callable[[Any, Any], dict[str, float]] = judge
    trainer_class: ClassVar[type] = Trainer

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the Trainer in addition to the training settings: none."""
        return {}

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise the text or pair of texts; return the tokenizer's columns and `labels`."""
        task, longest = self.task, longest_input(self.task, self.tokenizer, texts=len(self.task.inputs))

        def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = self.tokenizer(*(batch[column] for column in task.inputs), truncation=True, max_length=longest)
            return {**encoded, "labels": batch[task.label]}

        return mapped(rows, tokenise)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows to a batch."""
        return DataCollatorWithPadding(self.tokenizer)(features)

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Compute the metrics from logits."""
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits  # encoder-decoders also return hidden states
        return self.judge(logits, prediction.label_ids)

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows without labels."""
        return self.collate([{name: row[name] for name in row if name != "labels"} for row in features])

    def answer(self, model: Any, **batch: torch.Tensor) -> torch.Tensor:
        """Return the logits, `[rows, outputs]` or `[rows, tokens, classes]`, for a batch from `question`."""
        return model(**batch).logits
