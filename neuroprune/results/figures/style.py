"""How figures look: sizes for print, colours for colour-blind readers too, files that are the same each time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from neuroprune.files.atomic import write_bytes, write_text
from neuroprune.results.runs import LABELS

PAGE_WIDTH = 6.3  # inches: the text width of the ACL template; figures are drawn at their final size
DPI = 200
# Okabe and Ito's palette, neighbours as different as can be; grey stands for its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
INK, GREY = "#222222", "#777777"
METHOD_LINES: dict[str, dict[str, Any]] = {
    "neuroprune": {"linestyle": "-", "marker": "o"},
    "l1": {"linestyle": (0, (4, 1.5)), "marker": "s"},
    "cofi": {"linestyle": (0, (4, 1.5, 1, 1.5)), "marker": "^"},
    "dsp": {"linestyle": (0, (1.5, 1.2)), "marker": "D"},
    "taylor": {"linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    "random": {"linestyle": (0, (1, 2)), "marker": "X"},
    "dense": {"linestyle": ":", "marker": "*"},
    "target form": {"linestyle": "-", "marker": "o"},
    "penalty form": {"linestyle": (0, (4, 1.5)), "marker": "P"},
}
OTHER_LINE = {"linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"}
FILLED = {"neuroprune", "target form"}  # ours stands out
METHOD_COLOURS = {
    "neuroprune": "#0072B2",
    "l1": "#D55E00",
    "cofi": "#009E73",
    "dsp": "#CC79A7",
    "taylor": "#E69F00",
    "random": "#8A8A8A",
    "dense": "#000000",
}
METRIC_SPAN = 5.0  # percent: what an axis of metrics covers at least
TASK_MARKERS = "osD^vPX*"

SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same everywhere
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
    "pdf.fonttype": 42,  # text stays text
    "figure.constrained_layout.w_pad": 0.07,
    "svg.hashsalt": "neuroprune",  # the same ids each time
}


@contextmanager
def print_style() -> Iterator[None]:
    """Draw with our settings for a while, whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def save(figure: Figure, shown: pd.DataFrame, stem: Path) -> list[Path]:
    """Write a figure as pdf, png and svg and what it shows as csv, each whole or not at all and without dates.

    Args:
        figure: The figure, at its final size.
        shown: What is drawn.
        stem: Path without ending, ``<study>/figures/figure4``.

    Returns:
        The four files.
    """
    figure.draw_without_rendering()  # lays it out, once for all formats
    figure.set_layout_engine(None)  # else every format would draw it once more to lay it out
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "pdf", "png", "svg")]
    write_text(paths[0], shown.to_csv(index=False, float_format="%.6g"))
    no_date: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    for path in paths[1:]:
        kind = path.suffix[1:]
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata=no_date[kind])
        write_bytes(path, picture.getvalue())
    return paths


def colours(names: Iterable[str]) -> dict[str, str]:
    """Give each name a colour; after eight they come again, which is why markers differ too."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def method_line(method: str) -> dict[str, Any]:
    """Return a method's line style and marker, the same in all figures."""
    return METHOD_LINES.get(method, OTHER_LINE)


def method_look(method: str) -> dict[str, Any]:
    """Return a method's colour, line, marker and label, where colours tell methods apart."""
    colour = METHOD_COLOURS.get(method, "#56B4E9")
    face = colour if method in FILLED else "white"
    return {"color": colour, "markerfacecolor": face, "label": LABELS.get(method, method), **method_line(method)}


def at_least(axes: Axes, span: float) -> None:
    """Widen a panel's y axis around its middle to so much, lest noise looks like a difference."""
    bottom, top = axes.get_ylim()
    missing = max(0.0, span - (top - bottom)) / 2
    axes.set_ylim(bottom - missing, top + missing)


def from_zero(axes: Axes) -> None:
    """Let a panel's y axis begin at zero, with room above: of a single mark too all is seen."""
    axes.set_ylim(0, 1.04 * axes.get_ylim()[1])


def presence_shades() -> LinearSegmentedColormap:
    """Return the colours of shares of entries: white where none is there, dark where all are."""
    return LinearSegmentedColormap.from_list("present", ["white", COLOURS[0], "#00263d"])


def nothing_to_show(reason: str) -> tuple[Figure, pd.DataFrame]:
    """Return a figure that says why there is nothing to show, and the same as a table."""
    figure = Figure(figsize=(PAGE_WIDTH, 1.2))
    figure.text(0.5, 0.5, reason, ha="center", va="center", color=GREY, wrap=True)
    return figure, pd.DataFrame({"note": [reason]})


def say_empty(axes: Axes, text: str = "no data") -> None:
    """Say inside a panel that there is nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set(xticks=[], yticks=[])
