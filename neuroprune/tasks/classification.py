"""Classification of one sentence or of a pair: GLUE's tasks, the demo's, and a user's own folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from neuroprune.errors import UserError
from neuroprune.resources import RESOURCES
from neuroprune.settings import TaskSettings
from neuroprune.tasks import sources
from neuroprune.tasks.quiet import no_progress_bars
from neuroprune.tasks.text import rows_sha256

SHUFFLE_SEED = 0


@dataclass(frozen=True)
class TaskData:
    """The rows of a classification task.

    Args:
        task: The task.
        train: Rows to train on, with the task's input columns and the label column (a `ClassLabel`).
        eval: Rows to judge on, with the same columns.
        labels: Names of the classes; class `i` is `labels[i]`.
    """

    task: TaskSettings
    train: Dataset
    eval: Dataset
    labels: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of the used rows, their order and the classes' names; the same on every platform."""
        parts = [json.dumps(self.labels), *(rows_sha256(_rows(split)) for split in (self.train, self.eval))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def majority(self) -> float:
        """What the task's metric gives for always answering the most frequent class."""
        return majority(self.eval[self.task.label][:], self.task.metric)

    def texts(self) -> Iterator[str]:
        """Yield every text of the training rows."""
        for column in self.task.inputs:
            yield from self.train[column][:]


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> TaskData:
    """Read, check and cut a task's rows; see `neuroprune.tasks.load`."""
    train, held_out = sources.read(task, data_root, resources)
    labels = _label_names(train, task)
    train, held_out = (_checked(rows, task, labels) for rows in (train, held_out))
    if task.metric == "f1" and len(labels) != 2:
        raise UserError(f"task {task.name}: f1 needs two classes, but {task.source} has {len(labels)}; use accuracy")
    return TaskData(task, _first(train, task.train_rows), _first(held_out, task.eval_rows), labels)


def encode(dataset: Dataset, tokenizer: Any, task: TaskSettings) -> Dataset:
    """Tokenise rows; see `neuroprune.tasks.encode`."""
    length = min(task.max_length, tokenizer.model_max_length)

    def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(*(batch[column] for column in task.inputs), truncation=True, max_length=length)
        return {**encoded, "labels": batch[task.label]}

    options = {"remove_columns": dataset.column_names, "keep_in_memory": True, "load_from_cache_file": False}
    with no_progress_bars():
        return dataset.map(tokenise, batched=True, **options)


def compute_metrics(task: TaskSettings) -> Callable[[Any], dict[str, float]]:
    """Return the Trainer's judge; see `neuroprune.tasks.compute_metrics`."""

    from neuroprune.tasks import metrics  # evaluate takes seconds to import, and preparing data needs no judge

    def compute(prediction: Any) -> dict[str, float]:
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits  # encoder-decoders add their hidden states
        names = [name for name in metrics.METRICS if name != "f1" or logits.shape[-1] == 2]
        return metrics.judge(names, np.argmax(logits, axis=-1), np.asarray(prediction.label_ids))

    return compute


def majority(labels: Sequence[int], metric: str) -> float:
    """Return the metric of a constant answer, in closed form; see `neuroprune.tasks.majority`."""
    counts = np.bincount(labels)
    share = float(counts.max() / counts.sum())
    f1 = 2 * share / (1 + share) if counts.argmax() == 1 else 0.0  # precision is the share, recall 1
    return {"accuracy": share, "f1": f1, "matthews_correlation": 0.0}[metric]


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Yield a dataset's rows; by columns, which is many times faster than row by row."""
    columns = dataset[:]
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _label_names(train: Dataset, task: TaskSettings) -> tuple[str, ...]:
    """Return the classes' names: those the dataset carries, or else the sorted values of the training rows."""
    feature = train.features[task.label]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    if isinstance(feature, Value) and feature.dtype.startswith(("float", "double")):
        raise UserError(
            f"task {task.name}: column {task.label!r} of {task.source} holds numbers ({feature.dtype}), not classes"
        )
    return tuple(str(value) for value in sorted(set(train[task.label][:]) - {None}))


def _checked(rows: Dataset, task: TaskSettings, labels: tuple[str, ...]) -> Dataset:
    """Keep the columns that the task names, with the label as a `ClassLabel`; refuse rows without text or class."""
    where = f"task {task.name}, split {rows.split} of {task.source}"
    for column in task.inputs:
        empty = sum(not isinstance(text, str) for text in rows[column][:])
        if empty:
            raise UserError(f"{where}: {empty} rows of column {column!r} hold no text")
    values = rows[task.label][:]
    if any(value is None or value == -1 for value in values):
        raise UserError(f"{where}: some labels are hidden (-1 or empty), as in GLUE's test splits; use another split")
    rows = rows.select_columns([*task.inputs, task.label])
    if isinstance(rows.features[task.label], ClassLabel):
        return rows
    strange = sorted({str(value) for value in values} - set(labels))
    if strange:
        raise UserError(f"{where}: class {strange[0]!r} is not among those of the training rows: {', '.join(labels)}")
    numbers = [labels.index(str(value)) for value in values]
    return rows.remove_columns(task.label).add_column(task.label, numbers, feature=ClassLabel(names=list(labels)))


def _first(rows: Dataset, count: int | None) -> Dataset:
    """Return the first rows of a shuffle that depends on nothing but the number of rows."""
    if count is None or count >= len(rows):
        return rows
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(rows))  # its stream is frozen, unlike default_rng's
    return rows.select(order[:count])
