"""Figures of a study, made from its tables and arrays: one module a figure, named as the paper names it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from neuroprune.errors import UserError, did_you_mean

FIGURES = {
    "figure1": "neuroprune.figures.figure1:figure1",
    "figure2": "neuroprune.figures.figure2:figure2",
    "figure4": "neuroprune.figures.figure4:figure4",
}


def draw(name: str, study_dir: Path) -> list[Path]:
    """Draw one figure of a study, and write what it shows as a table.

    Args:
        name: The figure's name, a key of ``FIGURES``.
        study_dir: The study's folder with ``runs.csv`` and ``runs/``.

    Returns:
        The files, ``<study_dir>/figures/<name>.{csv,pdf,png,svg}``; csv is exactly what is drawn.

    Raises:
        UserError: If there is no such figure, or nothing to draw.
    """
    if name not in FIGURES:
        raise UserError(f"figure {name!r}: unknown{did_you_mean(name, FIGURES)}; there are {', '.join(FIGURES)}.")
    module, function = FIGURES[name].split(":")
    style = import_module("neuroprune.figures.style")
    with style.print_style():
        figure, shown = getattr(import_module(module), function)(Path(study_dir))
        return style.save(figure, shown, Path(study_dir) / "figures" / name)
