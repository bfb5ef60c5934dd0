"""Rows of tasks whose answer is text: one text in, one out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import text_hash
from neuroprune.tasks import sources
from neuroprune.tasks.text import Copy, Judge, rows_sha256

if TYPE_CHECKING:
    from neuroprune.tasks.generation import Generation


@dataclass(frozen=True)
class TextPairs:
    """The rows of a summarization or translation.

    Args:
        task: The task.
        train: Rows to train on, with the task's input column and its label column, both text.
        eval: Rows to judge on, with the same columns.
        judge: Written texts and references, row by row, to values by metric.
        copy: Source texts and the training rows' answers to what someone would write who only copies.
    """

    task: TaskSettings
    train: Dataset
    eval: Dataset
    judge: Judge
    copy: Copy
    labels: ClassVar[tuple[str, ...]] = ()  # there are no classes,
    majority: ClassVar[None] = None  # and so no most frequent one

    @cached_property
    def copied(self) -> float:
        """What the task's metric gives for copying from the source."""
        written = self.copy(self.eval[self.task.inputs[0]][:], self.train[self.task.label][:])
        return self.judge(written, self.eval[self.task.label][:])[self.task.metric]

    @cached_property
    def sha256(self) -> str:
        """Hash of the used rows and their order; the same on every platform."""
        parts = (rows_sha256(sources.each(split)) for split in (self.train, self.eval))
        return text_hash("\n".join(parts))

    def texts(self) -> Iterator[str]:
        """Yield every text of the training rows."""
        for column in (*self.task.inputs, self.task.label):
            yield from self.train[column][:]

    def objective(self, model: Any, tokenizer: Any) -> Generation:
        """Return how a model is trained and asked on these rows; see `neuroprune.tasks.objective`."""
        from neuroprune.tasks.generation import Generation

        return Generation(self.task, self.eval[self.task.label][:], self.judge, model, tokenizer)


def load(task: TaskSettings, data_root: Path, resources: Path, judge: Judge, copy: Copy) -> TextPairs:
    """Read, check and cut a task's rows; see `neuroprune.tasks.load`, and `TextPairs` for `judge` and `copy`."""
    train, held_out = (_checked(rows, task) for rows in sources.read(task, data_root, resources))
    used = sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows)
    return TextPairs(task, *used, judge, copy)


def _checked(rows: Dataset, task: TaskSettings) -> Dataset:
    """Keep the columns that the task names; refuse rows without text."""
    columns = [*task.inputs, task.label]
    for column in columns:
        empty = sum(not isinstance(text, str) or not text.strip() for text in rows[column][:])
        if empty:
            raise UserError(
                f"task {task.name}, split {rows.split} of {task.source}: {empty} rows of column {column!r} hold no text"
            )
    return rows.select_columns(columns)
