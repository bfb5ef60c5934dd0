"""Literal reference implementation of the paper's formulas and algorithms with plain loops and numbers.

Based on arXiv 2404.01306 with the documented readings. Matrices are lists of rows of Python floats, in the paper's
orientation where stated. This module must not import from neuroprune.
"""

from __future__ import annotations

from math import sqrt

Matrix = list[list[float]]


def absent(row: list[float], eps: float) -> int:
    """n_i: number of entries of a row with an absolute value below eps."""
    count = 0
    for entry in row:
        if abs(entry) < eps:
            count += 1
    return count


def degree_weight(row: list[float], eps: float, reading: str) -> float:
    """w_i of a neuron: the inverse of its fractional connectivity, the missing fraction, or 1."""
    if reading == "none":
        return 1.0
    missing = absent(row, eps) / len(row)
    if reading == "missing":
        return missing
    connectivity = 1 - missing
    return 1 / max(connectivity, 1 / len(row))


def eq1(matrices: list[Matrix], eps: float, reading: str) -> float:
    """Eq. 1 without alpha for the given L_in and L_out: sum over rows of w_i times the row's l1 norm."""
    total = 0.0
    for matrix in matrices:
        for row in matrix:
            norm = 0.0
            for entry in row:
                norm += abs(entry)
            total += degree_weight(row, eps, reading) * norm
    return total


def side_by_side(*blocks: Matrix) -> Matrix:
    """[Q, K, V]: the concatenated columns of several matrices."""
    return [[entry for block in blocks for entry in block[i]] for i in range(len(blocks[0]))]


def eq2(a: Matrix) -> float:
    """Eq. 2 without beta for A = [Q, K, V] in the paper's orientation: row i belongs to input dimension i."""
    total = 0.0
    for row in a:
        norm = 0.0
        for entry in row:
            norm += abs(entry)
        total += sqrt(norm)
    return total


def similarity(heads: list[Matrix], theta: float) -> list[list[int]]:
    """S[i][j] = 1 if the largest absolute difference of A_Hi and A_Hj is at most theta."""
    s = [[0] * len(heads) for _ in heads]
    for i, first in enumerate(heads):
        for j, second in enumerate(heads):
            largest = 0.0
            for row, other in zip(first, second, strict=True):
                for x, y in zip(row, other, strict=True):
                    largest = max(largest, abs(x - y))
            s[i][j] = 1 if largest <= theta else 0
    return s


def find_dominating(s: list[list[int]]) -> list[int]:
    """Algorithm 3: the dominating head of each head."""
    found = []
    for i in range(len(s)):
        star = i
        for j in range(len(s)):
            difference = [s[star][column] - s[j][column] for column in range(len(s))]
            strictly_more = 1 not in difference and -1 in difference
            same_but_later = all(d == 0 for d in difference) and star < j
            if strictly_more or same_but_later:
                star = j
        found.append(star)
    return found


def eliminate_heads(a: list[Matrix], w_o: list[Matrix], theta: float) -> tuple[list[int], list[Matrix]]:
    """Algorithm 2 for one layer, with the fold into W^O.

    Args:
        a: A_H of each head.
        w_o: Each head's columns of W^O.
        theta: Threshold of the distance.

    Returns:
        The remaining heads and their columns of W^O.
    """
    dominating = find_dominating(similarity(a, theta))
    folded = [[list(row) for row in columns] for columns in w_o]
    for i, star in enumerate(dominating):
        if star != i:
            for r, row in enumerate(w_o[i]):
                for c, entry in enumerate(row):
                    folded[star][r][c] += entry
    left = [i for i, star in enumerate(dominating) if star == i]
    return left, [folded[i] for i in left]
