"""Escaping of text for csv and Markdown."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of cells that spreadsheets evaluate as formulas


def csv_text(table: pd.DataFrame, **options: Any) -> str:
    """Write a table as csv without an index; prefix cells that a spreadsheet would evaluate with an apostrophe.

    Args:
        table: The table; numbers stay as they are.
        **options: More keyword arguments of ``DataFrame.to_csv``.

    Returns:
        The content of the file.
    """
    texts = {name: table[name].map(_no_formula) for name in table if not pd.api.types.is_numeric_dtype(table[name])}
    return table.assign(**{str(name): column for name, column in texts.items()}).to_csv(index=False, **options)


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def one_line(text: str) -> str:
    """Return a text on one line, with single spaces between words."""
    return re.sub(r"[^\S\xa0]+", " ", str(text)).strip()


def markdown(text: str) -> str:
    """Return a text on one line, with HTML and the column separators of Markdown escaped."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line(text)).replace("|", "\\|")
