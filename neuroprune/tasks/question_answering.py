"""Extractive question answering: find the words of a context that answer a question, as in SQuAD."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset, Features, List, Value

from neuroprune.config.fields import ANSWER_START
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.packages import RESOURCES
from neuroprune.tasks import sources

if TYPE_CHECKING:
    from neuroprune.tasks.span_head import SpanHead


@dataclass(frozen=True)
class Questions(sources.Rows):
    """The rows of a question answering task.

    Args:
        task: The task.
        train: Training rows: question, context, and lists of the answers' texts and first characters.
        eval: Evaluation rows with the same columns.
    """

    labels: ClassVar[tuple[str, ...]] = ("start", "end")  # the model's outputs at each token
    majority: ClassVar[None] = None  # there are no classes
    spans: ClassVar[bool] = True

    @cached_property
    def copied(self) -> float:
        """The metric of answering with the whole context."""
        from neuroprune.tasks import metrics  # scikit-learn is slow to import

        return metrics.answers(self.eval[self.task.inputs[1]][:], self.eval[self.task.label][:])[self.task.metric]

    def objective(self, model: Any, tokenizer: Any) -> SpanHead:
        """Return the objective of a model on these rows; see `neuroprune.tasks.Objective`."""
        from neuroprune.tasks.class_head import check_has_head
        from neuroprune.tasks.span_head import SpanHead

        check_has_head(model, self.task, tokenizer)
        return SpanHead(self.task, tokenizer, rows=self.eval)


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> Questions:
    """Read, check and select a task's rows; see `neuroprune.tasks.load`."""
    train, held_out = (_checked(rows, task) for rows in sources.read(task, data_root, resources))
    return Questions(task, sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows))


def _checked(rows: Dataset, task: TaskSettings) -> Dataset:
    """Return the task's columns with lists of answers; reject rows without text or an answer in the context."""
    where = f"task {task.name}, split {rows.split} of {task.source}"
    columns = {name: [_as_list(value) for value in rows[name][:]] for name in (task.label, ANSWER_START)}
    columns = {name: rows[name][:] for name in task.inputs} | columns
    for place, (question, context, texts, starts) in enumerate(zip(*columns.values(), strict=True), start=1):
        if not all(isinstance(text, str) and text.strip() for text in (question, context, *texts)):
            raise UserError(f"{where}: row {place} has a blank question, context or answer; leave it out")
        if not texts or len(texts) != len(starts):
            raise UserError(
                f"{where}: row {place} has {len(texts)} answers in column {task.label!r} and {len(starts)} in column "
                f"{ANSWER_START!r}; give both for each answer, and leave questions without an answer out"
            )
        for text, start in zip(texts, starts, strict=True):
            if not isinstance(start, int):
                raise UserError(
                    f"{where}: {ANSWER_START!r} of row {place} is {start!r}; give the answer's first character as a "
                    "whole number, counted from 0"
                )
            if context[max(start, 0) :][: len(text)] != text:
                raise UserError(
                    f"{where}: the context of row {place} has no {text!r} at character {start} (column "
                    f"{ANSWER_START!r}, counted from 0); correct the number or the answer"
                )
    kinds = dict.fromkeys(task.inputs, Value("string"))
    features = Features(kinds | {task.label: List(Value("string")), ANSWER_START: List(Value("int64"))})
    return Dataset.from_dict(columns, features=features, split=rows.split)


def _as_list(value: Any) -> list[Any]:
    """Return a list unchanged, and a single value in a list; None is no value."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
