"""Token classification: one class per word of a text, as in named-entity recognition and part-of-speech tagging."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.packages import RESOURCES
from neuroprune.tasks import sources

if TYPE_CHECKING:
    from neuroprune.tasks.token_head import TokenHead


@dataclass(frozen=True)
class TaggedTexts(sources.Rows):
    """The rows of a token classification task.

    Args:
        task: The task.
        train: Training rows: the input column with lists of words, and the label column with lists of class numbers.
        eval: Evaluation rows with the same columns.
        labels: Names of the classes; class `i` is `labels[i]`.
    """

    labels: tuple[str, ...]
    tagged: ClassVar[bool] = True
    copied: ClassVar[None] = None  # the target is not text

    @cached_property
    def sha256(self) -> str:
        """Platform-independent hash of the used rows, their order and the class names."""
        return sources.splits_sha256(self.train, self.eval, labels=self.labels)

    @cached_property
    def majority(self) -> float:
        """The metric of always predicting the most frequent class of the evaluation words."""
        counts = np.bincount([number for row in self.eval[self.task.label][:] for number in row])
        share, classes = float(counts.max() / counts.sum()), int((counts > 0).sum())
        return share if self.task.metric == "token_accuracy" else 2 * share / (1 + share) / classes

    def texts(self) -> Iterator[str]:
        """Yield every text of the training rows."""
        yield from map(" ".join, self.train[self.task.inputs[0]][:])

    def objective(self, model: Any, tokenizer: Any) -> TokenHead:
        """Return the objective of a model on these rows; see `neuroprune.tasks.Objective`.

        Args:
            model: The model.
            tokenizer: Its tokenizer.

        Returns:
            The objective.

        Raises:
            UserError: If the model generates text, or the tokenizer does not provide token positions.
        """
        from neuroprune.tasks.class_head import check_has_head
        from neuroprune.tasks.token_head import TokenHead

        check_has_head(model, self.task, tokenizer)
        return TokenHead(self.task, tokenizer)


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> TaggedTexts:
    """Read, check and select a task's rows; see `neuroprune.tasks.load`."""
    splits = sources.read(task, data_root, resources)
    tags = [[_parts(value) for value in rows[task.label][:]] for rows in splits]
    names = _names(splits[0], task) or tuple(sorted({str(tag) for row in tags[0] for tag in row}))
    if negative := [name for name in names if re.fullmatch(r"-\d+", name)]:
        raise UserError(
            f"task {task.name}, split {splits[0].split} of {task.source}: label {negative[0]} is not a class; number "
            "classes from 0, or use their names"
        )
    train, held_out = (_checked(rows, found, task, names) for rows, found in zip(splits, tags, strict=True))
    data = TaggedTexts(task, sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows), names)
    if len({number for row in data.train[task.label][:] for number in row}) < 2:
        raise UserError(
            f"task {task.name}: the words of the {len(data.train)} training rows of {task.source} have only one class; "
            "use more rows or another split"
        )
    return data


def _parts(value: Any) -> list[Any]:
    """Return a list unchanged, and split a text at spaces."""
    return value.split() if isinstance(value, str) else list(value or ())


def _names(rows: Dataset, task: TaskSettings) -> tuple[str, ...]:
    """Return the class names if the dataset has them."""
    feature = getattr(rows.features[task.label], "feature", None)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else ()


def _checked(rows: Dataset, tags: Sequence[list[Any]], task: TaskSettings, names: tuple[str, ...]) -> Dataset:
    """Return words and class numbers; reject rows in which their numbers differ, and unknown classes."""
    where, column = f"task {task.name}, split {rows.split} of {task.source}", task.inputs[0]
    words = [_parts(value) for value in rows[column][:]]
    known = {name: number for number, name in enumerate(names)}
    known |= {number: number for number in range(len(names)) if _names(rows, task)}  # type: ignore[misc]
    numbers = []
    for place, (text, found) in enumerate(zip(words, tags, strict=True), start=1):
        if not text or not all(isinstance(word, str) and word.strip() for word in text):
            raise UserError(f"{where}: row {place} of column {column!r} holds no words; give lists of words, or a text")
        if len(text) != len(found):
            raise UserError(
                f"{where}: row {place} has {len(text)} words in column {column!r} but {len(found)} classes in column "
                f"{task.label!r}; give one class for each word, both as lists or separated by spaces"
            )
        strange = [tag for tag in found if tag not in known and str(tag) not in known]
        if strange:
            raise UserError(f"{where}: class {strange[0]!r} in row {place} is not among those of the training rows")
        numbers.append([known[tag] if tag in known else known[str(tag)] for tag in found])
    features = Features({column: List(Value("string")), task.label: List(ClassLabel(names=list(names)))})
    return Dataset.from_dict({column: words, task.label: numbers}, features=features, split=rows.split)
