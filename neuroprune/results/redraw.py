"""Redraw the tables and figures of a study from its records only."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

from neuroprune.config.cores import available_cores
from neuroprune.errors import UserError, did_you_mean
from neuroprune.results import figures, tables
from neuroprune.results.collect import collect
from neuroprune.results.records import read_plan
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.formats import write_table

SLOW_FIRST = ("topology", "ablations", "figure8", "frontier", "figure4")  # to balance the processes


def redraw(study_dir: Path, names: Sequence[str] = ()) -> list[str]:
    """Collect a study's records and redraw its tables and figures, reading and writing nothing else.

    Args:
        study_dir: The study's folder with ``runs/`` and, optionally, ``plan.json``.
        names: Figures and tables to make; default: those listed in the plan. If it lists none, all are made, except
            Figure 11 (models of more than 300 M parameters) if the study has no such model.

    Returns:
        Warnings: those of ``collect``, and one per table that has nothing to show.

    Raises:
        UserError: If a name is unknown, no record can be read, or an array can't be read.
    """
    study_dir, known = Path(study_dir), [*figures.FIGURES, *tables.TABLES]
    asked = names or _planned(study_dir)
    names = sorted(asked or known, key=lambda name: (name not in SLOW_FIRST, name))
    for name in names:
        if name not in known:
            raise UserError(
                f"{name!r} is not a figure or table{did_you_mean(name, known)}; choose from {', '.join(known)}."
            )
    notes = collect(study_dir)
    if not asked and not _has_large_models(study_dir):
        names.remove("figure11")
    import_module("neuroprune.results.figures.style")  # imported before forking, so that matplotlib is loaded once
    with ProcessPoolExecutor(min(available_cores(), len(names))) as pool:
        said = list(pool.map(partial(_make, study_dir), names))
    return notes + [note for note in said if note]


def _planned(study_dir: Path) -> list[str]:
    """Return the figures and tables listed in a study's plan; none if it lists none."""
    listed = read_plan(study_dir)["settings"].get("artefacts") or []
    if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
        raise UserError(f"{study_dir / 'plan.json'}: settings.artefacts must be a list of names; plan the study again.")
    return listed


def _has_large_models(study_dir: Path) -> bool:
    """Return whether the study has models for Figure 11."""
    return bool((read_runs(study_dir)["dense_parameters"] > figures.LARGE).any())


def _make(study_dir: Path, name: str) -> str:
    """Make one table or figure; write a note into a table without rows."""
    if name in figures.FIGURES:
        figures.draw(name, study_dir)
        return ""
    table = tables.make(name, study_dir)
    write_table(table, study_dir / "tables" / name)
    return "" if table.sections else table.notes[0]
