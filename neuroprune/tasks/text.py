"""Deterministic text processing: words, a fixed order, and hashes of rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from neuroprune.files.atomic import text_hash

Judge = Callable[[Sequence[str], Sequence[str]], dict[str, float]]  # (generated texts, references) -> metrics
Copy = Callable[[Sequence[str], Sequence[str]], list[str]]  # (sources, targets of training rows) -> copies


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def key(text: str) -> str:
    """Return a key that is equal for texts that differ only in case, punctuation or spaces."""
    return " ".join(words(text))


def squash(text: str) -> str:
    """Return a text with all white space reduced to single spaces."""
    return " ".join(text.split())


def rank(*parts: object) -> float:
    """Return a reproducible pseudo-random number in [0, 1) from the SHA-256 of a text.

    Args:
        *parts: The name of the ranking, followed by the item.

    Returns:
        The number.
    """
    digest = text_hash("\x1f".join(map(str, parts)))
    return int(digest[:13], 16) / 16**13


def rows_sha256(rows: Iterable[dict[str, Any]]) -> str:
    """Return the SHA-256 of rows as JSON lines, independent of file format and pyarrow version."""
    digest = hashlib.sha256()
    for number, row in enumerate(rows):
        digest.update(b"\n" * (number > 0) + json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
    return digest.hexdigest()
