"""All tables and figures of a study anew, from its records alone."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from neuroprune import figures, tables
from neuroprune.errors import UserError
from neuroprune.tables.runs import collect

SLOW_FIRST = ("topology", "ablations", "figure8", "frontier", "figure4")  # so that processes end together


def redraw(study_dir: Path) -> list[str]:
    """Collect a study's records and make all its tables and figures anew; nothing else is read or written.

    Args:
        study_dir: The study's folder, of which ``runs/`` and, if it is there, ``plan.json`` are read.

    Returns:
        One sentence for each thing a reader has to know: those of ``collect``, and tables that have nothing to show.

    Raises:
        UserError: If there is no readable record, or an array can't be read.
    """
    notes = collect(study_dir)
    names = sorted((*figures.FIGURES, *tables.TABLES), key=lambda name: (name not in SLOW_FIRST, name))
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(names))
    with ProcessPoolExecutor(workers) as pool:
        said = list(pool.map(partial(_make, Path(study_dir)), names))
    return notes + [note for note in said if note]


def _make(study_dir: Path, name: str) -> str:
    """Make one table or figure; a table that has no rows says so in place of a file."""
    if name in figures.FIGURES:
        figures.draw(name, study_dir)
        return ""
    try:
        tables.write(name, study_dir)
    except UserError as error:
        return str(error)
    return ""
