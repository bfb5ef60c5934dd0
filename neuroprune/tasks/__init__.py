"""Tasks: a dataset, the objective of a model on it, and its metrics.

Each kind of task is a module with `load`, which is imported on demand. `load` returns the rows; their method
`objective` returns everything that also depends on the model.
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
    "question_answering": "neuroprune.tasks.question_answering",
    "regression": "neuroprune.tasks.regression",
    "summarization": "neuroprune.tasks.summarization",
    "token_classification": "neuroprune.tasks.token_classification",
    "translation": "neuroprune.tasks.translation",
}


class Data(Protocol):
    """The rows of a task, as returned by `load`."""

    train: Dataset
    eval: Dataset

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order; for numbers, the label column; for answers, start and end; empty for generated text."""

    @property
    def majority(self) -> float | None:
        """The metric of always predicting the most frequent class, or a constant number."""

    @property
    def copied(self) -> float | None:
        """The metric of copying the source, or its first words as a summary; None if the target is not text."""

    @property
    def sha256(self) -> str:
        """Hash of the used rows."""

    def texts(self) -> Iterator[str]:
        """Yield the texts for training a tokenizer."""

    def objective(self, model: Any, tokenizer: Any) -> Objective:
        """Return the objective of a model on these rows."""


class Objective(Protocol):
    """Training and prediction for a kind of model: with a classification head, class names, or generated text.

    Args:
        trainer_class: transformers' Trainer, or a subclass.
        arguments: Arguments for the Trainer in addition to the training settings.
    """

    trainer_class: type
    arguments: dict[str, Any]

    def encode(self, rows: Dataset) -> Dataset:
        """Convert rows to model inputs and `labels`, without padding."""

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad encoded rows to a training batch."""

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """Return all metrics of the task by name for the Trainer's `EvalPrediction`."""

    def question(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad encoded rows, without labels, to a batch for `answer`."""

    def answer(self, model: Any, **batch: Any) -> Any:
        """Run a model on such a batch; this is timed as inference."""


def prepare(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> dict[str, Any]:
    """Fetch a task's dataset if necessary and describe its rows.

    Args:
        task: The task.
        data_root: Folder in which datasets are looked up before they are downloaded.
        resources: Folder of demo data and package files.

    Returns:
        `name`, `source`, `config`, `splits` (number of used rows by split), `labels` (class names in order),
        `majority`, `copied` and `sha256`, which depends only on the used rows.

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
    """Read a task's training and evaluation rows.

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
    """Return the metric of always predicting the most frequent class.

    Args:
        labels: Classes of the evaluation rows.
        metric: `accuracy`, `f1` or `matthews_correlation`.

    Returns:
        The metric's value: for accuracy, the fraction of the most frequent class; for Matthews correlation, 0.
    """
    from neuroprune.tasks import classification

    return classification.majority(labels, metric)
