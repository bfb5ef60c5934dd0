"""Tables of a study, made from its records: ``runs`` is the tidy one that everything else reads."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from neuroprune.errors import UserError, did_you_mean

# Name -> where it stands in the report. A table's module and function have its name.
TABLES = {
    "table1": "2 Sparsity against metric and times",
    "summary": "6 All results",
    "timing": "6 All results",
    "provenance": "7 Where the numbers come from",
}


def write(name: str, study_dir: Path) -> list[Path]:
    """Write one table of a study as csv, Markdown, LaTeX and HTML.

    Args:
        name: The table's name, a key of ``TABLES``.
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The files, ``<study_dir>/tables/<name>.*``.

    Raises:
        UserError: If there is no such table, or nothing to put into it.
    """
    if name not in TABLES:
        raise UserError(f"table {name!r}: unknown{did_you_mean(name, TABLES)}; there are {', '.join(TABLES)}.")
    made = getattr(import_module(f"neuroprune.results.tables.{name}"), name)(Path(study_dir))
    formats = import_module("neuroprune.results.tables.formats")
    return formats.write_table(made, Path(study_dir) / "tables" / name)
