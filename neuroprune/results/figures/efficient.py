"""The efficient frontier: what no other beats in both of two quantities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def efficient(cost: ArrayLike, gain: ArrayLike) -> np.ndarray:
    """Tell which points lie on the efficient frontier.

    Args:
        cost: What should be small, ``[points]``.
        gain: What should be large, ``[points]``.

    Returns:
        bool ``[points]``: no other point costs at most as much and gains at least as much, and is better in one of the
        two. Points with a value that is not finite are never on it.
    """
    costs, gains = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    known = np.isfinite(costs) & np.isfinite(gains)
    as_good = (costs[:, None] <= costs) & (gains[:, None] >= gains)  # [a, b]: a is at least as good as b
    better = as_good & ((costs[:, None] < costs) | (gains[:, None] > gains))
    return known & ~(better & known[:, None]).any(axis=0)
