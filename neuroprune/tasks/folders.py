"""Reading of dataset folders, with user-readable error messages."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import yaml
from datasets.utils import logging as messages
from datasets.utils.info_utils import ExpectedMoreSplitsError, NonMatchingSplitsSizesError, UnexpectedSplitsError
from pandas.errors import EmptyDataError, ParserError, ParserWarning

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files import failures
from neuroprune.files.packages import cause
from neuroprune.files.temporary import temporary_folder

DISAGREE = (NonMatchingSplitsSizesError, ExpectedMoreSplitsError, UnexpectedSplitsError)
CARD = "README.md"
PATHS = ("data_files", "data_dir")  # keys of a card's configuration
PART = re.compile(r"[-._]\d+(-of-\d+)?(?=\.)")  # of the names of files that are parts of a split
CASTS = ("Failed to parse string", "Couldn't cast array")  # messages about columns whose type differs between files
TEXT_FILES = {".csv", ".tsv", ".json", ".jsonl", ".txt"}


def read_folder(task: TaskSettings, folder: Path, config: str | None) -> datasets.DatasetDict:
    """Read all splits of a dataset into memory, without a cache that could return outdated rows.

    In csv files, only empty cells are missing values; words such as `None` or `NA` are text.

    Args:
        task: The task, for error messages.
        folder: The dataset's folder.
        config: The configuration to read; None for the only or default one.

    Returns:
        The rows by split, with all columns.

    Raises:
        UserError: If a file can't be read, a csv file has two columns of one name, or a split has several files that
            are neither numbered parts (`-0`, `-00000-of-00002`), nor in a folder of their own, nor listed in the card.
    """
    if (outside := _file_outside(folder / CARD)) is not None:
        raise UserError(
            f"task {task.name}: {CARD} of {task.source} in {folder} names {outside!r}, which is not in this folder; "
            "put the file there and give its relative path"
        )
    try:
        with no_progress_bars(), _no_messages(), _strict_csv(), temporary_folder("neuroprune-") as cache:
            builder = datasets.load_dataset_builder(str(folder), config, cache_dir=str(cache / "datasets"))
            if hasattr(builder.config, "keep_default_na"):
                builder.config.keep_default_na, builder.config.na_values, builder.config.index_col = False, [""], False
            _check_files(task, folder, builder.config)
            builder.download_and_prepare()
            found = builder.as_dataset(in_memory=True)
            for rows in found.values():
                rows.data.table.validate(full=True)
            return found
    except UserError:
        raise
    except Exception as error:  # `datasets` and its readers raise their own exceptions
        reason = _reason(error, folder)
        raise UserError(f"task {task.name}: dataset {task.source} in {folder} can't be read: {reason}") from error


def _check_files(task: TaskSettings, folder: Path, config: Any) -> None:
    """Reject several files for one split, unless they are named as its parts, and csv files with ambiguous columns."""
    where = f"task {task.name}: dataset {task.source} in {folder}"
    splits = {str(split): [str(path) for path in paths] for split, paths in (config.data_files or {}).items()}
    for split in sorted({task.train_split, task.eval_split} & splits.keys()):
        if not (_lists_files(folder / CARD) or _are_parts(split, splits, folder)):
            names = ", ".join(sorted(os.path.relpath(path, folder) for path in splits[split]))
            raise UserError(
                f"{where} has several files for the split {split}: {names}; keep one, or list them in {CARD} "
                "(data_files of configs)"
            )
        for path in splits[split] if hasattr(config, "keep_default_na") else ():
            if twice := _column_given_twice(path, config):
                raise UserError(f"{where}: {Path(path).name} has two columns named {twice!r}; rename or delete one")


def _lists_files(card: Path) -> bool:
    """Return whether a dataset's card lists the files of its splits."""
    try:
        found = _front_matter(card)["configs"] if card.is_file() else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
        return False
    return any("data_files" in entry for entry in (found if isinstance(found, list) else [found]))


def _are_parts(split: str, splits: Mapping[str, Sequence[str]], folder: Path) -> bool:
    """Return whether a split is one file, numbered files, or a subfolder with files of no other split."""
    paths = splits[split]
    if len(paths) < 2 or (all(map(PART.search, paths)) and len({PART.sub("", path) for path in paths}) == 1):
        return True
    shared = Path(os.path.commonpath(paths))
    others = [Path(path) for name in splits if name != split for path in splits[name]]
    return not (shared.exists() and shared.samefile(folder)) and not any(shared in path.parents for path in others)


def _column_given_twice(path: str, config: Any) -> str | None:
    """Return the first column that a csv file's first line names twice; None if there is none or it can't be read."""
    if config.header != "infer" or config.names is not None:
        return None
    options = {"sep": config.sep, "encoding": config.encoding, "keep_default_na": False}
    with suppress(Exception):  # reading all rows will raise it again
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
        return next((name for name, count in Counter(first).items() if name and count > 1), None)
    return None


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable the progress bars of `datasets`, which would clutter logs, and restore their state afterwards."""
    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


@contextmanager
def _no_messages() -> Iterator[None]:
    """Silence messages of `datasets` about unreadable files, which our errors replace."""
    level = messages.get_verbosity()
    messages.set_verbosity(messages.CRITICAL)
    try:
        yield
    finally:
        messages.set_verbosity(level)


@contextmanager
def _strict_csv() -> Iterator[None]:
    """Reject csv rows with more cells than the header; pandas would drop the extra cells with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParserWarning)
        yield


