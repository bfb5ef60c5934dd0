"""Redraw the tables and figures of a study from its records alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

from neuroprune.errors import UserError, did_you_mean
from neuroprune.results import figures, tables
from neuroprune.results.collect import collect
from neuroprune.results.records import read_plan
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.formats import write_table

SLOW_FIRST = ("topology", "ablations", "figure8", "frontier", "figure4")  # so that processes end together


def redraw(study_dir: Path, names: Sequence[str] = ()) -> list[str]:
    """Collect a study's records and redraw its tables and figures; nothing else is read or written.

    Args:
        study_dir: The study's folder, of which ``runs/`` and, if it exists, ``plan.json`` are read.
        names: Figures and tables to make; none: those that the plan asks for, or all. Figure 11 is made of models of
            more than 300 M parameters alone and left out without such, unless it is named.

    Returns:
        One sentence for each thing a reader has to know: those of ``collect``, and tables that have nothing to show.

    Raises:
        UserError: If a name is unknown, there is no readable record, or an array can't be read.
    """
    study_dir, named = Path(study_dir), bool(names)
    names = sorted(names or _asked_for(study_dir), key=lambda name: (name not in SLOW_FIRST, name))
    known = [*figures.FIGURES, *tables.TABLES]
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is no figure or table{did_you_mean(name, known)}; there are {', '.join(known)}.")
    notes = collect(study_dir)
    names = [name for name in names if named or name != "figure11" or _has_large_models(study_dir)]
    import_module("neuroprune.results.figures.style")  # before processes part, so that matplotlib is read once
    with ProcessPoolExecutor(min(_cores(), len(names))) as pool:
        said = list(pool.map(partial(_make, study_dir), names))
    return notes + [note for note in said if note]


def _asked_for(study_dir: Path) -> Sequence[str]:
    """Return the figures and tables that a study's plan lists; all if it lists none."""
    return read_plan(study_dir).get("settings", {}).get("artefacts") or [*figures.FIGURES, *tables.TABLES]


def _has_large_models(study_dir: Path) -> bool:
    """Return whether Figure 11 differs from Figure 4."""
    return bool((read_runs(study_dir)["dense_parameters"] > figures.LARGE).any())


def _cores() -> int:
    """Return the number of processes that can run at the same time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make(study_dir: Path, name: str) -> str:
    """Make one table or figure; a table without rows contains a note instead."""
    if name in figures.FIGURES:
        figures.draw(name, study_dir)
        return ""
    table = tables.make(name, study_dir)
    write_table(table, study_dir / "tables" / name)
    return "" if table.sections else table.notes[0]
