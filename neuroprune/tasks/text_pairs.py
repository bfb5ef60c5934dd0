"""Rows of text-to-text tasks, such as summarization and translation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset

from neuroprune.config.settings import TaskSettings
from neuroprune.tasks import sources
from neuroprune.tasks.text import Copy, Judge

if TYPE_CHECKING:
    from neuroprune.tasks.generation import Generation


@dataclass(frozen=True)
class TextPairs(sources.Rows):
    """The rows of a summarization or translation task.

    Args:
        task: The task.
        train: Training rows with the task's input and label columns, both text.
        eval: Evaluation rows with the same columns.
        judge: Function from generated texts and references, row by row, to values by metric.
        copy: Function from source texts and the training rows' targets to the copying baseline.
    """

    judge: Judge
    copy: Copy
    labels: ClassVar[tuple[str, ...]] = ()  # there are no classes,
    majority: ClassVar[None] = None  # and so no most frequent one

    @cached_property
    def copied(self) -> float:
        """The metric of copying from the source."""
        written = self.copy(self.eval[self.task.inputs[0]][:], self.train[self.task.label][:])
        return self.judge(written, self.eval[self.task.label][:])[self.task.metric]

    def texts(self) -> Iterator[str]:
        """Yield every text of the training rows."""
        for column in (*self.task.inputs, self.task.label):
            yield from self.train[column][:]

    def objective(self, model: Any, tokenizer: Any) -> Generation:
        """Return the objective of a model on these rows; see `neuroprune.tasks.Objective`."""
        from neuroprune.tasks.generation import Generation

        return Generation(self.task, self.eval[self.task.label][:], self.judge, model, tokenizer)


def load(task: TaskSettings, data_root: Path, resources: Path, judge: Judge, copy: Copy) -> TextPairs:
    """Read, check and select a task's rows; see `neuroprune.tasks.load`, and `TextPairs` for `judge` and `copy`."""
    train, held_out = (_checked(rows, task) for rows in sources.read(task, data_root, resources))
    used = sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows)
    return TextPairs(task, *used, judge, copy)


def _checked(rows: Dataset, task: TaskSettings) -> Dataset:
    """Keep the task's columns; reject rows without text."""
    columns = [*task.inputs, task.label]
    sources.check_texts(rows, task, columns, blank=False)
    return rows.select_columns(columns)
