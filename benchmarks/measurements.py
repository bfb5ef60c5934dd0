"""Writing of a benchmark's measurements with the place where they were made."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from neuroprune.results.environment import environment

PLACE = ("commit", "cpu", "torch")  # last columns of every table


def write(out: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write lines as csv, each followed by commit, processor and version of torch.

    Args:
        out: The file.
        columns: Names of the lines' columns.
        lines: The measurements.
    """
    place = environment(threads=1)
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *PLACE])
        writer.writerows([*line, place["commit"], place["cpu"], torch.__version__] for line in lines)
