"""Regression: predict a number for a sentence or a pair, such as the similarity in STS-B."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import ClassLabel, Dataset, Value

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.packages import RESOURCES
from neuroprune.tasks import sources

if TYPE_CHECKING:
    from neuroprune.tasks.class_head import ClassHead


@dataclass(frozen=True)
class ScoredTexts(sources.Rows):
    """The rows of a regression task.

    Args:
        task: The task.
        train: Training rows with the task's input columns and the label column (float64).
        eval: Evaluation rows with the same columns.
    """

    majority: ClassVar[float] = 0.0  # a constant prediction has no correlation
    copied: ClassVar[None] = None  # the target is not text

    @property
    def labels(self) -> tuple[str]:
        """The name of the model's only output: the label column."""
        return (self.task.label,)

    def objective(self, model: Any, tokenizer: Any) -> ClassHead:
        """Return the objective of a model on these rows; see `neuroprune.tasks.Objective`.

        Args:
            model: The model.
            tokenizer: Its tokenizer.

        Returns:
            The objective.

        Raises:
            UserError: If the model generates text.
        """
        from neuroprune.tasks.class_head import ClassHead, check_has_head

        check_has_head(model, self.task)
        return ClassHead(self.task, tokenizer, judge)


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> ScoredTexts:
    """Read and check a task's rows and select those it uses; see `neuroprune.tasks.load`."""
    train, held_out = (_checked(rows, task) for rows in sources.read(task, data_root, resources))
    data = ScoredTexts(task, sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows))
    for rows, split in ((data.train, task.train_split), (data.eval, task.eval_split)):
        _check_varied(rows[task.label][:], f"task {task.name}, split {split} of {task.source}", task.label)
    return data


def judge(predictions: Any, labels: Any) -> dict[str, float]:
    """Return the correlations of predicted and true numbers.

    Args:
        predictions: Outputs of the model, `[rows, 1]`.
        labels: True numbers, `[rows]`.

    Returns:
        `pearson` and `spearmanr`.
    """
    from neuroprune.tasks import metrics  # scikit-learn and scipy are slow to import

    return metrics.correlations(predictions[:, 0], labels)


def _checked(rows: Dataset, task: TaskSettings) -> Dataset:
    """Keep the task's columns, with the label as float64; reject rows without text or number."""
    where = f"task {task.name}, split {rows.split} of {task.source}"
    sources.check_texts(rows, task, task.inputs)
    feature, values = rows.features[task.label], rows[task.label][:]
    if isinstance(feature, ClassLabel) or not all(_is_number(value) for value in values if value is not None):
        raise UserError(
            f"{where}: column {task.label!r} contains classes or text, not numbers; use kind: classification"
        )
    if missing := sum(value is None or not math.isfinite(value) for value in values):
        raise UserError(f"{where}: {missing} rows of column {task.label!r} have no finite number")
    numbers = [float(value) for value in values]
    rows = rows.select_columns(list(task.inputs))
    return rows.add_column(task.label, numbers, feature=Value("float64"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_varied(values: list[float], where: str, column: str) -> None:
    """Reject rows with a constant label, for which the correlation is undefined."""
    if len(set(values)) < 2:
        same = f" ({values[0]:g})" if values else ""
        raise UserError(
            f"{where}: all {len(values)} rows have the same number in column {column!r}{same}; use more rows or "
            "another split. The labels of GLUE's test splits are hidden."
        )
