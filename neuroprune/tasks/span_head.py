"""Training and evaluation of a model that marks the first and last token of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer

from neuroprune.config.fields import ANSWER_START
from neuroprune.tasks.class_head import ClassHead
from neuroprune.tasks.lengths import longest_input
from neuroprune.tasks.sources import mapped

LONGEST = 30
"""Tokens of the longest predicted answer, as in the examples of BERT and transformers."""


class SpanTrainer(Trainer):
    """Trainer for rows whose labels are the first and last token of the answer, `[rows, 2]`."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the mean cross-entropy of both tokens."""
        first, last = inputs["labels"].unbind(dim=1)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        return super().compute_loss(model, {**given, "start_positions": first, "end_positions": last}, *args, **kwargs)


@dataclass(frozen=True)
class SpanHead(ClassHead):
    """Cross-entropy of the answer's first and last token; an answer that was truncated is the first token of the text.

    Args:
        task: The task, with question and context as inputs.
        tokenizer: The model's tokenizer, a fast one.
        rows: The evaluation rows, in order.
    """

    rows: Dataset = field(kw_only=True)
    trainer_class: ClassVar[type] = SpanTrainer

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the Trainer in addition to the training settings."""
        return {"label_names": ["labels"]}

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise questions and contexts; return the tokenizer's columns and `labels` of the first answer."""

        def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = self._tokens(batch)
            answers = zip(batch[ANSWER_START], batch[self.task.label], strict=True)
            spans = [(starts[0], starts[0] + len(texts[0])) for starts, texts in answers]
            return {**encoded, "labels": [_labels(encoded, row, *span) for row, span in enumerate(spans)]}

        return mapped(rows, tokenise)

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Compare the most likely answers to the evaluation rows with the reference answers."""
        from neuroprune.tasks import metrics  # scikit-learn is slow to import

        found = [self._answer(row, *scores) for row, scores in enumerate(zip(*prediction.predictions[:2], strict=True))]
        return metrics.answers(found, self.rows[self.task.label][:])

    def answer(self, model: Any, **batch: torch.Tensor) -> torch.Tensor:
        """Return the scores of first and last tokens, `[rows, tokens, 2]`, for a batch from `question`."""
        found = model(**batch)
        return torch.stack([found.start_logits, found.end_logits], dim=-1)

    def _tokens(self, batch: dict[str, list[Any]], **options: Any) -> Any:
        question, context = (batch[column] for column in self.task.inputs)
        longest = longest_input(self.task, self.tokenizer, texts=2)
        return self.tokenizer(question, context, truncation=True, max_length=longest, **options)

    @cached_property
    def _evaluated(self) -> Any:
        return self._tokens(self.rows[:], return_offsets_mapping=True)

    def _answer(self, row: int, firsts: np.ndarray, lasts: np.ndarray) -> str:
        """Return the part of an evaluation row's context with the best scores."""
        tokens = [place for place, part in enumerate(self._evaluated.sequence_ids(row)) if part == 1]
        if not tokens:
            return ""
        first, last = (tokens[place] for place in best_span(firsts[tokens], lasts[tokens]))
        offsets = self._evaluated["offset_mapping"][row]
        return self.rows[self.task.inputs[1]][row][offsets[first][0] : offsets[last][1]]


def best_span(firsts: np.ndarray, lasts: np.ndarray, longest: int = LONGEST) -> tuple[int, int]:
    """Return the first and last token of the span with the largest sum of scores.

    Args:
        firsts: Scores of each token as the first one, `[tokens]`, at least one.
        lasts: Scores of each token as the last one.
        longest: Largest number of tokens in a span.

    Returns:
        Positions of the two tokens.
    """
    every = np.ones((len(firsts), len(lasts)), dtype=bool)
    sums = np.where(np.triu(every) & ~np.triu(every, longest), firsts[:, None] + lasts, -np.inf)
    first, last = np.unravel_index(sums.argmax(), sums.shape)
    return int(first), int(last)


def _labels(encoded: Any, row: int, start: int, end: int) -> list[int]:
    """Return the first and last token of a row's answer between two characters; 0, 0 if it was truncated."""
    first, last = (encoded.char_to_token(row, letter, sequence_index=1) for letter in (start, end - 1))
    return [0, 0] if first is None or last is None else [first, last]
