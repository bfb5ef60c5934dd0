"""Tasks: a dataset, how it is read by a model, and how the answers are judged.

Each kind of task is a module with `load`, `encode` and `compute_metrics`, imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.resources import RESOURCES
from neuroprune.settings import TaskSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from neuroprune.tasks.classification import TaskData

KINDS = {"classification": "neuroprune.tasks.classification"}


def prepare(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> dict[str, Any]:
    """Make sure that a task's dataset is there, and say which rows it gives.

    Args:
        task: The task.
        data_root: Where datasets are looked for before the hub is asked.
        resources: Where demo data are built and package files kept.

    Returns:
        `name`, `source`, `config`, `splits` (split name to the number of its rows that are used), `labels` (the
        classes' names in order), `majority` and `sha256`, which depends on the used rows alone.

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
        "sha256": data.sha256,
    }


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> TaskData:
    """Read the rows that a task trains on and is judged on.

    Args:
        task: The task.
        data_root: Where datasets are looked for before the hub is asked.
        resources: Where demo data are built and package files kept.

    Returns:
        The task's data: `train`, `eval`, `labels`, `majority`, `sha256`.

    Raises:
        UserError: If the dataset can't be had or does not fit the task.
    """
    return _part(task, "load")(task, data_root, resources)


def encode(dataset: Dataset, tokenizer: Any, task: TaskSettings) -> Dataset:
    """Turn rows into what the model reads; padding is left to the collator.

    Args:
        dataset: Rows as `load` gives them.
        tokenizer: The model's tokenizer.
        task: The task.

    Returns:
        A dataset with the tokenizer's columns and `labels`, nothing else.
    """
    return _part(task, "encode")(dataset, tokenizer, task)


def compute_metrics(task: TaskSettings) -> Callable[[Any], dict[str, float]]:
    """Return the function that the Trainer calls to judge: `EvalPrediction` to all of the task's metrics by name."""
    return _part(task, "compute_metrics")(task)


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


def _part(task: TaskSettings, name: str) -> Callable[..., Any]:
    return getattr(import_module(KINDS[task.kind]), name)
