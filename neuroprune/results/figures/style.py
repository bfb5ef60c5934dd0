"""Style of figures: print sizes, colour-blind-safe colours, reproducible files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from neuroprune.files.atomic import write_bytes, write_text
from neuroprune.results.plain_text import csv_text
from neuroprune.results.runs import method_label

PAGE_WIDTH = 6.3  # inches: the text width of the ACL template; figures are drawn at their final size
DPI = 200
# Okabe and Ito's palette, ordered for contrast between neighbours; grey replaces its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
INK, GREY = "#222222", "#777777"
LOOKS: dict[str, dict[str, Any]] = {  # colours by method label
    "NeuroPrune (penalties)": {"color": "#D55E00", "linestyle": "-", "marker": "D"},
    "NeuroPrune (penalties, regulated)": {"color": "#7A2E00", "linestyle": (0, (2, 1)), "marker": "d"},
    "NeuroPrune-FC": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "l1 penalty": {"color": "#E69F00", "linestyle": (0, (4, 1.5)), "marker": "s"},
    "magnitude": {"color": "#CC79A7", "linestyle": (0, (4, 1.5, 1, 1.5)), "marker": "v"},
    "Taylor": {"color": "#009E73", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "^"},
    "CoFi": {"color": "#56B4E9", "linestyle": (0, (1.5, 1.2)), "marker": "p"},
    "DSP": {"color": "#5B3A8E", "linestyle": (0, (6, 1.5)), "marker": "h"},
    "random units": {"color": "#8A8A8A", "linestyle": (0, (1, 2)), "marker": "X"},
    "dense": {"color": "#000000", "linestyle": ":", "marker": "*", "markersize": 6, "zorder": 5},
}
OTHER_LOOK = {"color": "#8A8A8A", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "P"}
FILLED = {"NeuroPrune (penalties)", "NeuroPrune (penalties, regulated)", "NeuroPrune-FC", "dense"}
EMPTY: dict[str, Any] = {
    "marker": "x", "color": "#B00020", "markersize": 9, "markeredgewidth": 0.9, "linestyle": "", "zorder": 6,
    "label": "an empty layer",
}  # fmt: skip
METRIC_SPAN = 5.0  # smallest span of an axis of metrics, in percent
TASK_MARKERS = "osD^vPX*"

SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "font.family": "DejaVu Sans",  # included in matplotlib, so figures are the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,  # keep text as text
    "figure.constrained_layout.w_pad": 0.07,
    "svg.hashsalt": "neuroprune",  # use the same ids in every run
}


@contextmanager
def print_style() -> Iterator[None]:
    """Apply the style of this module instead of the user's settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def save(figure: Figure, shown: pd.DataFrame, stem: Path) -> list[Path]:
    """Write a figure as pdf, png and svg and its data as csv, atomically and without timestamps.

    Args:
        figure: The figure, at its final size.
        shown: The plotted data.
        stem: Path without extension, ``<study>/figures/figure4``.

    Returns:
        The four files.
    """
    figure.draw_without_rendering()  # computes the layout once for all formats
    figure.set_layout_engine(None)  # otherwise every format would compute the layout again
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "pdf", "png", "svg")]
    write_text(paths[0], csv_text(shown, float_format="%.6g"))
    no_date: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    for path in paths[1:]:
        kind = path.suffix[1:]
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata=no_date[kind])
        write_bytes(path, picture.getvalue())
    return paths


def colours(names: Iterable[str]) -> dict[str, str]:
    """Assign a colour to each name. Colours repeat after eight, so markers differ too."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def method_look(method: str, form: str = "") -> dict[str, Any]:
    """Return a method's colour, line, marker and label, which are the same in all figures."""
    label = method_label(method, form)
    look = LOOKS.get(label, OTHER_LOOK)
    return {"markerfacecolor": look["color"] if label in FILLED else "white", "label": label, **look}


