"""Objective of decoders that predict the next token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import Trainer

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.pruning.defaults import IGNORED

LARGEST = 700.0
"""Upper bound on the mean loss in the perplexity, because `exp` overflows at 710."""

Row = dict[str, list[int]]


def losses_and_hits(logits: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce logits to the loss of each token and whether it was the most likely one.

    Args:
        logits: `[rows, tokens, vocabulary]`, or a tuple that begins with them.
        labels: `[rows, tokens]`; each token is predicted at the preceding position.

    Returns:
        Two tensors `[rows, tokens - 1]`.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    scores, wanted = logits[:, :-1].float(), labels[:, 1:].to(logits.device)
    losses = functional.cross_entropy(scores.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
    return losses, (scores.argmax(dim=-1) == wanted).float()


class NextTokenTrainer(Trainer):
    """Trainer that stores two numbers per evaluated token instead of scores of the whole vocabulary."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, preprocess_logits_for_metrics=losses_and_hits)  # type: ignore[arg-type]


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the next token, for all tokens of a text or only those of a completion.

    If the tokenizer has a chat template, a prompt and its completion become a conversation of two turns. Otherwise, the
    completion is appended to the prompt. Every row ends with the tokenizer's end token.

    Args:
        task: The task.
        tokenizer: The model's tokenizer.
        counts: Frequencies of the target tokens in the training rows, which `encode` counts in its first call.
    """

    task: TaskSettings
    tokenizer: Any
    counts: Counter[int] = field(default_factory=Counter)
    trainer_class: ClassVar[type] = NextTokenTrainer

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the Trainer in addition to the training settings: none."""
        return {}

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise texts, truncated or packed to `max_length` tokens; return the tokenizer's columns and `labels`."""
        columns = rows.select_columns(list(self.task.inputs))[:]
        encoded: Iterable[Row] = map(self._row, zip(*(columns[name] for name in self.task.inputs), strict=True))
        encoded = pack(encoded, self._longest) if self.task.packing else map(self._truncated, encoded)
        kept = [row for row in encoded if any(label != IGNORED for label in row["labels"][1:])]
        if not kept:
            raise UserError(f"task {self.task.name}: no row has two tokens, so there is no next token to predict.")
        if not self.counts:
            self.counts.update(label for row in kept for label in row["labels"][1:] if label != IGNORED)
        made = {name: [row[name] for row in kept] for name in ("input_ids", "labels")}
        return Dataset.from_dict(made | {"attention_mask": [[1] * len(row["input_ids"]) for row in kept]})

    @property
    def _longest(self) -> int:
        return min(self.task.max_length, self.tokenizer.model_max_length)

    def _row(self, texts: tuple[str, ...]) -> Row:
        """Tokenise a text, or a prompt and its completion, without truncation."""
        if len(texts) == 1:
            tokens = self._ended(self.tokenizer(texts[0])["input_ids"])
            return {"input_ids": tokens, "labels": list(tokens)}
        prompt, answer = self._conversation(*texts) if self.tokenizer.chat_template else self._plain_pair(*texts)
        return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}

    def _plain_pair(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        read = self.tokenizer(prompt)["input_ids"]
        read = read[:-1] if read and read[-1] == self.tokenizer.eos_token_id else read
        return read, self._ended(self.tokenizer(completion, add_special_tokens=False)["input_ids"])

    def _conversation(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        asked = [{"role": "user", "content": prompt}]
        told = [*asked, {"role": "assistant", "content": completion}]
        question = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template(told, tokenize=False)
        if not whole.startswith(question):
            raise UserError(
                f"task {self.task.name}: the tokenizer's chat template writes a prompt in another way when its answer "
                "follows, so the answer's tokens can't be told; change tokenizer.chat_template, or delete it."
            )
        read, answer = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (question, whole.removeprefix(question).rstrip("\n"))
        )
        return read, self._ended(answer)

    def _ended(self, tokens: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]

    def _truncated(self, row: Row) -> Row:
        """Truncate a text at its end, or a prompt that leaves no room for its completion at its beginning."""
        asked = next((place for place, label in enumerate(row["labels"]) if label != IGNORED), 0)
        room = self._longest - min(len(row["labels"]) - asked, self._longest - 1)
        start = max(0, asked - room)
        return {name: values[start : start + self._longest] for name, values in row.items()}

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad rows to a batch, on the right."""
        fill = {"input_ids": self.tokenizer.pad_token_id, "labels": IGNORED, "attention_mask": 0}
        longest = max(len(row["input_ids"]) for row in features)
        return {
            name: torch.tensor([list(row[name]) + [fill[name]] * (longest - len(row[name])) for row in features])
            for name in fill
            if name in features[0]
        }

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Return perplexity and accuracy over all evaluated tokens, for the model and a unigram baseline."""
        losses, hits = (np.asarray(part, dtype=np.float64) for part in prediction.predictions)
        labels = np.asarray(prediction.label_ids)[:, 1 : losses.shape[1] + 1]
        present = labels != IGNORED
        unigram = self._unigram(labels[present])
        return {"perplexity": perplexity(losses[present]), "token_accuracy": float(hits[present].mean()), **unigram}

    def _unigram(self, tokens: np.ndarray) -> dict[str, float]:
        """Return the metrics of a unigram model with add-one smoothed token frequencies of the training rows."""
        size = max(len(self.tokenizer), *self.counts, int(tokens.max())) + 1
        seen = np.ones(size)
        for token, count in self.counts.items():
            seen[token] += count
        return {
            "unigram_perplexity": perplexity(-np.log(seen / seen.sum())[tokens]),
            "unigram_token_accuracy": float((tokens == seen.argmax()).mean()),
        }

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows without their labels."""
        return self.collate([{name: row[name] for name in row if name != "labels"} for row in features])

    def answer(self, model: Any, **batch: Tensor) -> Tensor:
        """Return the logits `[rows, tokens, vocabulary]` for a batch from `question`, in one pass over whole texts."""
        return model(**batch, use_cache=False).logits


def perplexity(losses: np.ndarray) -> float:
    """Return the exponential of the mean loss per token."""
    return math.exp(min(float(losses.mean()), LARGEST))


def pack(rows: Iterable[Row], length: int) -> Iterator[Row]:
    """Concatenate rows and yield sequences of `length` tokens; the last one may be shorter."""
    joined: Row = {"input_ids": [], "labels": []}
    for row in rows:
        for name, values in joined.items():
            values += row[name]
        while len(joined["labels"]) >= length:
            yield {name: values[:length] for name, values in joined.items()}
            joined = {name: values[length:] for name, values in joined.items()}
    if joined["labels"]:
        yield joined
