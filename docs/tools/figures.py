"""Figures of docs/how-it-works.md, drawn from the package's own functions: `python docs/tools/figures.py`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.methods.components.rewarm import REWARM
from neuroprune.pruning.dominating_sets import find_dominating
from neuroprune.pruning.sparsity import cubic_schedule, event_steps
from neuroprune.pruning.topology import degree_weights
from neuroprune.results.figures.style import COLOURS, GREY, INK, print_style

FOLDER = Path(__file__).parents[1] / "images"
KEPT, REMOVED = COLOURS[0], "#dddddd"
HEADS, NEURONS, WIDTH = 4, 8, 4
GONE_HEADS, GONE_NEURONS = {2}, {0, 3, 4, 6}


def units() -> Figure:
    """Matrices of one layer with the parts of one head and some neurons, before and after removal."""
    figure = Figure(figsize=(6.3, 3.3), layout="constrained")
    for axes, cut in zip(figure.subplots(2, 1), (False, True), strict=True):
        heads = [head for head in range(HEADS) if not (cut and head in GONE_HEADS)]
        neurons = [neuron for neuron in range(NEURONS) if not (cut and neuron in GONE_NEURONS)]
        for place, name in enumerate(("Q", "K", "V")):
            _matrix(axes, 5.5 * place, name, [head in GONE_HEADS for head in heads], rows=True)
        _matrix(axes, 16.5, "O", [head in GONE_HEADS for head in heads], rows=False)
        _matrix(axes, 24, "L_in", [neuron in GONE_NEURONS for neuron in neurons], rows=True)
        _matrix(axes, 30.5, "L_out", [neuron in GONE_NEURONS for neuron in neurons], rows=False)
        axes.set(xlim=(-1, 40), ylim=(-9, 1.8), aspect="equal")
        axes.set_title("after surgery" if cut else "one head and four neurons are chosen (grey)", loc="left")
        axes.axis("off")
    return figure


def _matrix(axes: Axes, left: float, name: str, gone: list[bool], rows: bool) -> None:
    """Draw a matrix as bands: rows or columns, one for each unit."""
    for place, removed in enumerate(gone):
        corner = (left, -place - 1) if rows else (left + place, -WIDTH)
        size = (WIDTH, 1) if rows else (1, WIDTH)
        axes.add_patch(Rectangle(corner, *size, facecolor=REMOVED if removed else KEPT, edgecolor="white", lw=1))
    axes.text(left, 0.4, name, color=INK)


def schedule() -> Figure:
    """Sparsity and learning rate of NeuroPrune-FC over a run of 1,000 steps, with the default settings."""
    settings, steps = NeuroPruneSettings(sparsity=0.8), 1000
    events = event_steps(steps, settings.start, settings.end, settings.events)
    levels = cubic_schedule(0.8, len(events))
    figure = Figure(figsize=(6.3, 2.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.step([0, *events, steps], [0, *levels, levels[-1]], where="post", color=KEPT)
    left.plot(events, levels, "o", color=KEPT)
    left.set(xlabel="step", ylabel="sparsity", title="removal events", ylim=(0, 0.9))
    step = np.arange(steps)
    factor = np.where(
        step < events[-1], 1, settings.post_lr * np.minimum(1, (step - events[-1] + 1) / (REWARM * steps))
    )
    right.plot(step, 1 - step / steps, color=GREY, linestyle=":", label="schedule of the Trainer")
    right.plot(step, factor * (1 - step / steps), color=COLOURS[1], label="with NeuroPrune-FC")
    right.set(xlabel="step", ylabel="learning rate / peak", title="learning rate", ylim=(-0.05, 1.4))
    right.legend(loc="upper right")
    return figure


def degrees() -> Figure:
    """Weight of a neuron's l1 norm in Eq. 1 against its connectivity, for the three readings."""
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axes, length = figure.subplots(), 64
    rows = torch.tril(torch.ones(length, length))  # row i has i + 1 connections
    for place, reading in enumerate(("inverse", "missing", "none")):
        weights = degree_weights(rows, degree_weight=reading)  # type: ignore[arg-type]
        axes.plot(np.arange(1, length + 1) / length, weights, color=COLOURS[place], label=f"degree_weight: {reading}")
    axes.set(xlabel="fraction of connections present", ylabel="weight of the neuron's penalty", yscale="log")
    axes.set(ylim=(0.015, 90))
    axes.legend()
    return figure


def heads() -> Figure:
    """Similar heads of a layer, and the dominating head that each is merged into."""
    pairs = [(0, 1), (0, 2), (1, 2), (2, 3), (4, 5), (5, 6)]
    similar = np.eye(8, dtype=bool)
    for one, other in pairs:
        similar[one, other] = similar[other, one] = True
    dominating = find_dominating(similar)
    angles = np.pi / 2 - 2 * np.pi * np.arange(8) / 8
    x, y = 1.6 * np.cos(angles), np.sin(angles)
    figure = Figure(figsize=(6.3, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for one, other in pairs:
        left.plot(x[[one, other]], y[[one, other]], color=GREY, lw=1, zorder=1)
    for head, into in enumerate(dominating):
        if head != into:
            right.annotate(
                "", (x[into], y[into]), (x[head], y[head]), arrowprops={"arrowstyle": "->", "shrinkA": 9, "shrinkB": 9}
            )
    for axes, title in ((left, "heads closer than θ are joined"), (right, "each is merged into its dominating head")):
        for head, into in enumerate(dominating):
            shade = KEPT if head == into or axes is left else REMOVED
            axes.plot(x[head], y[head], "o", markersize=15, color=shade, zorder=2)
            ink = "white" if shade == KEPT else INK
            axes.text(x[head], y[head], str(head + 1), ha="center", va="center", color=ink, zorder=3)
        axes.set(xlim=(-2.2, 2.2), ylim=(-1.4, 1.4), title=title)
        axes.axis("off")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {"units": units, "schedule": schedule, "degrees": degrees, "heads": heads}


def draw(name: str) -> str:
    """Return a figure as reproducible SVG."""
    with print_style():
        mpl.rcParams["svg.fonttype"] = "none"
        written = io.StringIO()
        FIGURES[name]().savefig(written, format="svg", metadata={"Date": None}, facecolor="white")
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for figure_name in FIGURES:
        (FOLDER / f"{figure_name}.svg").write_text(draw(figure_name), encoding="utf-8")
