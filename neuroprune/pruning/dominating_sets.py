"""Dominating sets of a layer's graph of similar heads: the paper's quick approximation, and the exact minimum.

Graphs are small (one node a head), so all of it is NumPy on the CPU, for training and figures alike.
"""

from __future__ import annotations

import numpy as np


def find_dominating(similar: np.ndarray) -> np.ndarray:
    """Replace each head by one that is similar to at least the same heads (FIND_DOMINATING, Algorithm 3).

    For every head i, start with j* = i and scan j = 1..k in order; j replaces j* if it is similar to strictly more
    heads (all that j* is similar to, and others), or to exactly the same heads and comes later. So ties keep the later
    head.

    No chains can arise: "replaces" is a strict partial order (inclusion of the rows of S, equal rows by position). If
    some m replaced the final j* of i, it would also have replaced whatever i had when the scan passed m, because that
    one lies below j*; so nothing replaces j*, and j* is its own dominating head. And i is similar to j*, because row
    j* of S includes row i, which includes i itself. The literal algorithm thus guarantees that every removed head is
    similar to its survivor and that no survivor is removed.

    Args:
        similar: bool `[heads, heads]`, symmetric, true on the diagonal.

    Returns:
        int64 `[heads]`: j* of each head; the survivors are the heads with j* = i.
    """
    excess = (similar[:, None, :] & ~similar[None, :, :]).any(axis=2)  # [a, b]: a is similar to a head that b is not
    index = np.arange(len(similar))
    replaces = ~excess & (excess.T | (index[:, None] < index[None, :]))  # [j*, j]
    found = index.copy()
    for j in index:
        found[replaces[found, j]] = j
    return found


def minimum_dominating_set(similar: np.ndarray) -> np.ndarray:
    """Find a smallest set of heads such that each head is similar to one of them: exact, by integer programming.

    Args:
        similar: bool `[heads, heads]`, symmetric, true on the diagonal.

    Returns:
        int64, ascending: the heads of one such set.

    Raises:
        ValueError: If a head is similar to none, itself included.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    heads = len(similar)
    each_is_covered = LinearConstraint(similar.astype(float), lb=1)
    solution = milp(np.ones(heads), constraints=each_is_covered, integrality=np.ones(heads), bounds=Bounds(0, 1))
    if solution.x is None:
        raise ValueError("a head that is similar to no head, not even to itself, cannot be dominated")
    return np.flatnonzero(solution.x > 0.5)
