"""Short texts next to the marks of a panel, where there is room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

PLACES = ((4, -7), (4, 3), (-11, 3), (-11, -7), (-3, 6), (-3, -11))  # offset of a text from its mark, in points
SIZE = (9, 7)  # width and height of a text, in points
MARK = 6  # width and height of a mark, in points
Box = tuple[float, float, float, float]


def write_beside(axes: Axes, marks: Iterable[tuple[float, float, str, str]]) -> None:
    """Write texts next to marks, the first marks first; texts that would cover a mark or another text are left out.

    Args:
        axes: The panel; its layout must be final.
        marks: x and y in data coordinates, text (empty for none) and colour of each mark.
    """
    marks = list(marks)
    pixels = axes.transData.transform(np.array([(x, y) for x, y, _, _ in marks], dtype=float).reshape(-1, 2))
    points = 72 / axes.figure.dpi * pixels
    taken: list[Box] = [(x - MARK / 2, y - MARK / 2, MARK, MARK) for x, y in points]
    for (left, bottom), (x, y, text, colour) in zip(points, marks, strict=True):
        boxes = {place: (left + place[0], bottom + place[1], *SIZE) for place in PLACES if text}
        free = next((place for place, box in boxes.items() if not any(_overlap(box, other) for other in taken)), None)
        if free is not None:
            taken.append(boxes[free])
            look: dict[str, Any] = {"textcoords": "offset points", "xytext": free, "fontsize": 6}
            axes.annotate(text, (x, y), color=colour, **look)


def _overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes overlap, each given by its left and lower edge, width and height."""
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))