def inks(rows: pd.DataFrame) -> list[str]:
    """Return the colour of each row's method."""
    pairs = zip(rows["method"], rows["form"], strict=True)
    return [method_look(str(method), str(form))["color"] for method, form in pairs]


def each_method(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Yield the rows of each method and form with their style, in order of first appearance."""
    for (method, form), some in rows.groupby(["method", "form"], sort=False):
        yield some, method_look(str(method), str(form))


def plot_methods(axes: Axes, rows: pd.DataFrame, x: str, y: str, **changes: Any) -> None:
    """Plot one column against another for each method and cross out runs with an empty layer.

    Args:
        axes: The panel.
        rows: The plotted data, with ``method``, ``form`` and ``empty_layers``.
        x: The column of the horizontal axis; lines join marks in ascending order.
        y: The column of the vertical axis.
        **changes: Changes to the style, such as ``linestyle=""`` for marks without lines.
    """
    for some, look in each_method(rows):
        line = some.sort_values(x, kind="stable")
        axes.plot(line[x], line[y], **(look | changes))
    mark_empty(axes, rows, x, y)


def mark_empty(axes: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Cross out the marks of runs in which a layer has lost all its heads or all its neurons."""
    empty = rows[rows["empty_layers"] > 0]
    if len(empty):
        axes.plot(empty[x], empty[y], **EMPTY)


def empty_key(rows: pd.DataFrame) -> list[Line2D]:
    """Return the legend key of `mark_empty` if any row has an empty layer."""
    return [Line2D([], [], **EMPTY)] if (rows["empty_layers"] > 0).any() else []


def bars(rows: pd.DataFrame, middle: str = "value", low: str = "low", high: str = "high") -> list[pd.Series]:
    """Return the lengths of the error bars below and above the marks, 0 where the spread is not known."""
    below, above = rows[middle] - rows[low], rows[high] - rows[middle]
    return [below.fillna(0).clip(lower=0), above.fillna(0).clip(lower=0)]


def titled(figure: Figure, title: str) -> SubFigure:
    """Add a left-aligned title and return the part of the figure below it."""
    part = cast(SubFigure, figure.subfigures())
    part.suptitle(title, fontsize=8, fontweight="bold", x=0.01, ha="left")
    return part


def say_below(figure: Figure, text: str) -> None:
    """Write a note below all panels."""
    figure.supxlabel(text, fontsize=6.5, color=GREY)


def at_least(axes: Axes, span: float) -> None:
    """Widen a panel's y axis to at least this span, so that noise does not look like a difference."""
    bottom, top = axes.get_ylim()
    missing = max(0.0, span - (top - bottom)) / 2
    axes.set_ylim(bottom - missing, top + missing)


def from_zero(axes: Axes) -> None:
    """Start a panel's y axis at zero and leave room at the top, so that a single mark is visible."""
    axes.set_ylim(0, 1.04 * axes.get_ylim()[1])


def presence_shades(whole: float) -> dict[str, Any]:
    """Return the colour map and norm for fractions of non-zero entries: white for none, dark for all.

    The scale is a square root, so that small fractions are visible.

    Args:
        whole: The value of a full block, 1 or 100.

    Returns:
        Keyword arguments ``cmap`` and ``norm``.
    """
    shades = LinearSegmentedColormap.from_list("present", ["white", COLOURS[0], "#00263d"])
    return {"cmap": shades, "norm": PowerNorm(0.5, 0, whole)}


def nothing_to_show(reason: str) -> tuple[Figure, pd.DataFrame]:
    """Return a figure and a table that contain only the reason why there is nothing to show."""
    figure = Figure(figsize=(PAGE_WIDTH, 1.2))
    figure.text(0.5, 0.5, reason, ha="center", va="center", color=GREY, wrap=True)
    return figure, pd.DataFrame({"note": [reason]})


def say_empty(axes: Axes, text: str = "no data") -> None:
    """Write a note into an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set(xticks=[], yticks=[])
