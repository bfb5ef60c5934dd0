"""Classification of single sentences or pairs: GLUE, the demo data, and a user's own folders."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Value

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.packages import RESOURCES
from neuroprune.pruning.architectures import find_architecture
from neuroprune.tasks import sources

if TYPE_CHECKING:
    from neuroprune.tasks.class_head import ClassHead
    from neuroprune.tasks.label_words import LabelWords


CLASS_TYPES = ("string", "large_string", "bool", "int", "uint", "date", "timestamp", "null")
MISSING = {"NA", "N/A", "NaN", "nan", "None", "NULL", "null"}  # common spellings of a missing value
MANY_CLASSES = 50


@dataclass(frozen=True)
class TaskData(sources.Rows):
    """The rows of a classification task.

    Args:
        task: The task.
        train: Training rows with the task's input columns and the label column (a `ClassLabel`).
        eval: Evaluation rows with the same columns.
        labels: Names of the classes; class `i` is `labels[i]`.
    """

    labels: tuple[str, ...]
    copied: ClassVar[None] = None  # the target is not text

    @cached_property
    def sha256(self) -> str:
        """Platform-independent hash of the used rows, their order and the class names."""
        return sources.splits_sha256(self.train, self.eval, labels=self.labels)

    @cached_property
    def majority(self) -> float:
        """The metric of always predicting the most frequent class."""
        return majority(self.eval[self.task.label][:], self.task.metric)

    def objective(self, model: Any, tokenizer: Any) -> ClassHead | LabelWords:
        """Return the objective of a model on these rows; see `neuroprune.tasks.Objective`."""
        from neuroprune.tasks.class_head import ClassHead
        from neuroprune.tasks.label_words import LabelWords

        if find_architecture(model.config.model_type).text_to_text:
            return LabelWords(self.task, self.labels, tokenizer)
        return ClassHead(self.task, tokenizer)


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> TaskData:
    """Read and check a task's rows and select those it uses; see `neuroprune.tasks.load`."""
    train, held_out = sources.read(task, data_root, resources)
    labels = _label_names(train, task)
    train, held_out = (_checked(rows, task, labels) for rows in (train, held_out))
    if task.metric == "f1" and len(labels) != 2:
        raise UserError(f"task {task.name}: f1 needs two classes, but {task.source} has {len(labels)}; use accuracy")
    data = TaskData(task, sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows), labels)
    _check_classes(data)
    return data


def majority(labels: Sequence[int], metric: str) -> float:
    """Return the metric of a constant prediction in closed form; see `neuroprune.tasks.majority`."""
    counts = np.bincount(labels)
    share = float(counts.max() / counts.sum())
    f1 = 2 * share / (1 + share) if counts.argmax() == 1 else 0.0  # precision is this fraction, recall is 1
    return {"accuracy": share, "f1": f1, "matthews_correlation": 0.0}[metric]


def _label_names(train: Dataset, task: TaskSettings) -> tuple[str, ...]:
    """Return the class names from the dataset's features, or else the sorted values of the training rows."""
    feature = train.features[task.label]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    if isinstance(feature, Value) and feature.dtype.startswith(("float", "double")):
        if missing := _missing_among_classes(train[task.label][:]):
            raise UserError(
                f"task {task.name}: {missing} rows of column {task.label!r} of {task.source} have no label; leave them "
                "out"
            )
        raise UserError(
            f"task {task.name}: column {task.label!r} of {task.source} contains numbers ({feature.dtype}), not "
            "classes; for regression set kind: regression and metric: spearmanr"
        )
    if not isinstance(feature, Value) or not feature.dtype.startswith(CLASS_TYPES):
        what = feature.dtype if isinstance(feature, Value) else "lists, mappings or values of several types"
        raise UserError(
            f"task {task.name}: column {task.label!r} of {task.source} contains {what}, not classes; name a column of "
            "words or whole numbers as label"
        )
    names = tuple(str(value) for value in sorted(set(train[task.label][:]) - {None}))
    _check_names(names, train, task)
    return names


def _missing_among_classes(values: Sequence[float | None]) -> int:
    """Return how many numbers are missing if the others are whole, as csv readers give classes with missing ones."""
    found = [value for value in values if value is not None and not math.isnan(value)]
    return len(values) - len(found) if found and all(value.is_integer() for value in found) else 0


def _check_names(names: tuple[str, ...], train: Dataset, task: TaskSettings) -> None:
    """Reject invalid classes: markers of missing labels, or a class for almost every row."""
    where = f"task {task.name}, split {train.split} of {task.source}"
    numbers = [name for name in names if re.fullmatch(r"[-+]?\d+", name)]
    if negative := [name for name in numbers if name.startswith("-") and name != "-1"]:
        raise UserError(f"{where}: label {negative[0]} is not a class; number classes from 0, or use their names")
    if missing := sorted(MISSING.intersection(names)) if numbers else []:
        raise UserError(f"{where}: some labels are numbers and some are {missing[0]!r}; leave rows without a label out")
    if spaced := [name for name in names if name != name.strip() and name.strip() in names]:
        raise UserError(
            f"{where}: the classes {spaced[0]!r} and {spaced[0].strip()!r} of column {task.label!r} differ only in "
            "spaces; delete these"
        )
    if len(names) > MANY_CLASSES and 2 * len(names) > len(train):
        raise UserError(
            f"{where}: column {task.label!r} has {len(names)} classes in {len(train)} rows; is it the column with the "
            "class? For answers that are text set kind: summarization or translation"
        )


def _checked(rows: Dataset, task: TaskSettings, labels: tuple[str, ...]) -> Dataset:
    """Keep the task's columns, with the label as a `ClassLabel`; reject rows without text or class."""
    where = f"task {task.name}, split {rows.split} of {task.source}"
    sources.check_texts(rows, task, task.inputs)
    values = rows[task.label][:]
    if any(value is None or value == -1 for value in values):
        raise UserError(f"{where}: some labels are hidden (-1 or empty), as in GLUE's test splits; use another split")
    rows = rows.select_columns([*task.inputs, task.label])
    if isinstance(rows.features[task.label], ClassLabel):
        _check_numbers(values, len(labels), where)
        return rows
    strange = sorted({str(value) for value in values} - set(labels))
    if strange:
        raise UserError(f"{where}: class {strange[0]!r} is not among those of the training rows: {_some(labels)}")
    numbers = [labels.index(str(value)) for value in values]
    return rows.remove_columns(task.label).add_column(task.label, numbers, feature=ClassLabel(names=list(labels)))


def _some(names: Sequence[str]) -> str:
    """List names, but at most the first ten."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _check_numbers(values: Sequence[int], classes: int, where: str) -> None:
    """Reject class numbers for which the dataset has no name."""
    if not classes:
        raise UserError(f"{where}: its labels are numbers of classes without names; declare the names in the dataset")
    if outside := {value for value in values if not 0 <= value < classes}:
        raise UserError(f"{where}: label {min(outside)} is not a class; the {classes} classes are 0 to {classes - 1}")


def _check_classes(data: TaskData) -> None:
    """Reject training rows of a single class, from which nothing can be learned."""
    task, found = data.task, set(data.train[data.task.label][:])
    if len(found) < 2:
        names = ", ".join(data.labels[number] for number in found) or "no class at all"
        raise UserError(
            f"task {task.name}: the {len(data.train)} rows of {task.source} to train on (split {task.train_split}) "
            f"have only one class, {names}; use more rows or another split"
        )
