"""Non-zero entries of matrices in several layers, at several sparsities: Figures 8, 9 and 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from neuroprune.results.figures.context import runs_note, runs_title, sparsity_label
from neuroprune.results.figures.figure1 import LETTERS, MATRICES
from neuroprune.results.figures.style import GREY, PAGE_WIDTH, nothing_to_show, presence_shades, say_below, say_empty
from neuroprune.results.records import read_arrays
from neuroprune.results.runs import neuroprune_runs, read_runs, run_file, usual_first, with_file

CELLS = "cells.safetensors"
WANTED = (0.25, 0.5, 0.9)
Cells = dict[str, np.ndarray]


def cells_figure(study_dir: Path, kinds: tuple[str, ...]) -> tuple[Figure, pd.DataFrame]:
    """Draw the given kinds of matrices of several layers, one row of panels per sparsity.

    Args:
        study_dir: The study's folder with ``runs.csv`` and the runs' ``cells.safetensors``.
        kinds: Keys of ``figure1.MATRICES``.

    Returns:
        The figure and its data: one row of numbers per row of cells, each the percentage of non-zero entries.
        Both are replaced by a note if no finished NeuroPrune run has stored its cells.

    Raises:
        UserError: If the table of runs is missing or an array can't be read.
    """
    chosen = choose_runs(study_dir, read_runs(study_dir))
    if chosen.empty:
        return nothing_to_show("Nothing to show: no finished NeuroPrune run has stored the cells of its matrices.")
    arrays = [read_arrays(run_file(study_dir, run, CELLS)) for run in chosen["run"]]
    rows = [(row, _of_kinds(a, kinds)) for row, a in zip(chosen.to_dict("records"), arrays, strict=True)]
    shown = pd.concat([_table(row, name, cells) for row, found in rows for name, cells in found.items()])
    return _plot(rows), shown.reset_index(drop=True)


def choose_runs(study_dir: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Choose a dense run and the runs nearest to 25, 50 and 90 % of the first model and task with cells.

    Args:
        study_dir: The study's folder.
        runs: The tidy table.

    Returns:
        At most four rows in ascending order of sparsity; none if no finished NeuroPrune run has cells.
    """
    pruned = with_file(study_dir, neuroprune_runs(runs), CELLS)
    if pruned.empty:
        return pruned
    model, task = pruned[["model", "task"]].iloc[0]
    ours = pruned[(pruned["model"] == model) & (pruned["task"] == task)]
    same = runs[(runs["model"] == model) & (runs["task"] == task) & (runs["status"] == "done")]
    dense = with_file(study_dir, usual_first(same[same["method"] == "dense"]), CELLS).head(1)
    nearest = [(ours["sparsity"] - wanted).abs().idxmin() for wanted in WANTED]
    return pd.concat([dense, ours.loc[list(dict.fromkeys(nearest))].sort_values("sparsity")])


def _of_kinds(arrays: Cells, kinds: tuple[str, ...]) -> Cells:
    """Return the arrays of the given kinds of matrices, layer by layer."""
    found = [
        (int(name.split(".")[1]), kinds.index(name.split(".")[0]), name) for name in arrays if _kind(name) in kinds
    ]
    return {name: arrays[name] for _, _, name in sorted(found)}


def _kind(name: str) -> str:
    return name.split(".")[0]


def _table(row: dict[Any, Any], name: str, cells: np.ndarray) -> pd.DataFrame:
    """Return the cells of one panel with the run they belong to."""
    kind, layer = name.split(".")
    head = {"run": row["run"], "sparsity_percent": 100 * row["sparsity"], "matrix": MATRICES[kind], "layer": int(layer)}
    return pd.concat(
        [pd.DataFrame(head | {"cell_row": range(len(cells))}), pd.DataFrame(cells).add_prefix("c")], axis=1
    )


def _plot(rows: list[tuple[dict[Any, Any], Cells]]) -> Figure:
    """Draw one row of panels per run and one column per matrix."""
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    side = (PAGE_WIDTH - 0.5) / len(names)
    height = min(side, 1.0)
    figure = Figure(figsize=(PAGE_WIDTH, 1.3 + (height + 0.06) * len(rows)), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.03)
    grid = figure.subplots(len(rows), len(names), squeeze=False)
    for axes_row, (row, found) in zip(grid, rows, strict=True):
        for axes, name in zip(axes_row, names, strict=True):
            _panel(axes, found.get(name))
        axes_row[0].set_ylabel(sparsity_label(row), fontweight="bold", fontsize=7)
    for axes, name in zip(grid[0], names, strict=True):
        kind, layer = name.split(".")
        axes.set_title(f"${LETTERS[kind]}$, {layer}" if len(names) > 4 else f"${LETTERS[kind]}$, layer {layer}")
    figure.suptitle(runs_title(rows[-1][0]), fontsize=8, fontweight="bold", x=0.01, ha="left")
    say_below(figure, f"layers are counted from 0; {runs_note(pd.DataFrame([row for row, _ in rows]))}")
    scale = ScalarMappable(**presence_shades(100))
    bar = figure.colorbar(
        scale, ax=grid, orientation="horizontal", shrink=0.4, aspect=40, pad=0.02, ticks=[0, 10, 50, 100]
    )
    bar.set_label("entries of a block with absolute value ≥ ε (%)", fontsize=7)
    return figure


def _panel(axes: Axes, cells: np.ndarray | None) -> None:
    """Draw one matrix; rows run downwards."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GREY)
    axes.set(xticks=[], yticks=[])
    if cells is None:
        say_empty(axes, "–")
        return
    axes.imshow(cells, **presence_shades(100), aspect="auto", interpolation="nearest")
