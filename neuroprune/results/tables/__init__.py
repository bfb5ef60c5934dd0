"""Tables of a study, made from the tidy table ``runs.csv``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from neuroprune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from neuroprune.results.tables.formats import Table

# Name -> section of the report. A table's module and function have the same name.
TABLES = {
    "table1": "2 Sparsity against metric and times",
    "summary": "1 Result",
    "timing": "6 Times",
    "provenance": "7 Provenance",
}


def write(name: str, study_dir: Path) -> list[Path]:
    """Write one table of a study as csv, Markdown, LaTeX and HTML.

    Args:
        name: The table's name, a key of ``TABLES``.
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The files, ``<study_dir>/tables/<name>.*``.

    Raises:
        UserError: There is no such table, or what it is made from is missing.
    """
    formats = import_module("neuroprune.results.tables.formats")
    return formats.write_table(make(name, study_dir), Path(study_dir) / "tables" / name)


def make(name: str, study_dir: Path) -> Table:
    """Make one table of a study. If it has no rows, a note replaces its sections.

    Args:
        name: The table's name, a key of ``TABLES``.
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The table.

    Raises:
        UserError: There is no such table, or what it is made from is missing.
    """
    if name not in TABLES:
        raise UserError(f"table {name!r}: unknown{did_you_mean(name, TABLES)}; there are {', '.join(TABLES)}.")
    formats = import_module("neuroprune.results.tables.formats")
    try:
        return getattr(import_module(f"neuroprune.results.tables.{name}"), name)(Path(study_dir))
    except formats.NothingToShowError as error:
        numbers = import_module("pandas").DataFrame({"note": [str(error)]})
        return formats.Table(f"{name} of the study “{Path(study_dir).name}”", numbers, {}, [str(error)])
