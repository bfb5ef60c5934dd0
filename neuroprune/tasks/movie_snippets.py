"""Demo task `movie_snippets`: classify sentences of film reviews as negative or positive, like SST-2.

The snippets come from Rotten Tomatoes (Pang and Lee 2005). Each has the mean rating of 20 people (Hutto and Gilbert,
ICWSM 2014, published with VADER). They include most sentences of SST-2, so never mix the two.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from neuroprune.errors import UserError
from neuroprune.tasks.text import key, rank, squash

ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "movieReviewSnippets_GroundTruth.txt"
VALIDATION_ROWS = 900
UNDECIDED = 0.5  # smallest absolute rating (of -4 to 4); SST-2 also excludes undecided sentences
FEWEST_WORDS = 3


def build(vader: Path) -> dict[str, list[dict[str, Any]]]:
    """Extract the task's rows from VADER's source archive.

    Args:
        vader: The archive `vaderSentiment-3.3.2.tar.gz`.

    Returns:
        Rows with `sentence` and `label` (0 negative, 1 positive) for the splits `train` and `validation`, ordered by
        rank because the source lists all positive ones first.

    Raises:
        UserError: If the archive does not contain the ratings.
    """
    rows: dict[str, dict[str, Any]] = {}
    for line in _ratings(vader).splitlines():
        _, rating, text = line.split("\t")
        text = squash(text)
        if abs(float(rating)) >= UNDECIDED and len(text.split()) >= FEWEST_WORDS:
            rows.setdefault(key(text), {"sentence": text, "label": int(float(rating) > 0)})
    ordered = [rows[name] for name in sorted(rows, key=lambda name: rank("sst2", name))]
    return {"train": ordered[VALIDATION_ROWS:], "validation": ordered[:VALIDATION_ROWS]}


def _ratings(vader: Path) -> str:
    """Read the ratings, a file in a nested archive."""
    try:
        with tarfile.open(vader) as outer:
            packed = io.BytesIO(_member(outer, ARCHIVE))
        with tarfile.open(fileobj=packed) as inner:
            name = next(n for n in inner.getnames() if n.endswith(f"/{RATINGS}") and "/._" not in n)
            return _member(inner, name).decode("utf-8")
    except (KeyError, StopIteration, tarfile.TarError) as error:
        raise UserError(f"{vader} does not contain {RATINGS} in {ARCHIVE}: delete it and run again") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Read a file of an archive; raise KeyError if it is missing."""
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()
