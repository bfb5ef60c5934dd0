"""Text without chance: words, a fixed order, and the hash of rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from neuroprune.files.atomic import text_hash

Judge = Callable[[Sequence[str], Sequence[str]], dict[str, float]]  # written texts and references to values by metric
Copy = Callable[[Sequence[str], Sequence[str]], list[str]]  # sources and the training rows' answers to copies


def words(text: str) -> list[str]:
    """Return the words of a text: lower case, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def key(text: str) -> str:
    """Return what two texts share that differ in case, punctuation or spaces alone."""
    return " ".join(words(text))


def squash(text: str) -> str:
    """Return a text with every run of white space made one space."""
    return " ".join(text.split())


def rank(*parts: object) -> float:
    """Return a number in [0, 1) that looks random and is the same everywhere: made from the text's SHA-256.

    Args:
        *parts: What is ranked, after the name of the ranking.

    Returns:
        The number.
    """
    digest = text_hash("\x1f".join(map(str, parts)))
    return int(digest[:13], 16) / 16**13


def rows_sha256(rows: Iterable[dict[str, Any]]) -> str:
    """Return the SHA-256 of rows as JSON lines: independent of the file format and of pyarrow."""
    digest = hashlib.sha256()
    for number, row in enumerate(rows):
        digest.update(b"\n" * (number > 0) + json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
    return digest.hexdigest()
