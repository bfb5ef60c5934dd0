"""Language modelling: predict the next token of a text, or of a completion after its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.packages import RESOURCES
from neuroprune.tasks import sources

if TYPE_CHECKING:
    from neuroprune.tasks.next_token import NextToken


@dataclass(frozen=True)
class Texts(sources.Rows):
    """The rows of a language-modelling task.

    Args:
        task: The task.
        train: Training rows: a text column, or a prompt and its completion.
        eval: Evaluation rows with the same columns.
    """

    labels: ClassVar[tuple[str, ...]] = ()  # there are no classes
    majority: ClassVar[None] = None  # tokens are counted by the objective, which has the tokenizer
    copied: ClassVar[None] = None  # no text is generated
    causal: ClassVar[bool] = True

    def objective(self, model: Any, tokenizer: Any) -> NextToken:
        """Return the objective of a model on these rows; see `neuroprune.tasks.Objective`."""
        from neuroprune.tasks.next_token import NextToken

        return NextToken(self.task, tokenizer)


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> Texts:
    """Read and check a task's rows and select those it uses; see `neuroprune.tasks.load`."""
    train, held_out = (_checked(rows, task) for rows in sources.read(task, data_root, resources))
    return Texts(task, sources.first(train, task.train_rows), sources.first(held_out, task.eval_rows))


def _checked(rows: Dataset, task: TaskSettings) -> Dataset:
    """Keep the task's columns, without rows whose last column is blank; reject rows without text."""
    where = f"task {task.name}, split {rows.split} of {task.source}"
    sources.check_texts(rows, task, task.inputs)
    filled = [row for row, text in enumerate(rows[task.inputs[-1]][:]) if text.strip()]
    if not filled:
        raise UserError(f"{where}: all rows are blank")
    return rows.select_columns(list(task.inputs)).select(filled)
