"""Dominating sets of a layer's similarity graph of heads: the paper's approximation and the exact minimum.

Graphs are small (one node per head), so training and figures both use NumPy on the CPU.
"""

from __future__ import annotations

import numpy as np


def find_dominating(similar: np.ndarray) -> np.ndarray:
    """Find the dominating head of each head (FIND_DOMINATING, Algorithm 3).

    For every head i, start with j* = i and scan j = 1..k in order; j replaces j* if the heads similar to j are a proper
    superset of those similar to j*, or the same set and j comes later. Ties therefore keep the later head.

    Chains cannot arise because "replaces" is a strict partial order (inclusion of rows of S, equal rows by position).
    If some m replaced the final j* of i, it would also have replaced i's candidate when the scan reached m, because
    that candidate is below j* in the order. Hence no head replaces j*, which is its own dominating head. Also, i is
    similar to j*, because row j* of S includes row i, which includes i itself. The literal algorithm thus guarantees
    that every removed head is similar to its survivor and that no survivor is removed.

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
    """Find a minimum dominating set of heads exactly, by integer programming.

    Args:
        similar: bool `[heads, heads]`, symmetric, true on the diagonal.

    Returns:
        int64, ascending: a smallest set of heads such that every head is similar to one of them.

    Raises:
        ValueError: If a head is not even similar to itself.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    heads = len(similar)
    each_is_covered = LinearConstraint(similar.astype(float), lb=1)
    solution = milp(np.ones(heads), constraints=each_is_covered, integrality=np.ones(heads), bounds=Bounds(0, 1))
    if solution.x is None:
        raise ValueError("every head must be similar to itself, but a row of the matrix has no true entry")
    return np.flatnonzero(solution.x > 0.5)
