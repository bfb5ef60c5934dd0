"""Demo task `movie_snippets`: sentences of film reviews, negative or positive, in the shape of SST-2.

The snippets come from Rotten Tomatoes (Pang and Lee 2005). Each carries the mean of 20 people's ratings (Hutto and
Gilbert, ICWSM 2014, who publish them with VADER). Most of SST-2's sentences are among them, so never mix the two.
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
UNDECIDED = 0.5  # of a rating in -4 to 4; SST-2 leaves such sentences out too
FEWEST_WORDS = 3


def build(vader: Path) -> dict[str, list[dict[str, Any]]]:
    """Cut the task's rows out of VADER's source archive.

    Args:
        vader: The archive `vaderSentiment-3.3.2.tar.gz`.

    Returns:
        Rows with `sentence` and `label` (0 negative, 1 positive) of the splits `train` and `validation`. They are in
        the order of their rank: the source has all positive ones first.

    Raises:
        UserError: If the archive does not hold the ratings.
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
    """Read the ratings: a file in an archive in the archive."""
    try:
        with tarfile.open(vader) as outer:
            packed = io.BytesIO(_member(outer, ARCHIVE))
        with tarfile.open(fileobj=packed) as inner:
            name = next(n for n in inner.getnames() if n.endswith(f"/{RATINGS}") and "/._" not in n)
            return _member(inner, name).decode("utf-8")
    except (KeyError, StopIteration, tarfile.TarError) as error:
        raise UserError(f"{vader} does not hold {RATINGS} in {ARCHIVE}: delete it and run again") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Read a file of an archive; KeyError if there is none."""
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()
