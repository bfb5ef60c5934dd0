"""Figure 1: non-zero entries of a middle layer's matrices, with entire rows and columns empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from neuroprune.results.figures.context import runs_note, runs_title, sparsity_label
from neuroprune.results.figures.style import GREY, PAGE_WIDTH, nothing_to_show, presence_shades, say_below, say_empty
from neuroprune.results.records import read_patterns, shrink
from neuroprune.results.runs import neuroprune_runs, read_runs, run_file, with_file

WANTED = (0.5, 0.9)
PATTERNS = "patterns.safetensors"
MATRICES = {"q": "Q", "k": "K", "v": "V", "in": "L_in", "out": "L_out"}
LETTERS = {**MATRICES, "in": "L_{in}", "out": "L_{out}"}
CELLS = 128  # largest number of rows and columns in a panel


def figure1(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 1 of a study.

    Args:
        study_dir: The study's folder with ``runs.csv`` and the runs' ``patterns.safetensors``.

    Returns:
        The figure and its data: one row of numbers per row of cells, each the percentage of non-zero entries.
        Both are replaced by a note if no finished NeuroPrune run has stored its patterns.

    Raises:
        UserError: If the table of runs is missing or an array can't be read.
    """
    chosen = choose_runs(study_dir, neuroprune_runs(read_runs(study_dir)))
    if chosen.empty:
        return nothing_to_show("Nothing to show: no finished NeuroPrune run has stored its patterns.")
    rows = [
        (row, _middle(read_patterns(run_file(study_dir, row["run"], PATTERNS)))) for row in chosen.to_dict("records")
    ]
    cells = pd.concat([_cells(row, name, mask) for row, masks in rows for name, mask in masks.items()])
    return _plot(rows), cells.reset_index(drop=True)


def choose_runs(study_dir: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Choose the runs nearest to 50 % and 90 % of the first model and task with patterns.

    Args:
        study_dir: The study's folder.
        runs: Finished NeuroPrune runs.

    Returns:
        One or two rows in ascending order of sparsity; none if no run has patterns.
    """
    there = with_file(study_dir, runs, PATTERNS)
    if there.empty:
        return there
    first = there[(there["model"] == there["model"].iloc[0]) & (there["task"] == there["task"].iloc[0])]
    nearest = [(first["sparsity"] - wanted).abs().idxmin() for wanted in WANTED]
    return first.loc[list(dict.fromkeys(nearest))].sort_values("sparsity")


def _middle(patterns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return those of Q, K, V, L_in and L_out that were recorded for the middle recorded layer."""
    found = {}
    for kind in MATRICES:
        layers = sorted(int(name.split(".")[1]) for name in patterns if name.split(".")[0] == kind)
        if layers:
            found[f"{kind}.{layers[len(layers) // 2]}"] = patterns[f"{kind}.{layers[len(layers) // 2]}"]
    return found


def _cells(row: dict[Any, Any], name: str, mask: np.ndarray) -> pd.DataFrame:
    """Return the cells of one panel with the run they belong to."""
    cells = np.rint(100 * shrink(mask, CELLS)).astype(int)
    kind, layer = name.split(".")
    head = {"run": row["run"], "sparsity_percent": 100 * row["sparsity"], "matrix": MATRICES[kind], "layer": int(layer)}
    size = {"rows": mask.shape[0], "columns": mask.shape[1], "cell_row": range(len(cells))}
    return pd.concat([pd.DataFrame(head | size), pd.DataFrame(cells).add_prefix("c")], axis=1)


def _plot(rows: list[tuple[dict[Any, Any], dict[str, np.ndarray]]]) -> Figure:
    """Draw one row of panels per run."""
    figure = Figure(figsize=(PAGE_WIDTH, 1.1 + 1.45 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(MATRICES), squeeze=False)
    for axes_row, (row, masks) in zip(grid, rows, strict=True):
        by_kind = {name.split(".")[0]: mask for name, mask in masks.items()}
        for axes, kind in zip(axes_row, MATRICES, strict=True):
            _panel(axes, by_kind.get(kind))
        axes_row[0].set_ylabel(f"sparsity {sparsity_label(row)}", fontweight="bold")
    first, masks = rows[0]
    sizes = {name.split(".")[0]: "  {} × {}".format(*mask.shape) for name, mask in masks.items()}
    for axes, (kind, letter) in zip(grid[0], LETTERS.items(), strict=True):
        axes.set_title(f"${letter}${sizes.get(kind, '')}")
    layer = next(iter(masks)).split(".")[1]
    figure.suptitle(f"{runs_title(first)}, layer {layer}", fontsize=8, fontweight="bold", x=0.01, ha="left")
    say_below(figure, runs_note(pd.DataFrame([row for row, _ in rows])))
    scale = ScalarMappable(**presence_shades(100))
    bar = figure.colorbar(
        scale, ax=grid, orientation="horizontal", shrink=0.4, aspect=40, pad=0.02, ticks=[0, 10, 50, 100]
    )
    bar.set_label("entries of a block with absolute value ≥ ε (%)", fontsize=7)
    return figure


def _panel(axes: Axes, mask: np.ndarray | None) -> None:
    """Draw one matrix, rows downwards, and label the percentage of empty rows and columns."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set(xticks=[], yticks=[])
    if mask is None:
        say_empty(axes, "not recorded")
        return
    axes.imshow(shrink(mask, CELLS), **presence_shades(1), aspect="auto", interpolation="nearest")
    gone = [100 * (1 - mask.any(axis=axis).mean()) for axis in (1, 0)]
    axes.set_xlabel(f"empty: {gone[0]:.0f} % of rows,\n{gone[1]:.0f} % of columns", fontsize=7, color=GREY)
