"""Objective of encoder-decoders that generate text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, Seq2SeqTrainer

from neuroprune.config.settings import TaskSettings
from neuroprune.pruning.defaults import IGNORED
from neuroprune.tasks.lengths import longest_answer, longest_input
from neuroprune.tasks.sources import mapped
from neuroprune.tasks.text import Judge


@dataclass(frozen=True)
class Generation:
    """Training on the target's tokens, and prediction by generation.

    Args:
        task: The task.
        references: The untruncated targets of the evaluation rows, in order.
        judge: Function from generated texts and references, row by row, to values by metric.
        model: An encoder-decoder.
        tokenizer: Its tokenizer.
    """

    task: TaskSettings
    references: Sequence[str]
    judge: Judge
    model: Any
    tokenizer: Any
    trainer_class: ClassVar[type] = Seq2SeqTrainer

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the Trainer in addition to the training settings."""
        return {
            "predict_with_generate": True,
            "generation_max_length": self._longest,
            "generation_num_beams": self.task.beams,
            "label_smoothing_factor": self.task.label_smoothing,
        }

    @property
    def _longest(self) -> int:
        return self.task.answer_length + 1  # the decoder's start token is not part of the target

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise inputs, with the task's prefix, and targets; return the tokenizer's columns and `labels`."""
        task, longest = self.task, longest_input(self.task, self.tokenizer, prefix=self.task.prefix)
        written = longest_answer(task, self.tokenizer)

        def tokenise(batch: dict[str, list[str]]) -> dict[str, Any]:
            texts = [task.prefix + text for text in batch[task.inputs[0]]]
            answers = self.tokenizer(text_target=batch[task.label], truncation=True, max_length=written)
            encoded = self.tokenizer(texts, truncation=True, max_length=longest)
            return {**encoded, "labels": answers["input_ids"]}

        return mapped(rows, tokenise)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad rows to a batch with a decoder mask that excludes padding."""
        batch = DataCollatorForSeq2Seq(self.tokenizer, model=self.model)(features)
        batch["decoder_attention_mask"] = (batch["labels"] != IGNORED).long()
        return batch

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Compare the texts generated for the evaluation rows with the references instead of their tokens."""
        tokens = np.where(prediction.predictions == IGNORED, self.tokenizer.pad_token_id, prediction.predictions)
        written = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return self.judge([text.strip() for text in written], self.references)

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows without labels; `new_tokens` is the length of the longest target."""
        inputs = [{name: row[name] for name in row if name != "labels"} for row in features]
        return {
            **DataCollatorWithPadding(self.tokenizer)(inputs),
            "new_tokens": max(len(r["labels"]) for r in features),
        }

    def answer(self, model: Any, new_tokens: int | None = None, **batch: torch.Tensor) -> torch.Tensor:
        """Generate text.

        Args:
            model: The model, cut or not.
            new_tokens: Fixed number of generated tokens, if given. It makes times comparable, because a model that
                stops early would seem faster.
            **batch: A batch from `question`, on the model's device.

        Returns:
            Tokens, int64 `[rows, tokens]`.
        """
        length = {"max_length": self._longest}
        if new_tokens is not None:
            length = {"min_length": new_tokens + 1, "max_length": new_tokens + 1}
        return model.generate(**batch, **length, num_beams=self.task.beams)
