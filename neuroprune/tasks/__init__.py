"""Tasks: a dataset, how a model is trained and asked on it, and how the answers are judged.

Each kind of task is a module with `load`, imported when it is asked for. What `load` gives holds the rows and, by its
method `objective`, everything that depends on the model too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from neuroprune.config.settings import TaskSettings
from neuroprune.files.packages import RESOURCES

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = {
    "classification": "neuroprune.tasks.classification",
    "language_modeling": "neuroprune.tasks.language_modeling",
    "regression": "neuroprune.tasks.regression",
    "summarization": "neuroprune.tasks.summarization",
    "translation": "neuroprune.tasks.translation",
}


class Data(Protocol):
    """The rows of a task, as `load` gives them."""

    train: Dataset
    eval: Dataset

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names in order; for regression the label column alone; none where the answer is text."""

    @property
    def majority(self) -> float | None:
        """What the task's metric gives for always answering the most frequent class, or any constant number."""

    @property
    def copied(self) -> float | None:
        """What the task's metric gives for copying: the source, or its first words as a summary; None for classes."""

    @property
    def sha256(self) -> str:
        """Hash of the used rows."""

    def texts(self) -> Iterator[str]:
        """Yield the texts that a tokenizer may be trained on."""

    def objective(self, model: Any, tokenizer: Any) -> Objective:
        """Return how a model is trained and asked on these rows."""


class Objective(Protocol):
    """How a model is trained and asked: by a classification head, by the classes' names, or by writing text.

    Args:
        trainer_class: transformers' Trainer, or a subclass.
        arguments: What the Trainer's arguments need besides the training settings.
    """

    trainer_class: type
    arguments: dict[str, Any]

    def encode(self, rows: Dataset) -> Dataset:
        """Turn rows into what the model reads and `labels`; padding is left to `collate`."""

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad encoded rows to a batch to train on."""

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Judge the Trainer's `EvalPrediction` of all judged rows: all of the task's metrics by name."""

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad encoded rows, without their answers, to a batch for `answer`."""

    def answer(self, model: Any, **batch: Any) -> Any:
        """Let a model answer such a batch: what is timed as inference."""


def prepare(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> dict[str, Any]:
    """Fetch a task's dataset if necessary, and describe its rows.

    Args:
        task: The task.
        data_root: Folder in which datasets are looked up before they are downloaded.
        resources: Folder of demo data and package files.

    Returns:
        `name`, `source`, `config`, `splits` (split name to the number of its rows that are used), `labels` (the
        classes' names in order), `majority`, `copied` and `sha256`, which depends on the used rows alone.

    Raises:
        UserError: If the dataset can't be had or does not fit the task.
    """
    data = load(task, data_root, resources)
    return {
        "name": task.name,
        "source": task.source,
        "config": task.config,
        "splits": {task.train_split: len(data.train), task.eval_split: len(data.eval)},
        "labels": list(data.labels),
        "majority": data.majority,
        "copied": data.copied,
        "sha256": data.sha256,
    }


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> Data:
    """Read the rows that a task trains on and is judged on.

    Args:
        task: The task.
        data_root: Folder in which datasets are looked up before they are downloaded.
        resources: Folder of demo data and package files.

    Returns:
        The task's data.

    Raises:
        UserError: If the dataset can't be had or does not fit the task.
    """
    return import_module(KINDS[task.kind]).load(task, data_root, resources)


def majority(labels: Sequence[int], metric: str = "accuracy") -> float:
    """Return what the metric gives to someone who always answers the most frequent class.

    Args:
        labels: Classes of the judged rows.
        metric: `accuracy`, `f1` or `matthews_correlation`.

    Returns:
        The metric's value: for accuracy the share of the most frequent class, for Matthews correlation 0.
    """
    from neuroprune.tasks import classification

    return classification.majority(labels, metric)
