"""Figures of a study, made from its tables and arrays; one module per figure, named after the paper's figure."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from neuroprune.errors import UserError, did_you_mean

LARGE = 300e6  # parameters; larger models are in Figure 11, the others in Figure 4

# Name -> section of the report. A figure's module and function have the same name.
FIGURES = {
    "frontier": "1 Result",
    "training_time": "1 Result",
    "figure4": "2 Sparsity against metric and times",
    "figure11": "2 Sparsity against metric and times",
    "figure5": "3 Heads",
    "figure6": "3 Heads",
    "figure7": "3 Heads",
    "figure3": "3 Heads",
    "figure1": "4 Topology",
    "figure2": "4 Topology",
    "topology": "4 Topology",
    "figure8": "4 Topology",
    "figure9": "4 Topology",
    "figure10": "4 Topology",
    "forms": "5 Ablations",
    "ablations": "5 Ablations",
    "strengths": "5 Ablations",
    "dominating_sets": "5 Ablations",
}


def draw(name: str, study_dir: Path) -> list[Path]:
    """Draw one figure of a study and write the plotted data as csv.

    Args:
        name: The figure's name, a key of ``FIGURES``.
        study_dir: The study's folder with ``runs.csv`` and ``runs/``.

    Returns:
        The files, ``<study_dir>/figures/<name>.{csv,pdf,png,svg}``; the csv contains exactly the plotted data.

    Raises:
        UserError: If the name is unknown or an array can't be read.
    """
    if name not in FIGURES:
        raise UserError(f"figure {name!r}: unknown{did_you_mean(name, FIGURES)}; there are {', '.join(FIGURES)}.")
    style = import_module("neuroprune.results.figures.style")
    with style.print_style():
        figure, shown = getattr(import_module(f"neuroprune.results.figures.{name}"), name)(Path(study_dir))
        return style.save(figure, shown, Path(study_dir) / "figures" / name)
