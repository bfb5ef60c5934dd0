"""Sources of datasets: demo data, a local mirror of the hub, a folder, or the hub itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from neuroprune.config.availability import dataset_folder
from neuroprune.config.messages import shown
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError, did_you_mean
from neuroprune.files.atomic import text_hash
from neuroprune.files.packages import cause
from neuroprune.tasks import demo_data
from neuroprune.tasks.folders import no_progress_bars, read_folder
from neuroprune.tasks.text import rows_sha256

SHUFFLE_SEED = 0
LONGEST_WORD = 10_000  # letters or signs; tokenizer training takes time quadratic in the length of words
_LONG_WORD = re.compile(rf"[^\W_]{{{LONGEST_WORD + 1},}}|(?:[^\w\s]|_){{{LONGEST_WORD + 1},}}")


@dataclass(frozen=True)
class Rows:
    """The rows of a task: what the kinds of tasks have in common.

    Args:
        task: The task.
        train: Training rows with the task's columns.
        eval: Evaluation rows with the same columns.
    """

    task: TaskSettings
    train: datasets.Dataset
    eval: datasets.Dataset

    @cached_property
    def sha256(self) -> str:
        """Platform-independent hash of the used rows and their order."""
        return splits_sha256(self.train, self.eval)

    def texts(self) -> Iterator[str]:
        """Yield every text of the training rows."""
        for column in self.task.inputs:
            yield from self.train[column][:]


def read(task: TaskSettings, data_root: Path, resources: Path) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Read a task's training and evaluation splits.

    Args:
        task: The task.
        data_root: A mirror of the hub: a dataset is at `<data_root>/<hub id>`.
        resources: Folder for demo data.

    Returns:
        Both complete splits, in memory, with all columns. Columns with several texts by name, such as `translation`,
        are split into separate columns.

    Raises:
        UserError: If the dataset is not found or can't be read, or lacks a split or column of the task.
    """
    folder, config = locate(task, data_root, resources)
    found = _spread(read_folder(task, folder, config))
    for split in (task.train_split, task.eval_split):
        if split not in found:
            raise UserError(_lacks(task, folder, "split", split, list(found)))
        for column in task.columns:
            if column not in found[split].column_names:
                raise UserError(_lacks(task, folder, f"column (split {split})", column, found[split].column_names))
    rows = len(found[task.train_split])
    if task.expected_rows not in (None, rows):
        raise UserError(
            f"task {task.name}: the split {task.train_split} in {folder} has {rows} rows, but expected_rows is "
            f"{task.expected_rows}: this is a different version of {task.source}. Use the expected one, or change "
            "expected_rows."
        )
    for split in (task.train_split, task.eval_split):
        _check_words(found[split], task, split)
        _check_empty(found[split], task, split)
    return found[task.train_split], found[task.eval_split]


def _check_words(rows: datasets.Dataset, task: TaskSettings, split: str) -> None:
    """Reject columns that are not text: words, answers or class names of many thousand letters or signs."""
    for column in task.columns:
        for number, value in enumerate(rows[column][:], start=1):
            if longest := max(map(_longest_word, value if isinstance(value, list) else [value]), default=0):
                raise UserError(
                    f"task {task.name}: row {number} of column {column!r} (split {split} of {task.source}) has a word "
                    f"of {longest:,} letters or signs, more than {LONGEST_WORD:,}: is it text? Put spaces between words"
                )


def _is_empty(value: Any) -> bool:
    """Return whether a value is missing or white space."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _check_empty(rows: datasets.Dataset, task: TaskSettings, split: str) -> None:
    """Reject columns that are empty in all rows; single empty texts are allowed."""
    for column in task.columns:
        values = rows[column][:]
        if values and all(map(_is_empty, values)):
            remedy = "name the column with the text in inputs" if column in task.inputs else "set label or the split"
            raise UserError(
                f"task {task.name}: all {len(values)} rows of column {column!r} (split {split} of {task.source}) are "
                f"empty; {remedy}"
            )


def _longest_word(text: Any) -> int:
    """Return the length of a text's first word that is too long, 0 if there is none."""
    word = _LONG_WORD.search(text) if isinstance(text, str) and len(text) > LONGEST_WORD else None
    return len(word[0]) if word else 0