def _reason(error: Exception, folder: Path) -> str:
    """Return the reason why a folder can't be read: a problem of its card or a file, or the error's message."""
    if (text := failures.sentence(error)) is not None:
        return text
    causes, no_rows = _causes(error), ("corresponds to no data", "BatchSize must be greater", "first 0 values")
    if isinstance(error, DISAGREE):
        return f"{CARD} and the files disagree about rows or splits; correct one of them"
    if problem := _card_problem(folder / CARD):
        return problem
    if any(isinstance(one, UnicodeError) or "UTF8" in str(one) for one in causes):
        return f"{_not_utf8(folder)} is not UTF-8; save it as UTF-8"
    if any(isinstance(one, StopIteration | EmptyDataError) or _has(one, no_rows) for one in causes):
        return f"{_smallest(folder)} is empty or has no row; every split needs rows"
    if any(isinstance(one, ParserWarning) for one in causes):
        return "rows of a csv file have more cells than its first line has names; put texts with commas in quotes"
    if broken := next((one for one in causes if isinstance(one, ParserError)), None):
        return f"{_unreadable_csv(folder)}: {cause(broken)}; put texts with commas, quotes or line breaks in quotes"
    if any(_has(one, CASTS) for one in causes) and (empty := _empty_column(folder)):
        return f"{empty} is empty in all rows, but not in other files; fill or delete it"
    described = f" ({CARD} describes the files)" if (folder / CARD).exists() else ""
    return f"{cause(error)}{described}"


def _has(error: BaseException, parts: Sequence[str]) -> bool:
    """Return whether an error's message contains any of these parts."""
    return any(part in str(error) for part in parts)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and all its causes."""
    found = [error]
    while (inner := found[-1].__cause__ or found[-1].__context__) is not None and inner not in found:
        found.append(inner)
    return found


def _front_matter(card: Path) -> Any:
    """Return the content of the lines between `---` of a dataset's card; an empty mapping if there are none."""
    front = re.match(r"---\n(.*?)\n---(\n|$)", card.read_text(encoding="utf-8-sig"), flags=re.DOTALL)
    return yaml.safe_load(front[1]) if front else {}


def _file_outside(card: Path) -> str | None:
    """Return the first file of a dataset's card that is a URL, an absolute path or above the dataset's folder."""
    try:
        found = _front_matter(card)["configs"] if card.is_file() else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
        return None  # read_folder reports what is wrong with the card
    entries = found if isinstance(found, list) else [found]
    values = [entry[key] for entry in entries if isinstance(entry, dict) for key in PATHS if key in entry]
    return next(
        (path for path in _texts(values) if "://" in path or path.startswith("/") or ".." in Path(path).parts), None
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _card_problem(card: Path) -> str | None:
    """Describe a problem in the front matter of a dataset's card; return None if it is a mapping or absent."""
    if not card.is_file():
        return None
    try:
        content = _front_matter(card)
    except UnicodeDecodeError:
        return f"{CARD} is not UTF-8; save it as UTF-8"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return f"the lines between --- in {CARD} are not YAML: {cause(error)}"
    if not isinstance(content, dict | None):
        return f"the lines between --- in {CARD} must be keys with values"
    wrong = [key for key in ("configs", "dataset_info") if not isinstance((content or {}).get(key, []), list | dict)]
    return f"{wrong[0]} in {CARD} must be a list or keys with values" if wrong else None


def _not_utf8(folder: Path) -> str:
    """Return the name of the first text file in a folder that is not UTF-8."""
    for path in _files(folder):
        try:
            with path.open(encoding="utf-8") as file:
                for _ in file:
                    pass
        except UnicodeDecodeError:
            return path.name
        except OSError:
            continue
    return "a file"


def _unreadable_csv(folder: Path) -> str:
    """Return the name of the first csv file in a folder that pandas can't read."""
    for path in sorted(folder.rglob("*.csv")):
        try:
            pd.read_csv(path)
        except ParserError:
            return path.name
        except ValueError:
            continue
    return "a csv file"


def _empty_column(folder: Path) -> str | None:
    """Describe the first column that has values in some of a folder's text files, but none in another."""
    empty = {path.name: empty for path in _files(folder) if (empty := _are_empty(path))}
    found = ((name, column) for name, columns in empty.items() for column in columns if columns[column])
    filled = {column for columns in empty.values() for column in columns if not columns[column]}
    return next((f"column {column!r} of {name}" for name, column in found if column in filled), None)


def _are_empty(path: Path) -> dict[str, bool]:
    """Return whether a file's columns are empty in all rows; nothing if pandas can't read it."""
    try:
        if path.suffix in (".csv", ".tsv"):
            options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
            rows = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", **options)
        else:
            rows = pd.read_json(path, lines=path.suffix == ".jsonl")
    except (ValueError, OSError):
        return {}
    return {str(column): bool(rows[column].isna().all()) for column in rows}


def _smallest(folder: Path) -> str:
    """Return the name of a folder's smallest data file, which is most likely the empty one."""
    files = _files(folder)
    return min(files, key=lambda path: path.stat().st_size).name if files else "a file"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in TEXT_FILES and path.is_file())
