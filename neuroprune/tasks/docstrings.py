"""Demo task `docstrings`: summarize the body of a reference page in its first sentence, like CNN/DailyMail.

The pages are docstrings of scientific Python packages: the first line is a one-sentence summary of the rest. Examples,
references, lists of related functions and pages full of formulas are excluded.
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroprune.errors import UserError
from neuroprune.tasks.text import key, rank, squash, words

KEPT_SECTIONS = {
    "parameters",
    "returns",
    "notes",
    "yields",
    "attributes",
    "explanation",
    "raises",
    "description",
}
SECTION = re.compile(r"(?m)^([A-Z][A-Za-z ]+)\n[-=~]{3,}$")  # a title and its underline
FEWEST_WORDS, MOST_WORDS = 60, 300  # length limits of a body; longer ones are truncated
SUMMARY_WORDS = range(5, 31)
FEWEST_LETTERS = 0.75  # smallest fraction of letters and spaces in a body
VALIDATION_SHARE, VALIDATION_ROWS = 0.15, 300


def build(*wheels: Path) -> dict[str, list[dict[str, Any]]]:
    """Extract the task's rows from wheels, which are read as archives and never installed or run.

    Args:
        *wheels: Pure-Python wheels.

    Returns:
        Rows with `body` and `summary` for the splits `train` and `validation`, ordered by rank. All pages of a module
        are in the same split; only the first of several pages with the same beginning is kept.

    Raises:
        UserError: If a wheel can't be read.
    """
    seen: set[str] = set()
    rows = []
    for module, name, body, summary in (page for wheel in wheels for page in _pages(wheel)):
        keys = {f"summary {key(summary)}", f"body {' '.join(words(body)[:25])}"}
        if _usable(body, summary) and not keys & seen:
            seen |= keys
            text = " ".join(body.split()[:MOST_WORDS])
            rows.append((rank("docstrings", module, name), _split(module), {"body": text, "summary": summary}))
    rows.sort(key=lambda row: row[0])
    splits = {split: [row for _, s, row in rows if s == split] for split in ("train", "validation")}
    return {**splits, "validation": splits["validation"][:VALIDATION_ROWS]}


def _pages(wheel: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield module, name, body and summary of every docstring of a wheel that has both."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for module in sorted(filter(_is_module, archive.namelist())):
                for node in ast.walk(_parsed(archive.read(module))):
                    page = _page(node)
                    if page:
                        yield module, node.name, *page  # type: ignore[attr-defined]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} is not a wheel that can be read: delete it and run again") from error


def _is_module(name: str) -> bool:
    return name.endswith(".py") and not re.search(r"/(tests|_vendor|externals)/", name)


def _parsed(source: bytes) -> ast.AST:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):  # a template or a test file with invalid code
        return ast.Module([], [])


def _page(node: ast.AST) -> tuple[str, str] | None:
    """Return body and summary of a function's or class's docstring; None if either is missing."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None
    raw = ast.get_docstring(node, clean=False) or ""  # docstring cleaning depends on the Python version
    head, _, rest = "\n".join(line.strip() for line in raw.strip().splitlines()).partition("\n\n")
    return (_plain(_without_sections(rest)), _plain(head)) if rest else None


def _without_sections(text: str) -> str:
    """Remove code, directives and sections without explanations."""
    parts = SECTION.split(re.sub(r"(?s)```.*?```", "", text))
    titled = zip(parts[1::2], parts[2::2], strict=True)
    kept = [parts[0], *(f"{title}: {part}" for title, part in titled if title.strip().lower() in KEPT_SECTIONS)]
    lines = (line for part in kept for line in part.splitlines())
    return "\n".join(line for line in lines if not line.startswith((">>>", "...", ".. ")))


def _plain(text: str) -> str:
    """Remove markup and join all lines."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return squash(re.sub(r"``?([^`]*)``?", r"\1", text)).replace("`", "")


def _usable(body: str, summary: str) -> bool:
    """Return whether a page is long enough, has a one-sentence summary, and is prose."""
    letters = sum(character.isalpha() or character.isspace() for character in body)
    return (
        len(body.split()) >= FEWEST_WORDS
        and len(summary.split()) in SUMMARY_WORDS
        and summary.endswith(".")
        and letters >= FEWEST_LETTERS * len(body)
        and not re.search(r"\\|\$\$|:math|%\(", body)
    )


def _split(module: str) -> str:
    return "validation" if rank("docstrings-split", module) < VALIDATION_SHARE else "train"
