"""Connectivity of neurons: degrees in the bipartite graph of a weight matrix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from neuroprune.pruning.defaults import EPS

DegreeWeight = Literal["inverse", "missing", "none"]


def fractional_degree(weight: Tensor, eps: float = EPS, length: int | None = None) -> Tensor:
    """Return each neuron's fractional connectivity c_i = 1 - n_i / row length; n_i counts entries below `eps`.

    Args:
        weight: `[rows, columns]`, one row per output neuron, as in `nn.Linear`.
        eps: An entry whose absolute value is below this counts as absent (the paper's 1e-4).
        length: Row length of the dense matrix if columns were removed, which then count as absent; default: `columns`.

    Returns:
        float32 `[rows]` between 0 (no connections) and 1 (all), on the same device, without gradient.

    Raises:
        ValueError: If the rows are empty.
    """
    length = weight.shape[1] if length is None else length
    if length < 1:
        raise ValueError("fractional_degree needs rows with at least one entry")
    return (weight.detach().abs() >= eps).sum(dim=1, dtype=torch.float32) / length


def degree_weights(
    weight: Tensor, eps: float = EPS, degree_weight: DegreeWeight = "inverse", length: int | None = None
) -> Tensor:
    """Return the factor w_i of each neuron's l1 norm in Eq. 1, larger for fewer connections (rich get richer).

    The paper says "inversely proportional to the fractional connectivity". Reading 1, `inverse`: w_i = 1 / c_i, with
    c_i no smaller than one connection. Reading 2, `missing`: w_i = n_i / row length = 1 - c_i, so that a fully
    connected neuron is not penalised. `none`: w_i = 1, plain l1 without preferential attachment, for comparison.

    Args:
        weight: `[rows, columns]`.
        eps: An entry whose absolute value is below this counts as absent.
        degree_weight: The reading.
        length: Row length of the dense matrix if columns were removed; default: `columns`.

    Returns:
        float32 `[rows]`, without gradient.
    """
    degree = fractional_degree(weight, eps, length)
    if degree_weight == "missing":
        return 1 - degree
    if degree_weight == "none":
        return torch.ones_like(degree)
    return 1 / degree.clamp_min(1 / (weight.shape[1] if length is None else length))