def locate(task: TaskSettings, data_root: Path, resources: Path) -> tuple[Path, str | None]:
    """Return the folder of a task's dataset and the configuration to read there; arguments as in `read`."""
    if task.source == "demo":
        _check_demo(task)
        with no_progress_bars():
            return demo_data.prepare(task.config or task.name, resources), None
    folder = dataset_folder(task, data_root) or _from_hub(task, data_root)
    if task.config and not (folder / "README.md").exists() and (folder / task.config).is_dir():
        return folder / task.config, None  # without a card, the configuration is just a folder name
    return folder, task.config


def _check_demo(task: TaskSettings) -> None:
    """Reject unknown demo data."""
    if (name := task.config or task.name) not in demo_data.SETS:
        known = did_you_mean(name, demo_data.SETS)
        raise UserError(f"task {task.name}: no demo data {name!r}{known}; there are {', '.join(demo_data.SETS)}")


def _from_hub(task: TaskSettings, data_root: Path) -> Path:
    """Return the cached copy of a hub dataset, downloaded if necessary; only data files, never scripts."""
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", task.source):
        raise UserError(f"task {task.name}: {task.source!r} is neither a folder (looked in {data_root}) nor a hub id")
    try:
        path = snapshot_download(
            task.source,
            repo_type="dataset",
            revision=task.revision,
            allow_patterns=["README.md", f"*{task.config}*"] if task.config else None,
            ignore_patterns=["*.py"],
        )
    except Exception as error:  # the hub, the network and the cache raise their own exceptions
        raise UserError(
            f"task {task.name}: dataset {task.source} is not at {data_root / task.source} and can't be had from the "
            f"hub ({cause(error)}); put a copy in the hub's layout there, or run once with a network"
        ) from error
    return Path(path)


def _spread(splits: datasets.DatasetDict) -> datasets.DatasetDict:
    """Split a column with several texts by name, such as `translation`, into separate columns."""
    columns = next(iter(splits.values())).features
    parts = {f"{column}.{name}": name for column, feature in columns.items() for name in _names_within(feature)}
    if not parts:
        return splits
    flat = splits.flatten()
    counts = Counter([*parts.values(), *columns])  # a name that is taken stays `column.name`
    here = set.intersection(*(set(rows.column_names) for rows in flat.values()))
    return flat.rename_columns({old: new for old, new in parts.items() if old in here and counts[new] == 1})


def _names_within(feature: object) -> list[str]:
    if isinstance(feature, datasets.Translation):
        return list(feature.languages)
    return list(feature) if isinstance(feature, dict) else []


def first(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    """Return the first rows of a shuffle that depends only on the number of rows; None for all, unshuffled."""
    if count is None or count >= len(rows):
        return rows
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(rows))  # stable across versions, unlike default_rng
    return rows.select(order[:count])


def each(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """Yield a dataset's rows, read by columns because this is many times faster."""
    columns = rows[:]
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def check_texts(rows: datasets.Dataset, task: TaskSettings, columns: Iterable[str], blank: bool = True) -> None:
    """Reject columns with values that are not text.

    Args:
        rows: Rows of a split.
        task: The task, for messages.
        columns: Names of the columns.
        blank: Whether blank text is allowed.

    Raises:
        UserError: The number of such rows, and one of their values if they are not just empty.
    """
    for column in columns:
        values = rows[column][:]
        wrong = [value for value in values if not (isinstance(value, str) and (blank or value.strip()))]
        if wrong:
            other = next((f" but {shown(value)}" for value in wrong if not isinstance(value, str | None)), "")
            raise UserError(
                f"task {task.name}, split {rows.split} of {task.source}: {len(wrong)} rows of column {column!r} have "
                f"no text{other}; leave them out, or name a column of text"
            )


def splits_sha256(*splits: datasets.Dataset, labels: Sequence[str] | None = None) -> str:
    """Return a platform-independent hash of the rows of splits, their order, and the class names if there are any."""
    names = [] if labels is None else [json.dumps(labels)]
    return text_hash("\n".join([*names, *(rows_sha256(each(split)) for split in splits)]))


def mapped(rows: datasets.Dataset, function: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> datasets.Dataset:
    """Map batches of rows in memory with a function; the original columns are dropped."""
    options = {"remove_columns": rows.column_names, "keep_in_memory": True, "load_from_cache_file": False}
    with no_progress_bars():
        return rows.map(function, batched=True, **options)


def _lacks(task: TaskSettings, folder: Path, what: str, name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known)
    return f"task {task.name}: {task.source} in {folder} has no {what} {name!r}{hint}; it has {', '.join(known)}"
