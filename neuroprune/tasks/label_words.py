"""Objective of text-to-text models, such as T5, that classify by generating the class name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding, Trainer
from transformers.modeling_outputs import BaseModelOutput

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.pruning.defaults import IGNORED
from neuroprune.tasks import class_head
from neuroprune.tasks.lengths import longest_input
from neuroprune.tasks.sources import mapped


class LabelWordsTrainer(Trainer):
    """Trainer for rows with class numbers and a model that generates class names."""

    @cached_property
    def _names(self) -> Tensor:
        model: Any = self.model
        names = model.config.id2label
        return label_tokens([names[number] for number in sorted(names)], self.processing_class).to(self.args.device)

    def count_targets(self, inputs: dict[str, Any]) -> Tensor:
        """Count the tokens of the names of a batch's classes, for `batches.SplitSteps`."""
        return (self._names[inputs["labels"].to(self.args.device)] != IGNORED).sum()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the cross-entropy of the class names' tokens."""
        return super().compute_loss(model, {**inputs, "labels": self._names[inputs["labels"]]}, *args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        """Return the loss, the scores of the classes `[rows, classes]` and the true classes."""
        inputs = dict(self._prepare_inputs(inputs))
        names, labels = self._names, inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = score_names(model, names, **inputs)
        tokens = (names[labels] != IGNORED).sum()
        loss = -scores.gather(1, labels[:, None]).sum() / tokens
        return loss, None if prediction_loss_only else scores, labels


@dataclass(frozen=True)
class LabelWords:
    """Text-to-text classification as in T5's training: from `mrpc sentence1: ... sentence2: ...` to `equivalent`.

    The input contains the names of the task and of its columns, in alphabetical order, as in T5's training on GLUE
    (Raffel et al. 2020, appendix D). The output is the class name from the dataset. Predictions compare the
    log-likelihoods of all names in one pass of the decoder and are therefore always a valid class.

    Args:
        task: The task.
        labels: Names of the classes.
        tokenizer: The model's tokenizer.
    """

    task: TaskSettings
    labels: Sequence[str]
    tokenizer: Any
    trainer_class: ClassVar[type] = LabelWordsTrainer

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the Trainer in addition to the training settings: none."""
        return {}

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise the inputs as text; return the tokenizer's columns and `labels`, the class numbers."""
        task, columns = self.task, sorted(self.task.inputs)
        longest = longest_input(task, self.tokenizer, prefix=f"{task.name} {columns[0]}:")

        def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
            rows = zip(*(batch[column] for column in columns), strict=True)
            parts = (" ".join(f"{c}: {text}" for c, text in zip(columns, row, strict=True)) for row in rows)
            encoded = self.tokenizer([f"{task.name} {part}" for part in parts], truncation=True, max_length=longest)
            return {**encoded, "labels": batch[task.label]}

        return mapped(rows, tokenise)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows to a batch."""
        return DataCollatorWithPadding(self.tokenizer)(features)

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Compute the metrics of the most likely classes."""
        return class_head.judge(prediction.predictions, prediction.label_ids)

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows without labels."""
        return self.collate([{name: row[name] for name in row if name != "labels"} for row in features])

    def answer(self, model: Any, **batch: Tensor) -> Tensor:
        """Return the log-likelihoods of the class names `[rows, classes]` for a batch from `question`."""
        return score_names(model, label_tokens(self.labels, self.tokenizer).to(model.device), **batch)


def label_tokens(names: Sequence[str], tokenizer: Any) -> Tensor:
    """Return the tokens of class names.

    Args:
        names: The names; they must differ in their tokens.
        tokenizer: The model's tokenizer.

    Returns:
        int64 `[classes, tokens]`, with the tokenizer's end token, padded with `IGNORED`.

    Raises:
        UserError: If two names have the same tokens.
    """
    rows = tokenizer(text_target=list(names))["input_ids"]
    for number, row in enumerate(rows):
        if row in rows[:number]:
            twin = names[rows.index(row)]
            raise UserError(f"classes {twin!r} and {names[number]!r} have the same tokens; rename one of them")
    longest = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])


def score_names(model: Any, names: Tensor, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> Tensor:
    """Return a model's log-likelihood of each class name as the output; other inputs are ignored.

    Args:
        model: An encoder-decoder with a language-modelling head.
        names: Tokens of the names, int64 `[classes, tokens]`, padded with `IGNORED`.
        input_ids: `[rows, input tokens]`.
        attention_mask: `[rows, input tokens]`.

    Returns:
        float32 `[rows, classes]`, sums of the log-probabilities of a name's tokens. The encoder processes each row
        once.
    """
    rows, classes = len(input_ids), len(names)
    states = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    answers = names.repeat(rows, 1)
    logits = model(
        encoder_outputs=BaseModelOutput(states.repeat_interleave(classes, dim=0)),
        attention_mask=attention_mask.repeat_interleave(classes, dim=0),
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=answers),
    ).logits
    chosen = logits.float().log_softmax(-1).gather(-1, answers.clamp_min(0)[..., None])[..., 0]
    return chosen.masked_fill(answers == IGNORED, 0.0).sum(-1).view(rows, classes)
