"""Redundant heads: distances between heads, dominating heads (Algorithm 3), and merging.

With grouped-query attention, a head in this module is the smallest removable unit: a key/value head with the query
heads that use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.pruning import dominating_sets as graphs
from neuroprune.pruning.blocks import Attention, Mlp


@torch.no_grad()
def distances(attention: Attention) -> Tensor:
    """Return the l-infinity distances between the heads' slices A_H = [Q_H, K_H, V_H], without biases.

    Args:
        attention: One attention.

    Returns:
        float32 `[heads, heads]`, symmetric, zero on the diagonal.
    """
    slices = _head_slices(attention)
    return torch.cdist(slices, slices, p=torch.inf)


def similarity(attention: Attention, theta: float) -> Tensor:
    """Return the similarity matrix of heads: S[i, j] = (max |A_Hi - A_Hj| <= theta).

    The relation is symmetric and reflexive but not transitive.

    Args:
        attention: One attention.
        theta: Threshold in units of the weights (paper: 0.15 to 0.25); smaller weights need a smaller threshold.

    Returns:
        bool `[heads, heads]`.
    """
    return distances(attention) <= theta


def find_dominating(similar: Tensor) -> Tensor:
    """Find the dominating head of each head; see `dominating_sets.find_dominating`.

    Args:
        similar: bool `[heads, heads]`, true on the diagonal.

    Returns:
        int64 `[heads]`, same device: j* of each head; the survivors are the heads with j* = i.
    """
    return torch.from_numpy(graphs.find_dominating(similar.cpu().numpy())).to(similar.device)


@torch.no_grad()
def merge_output(attention: Attention, dominating: Tensor) -> None:
    """Add the W^O columns of every replaced head to those of its dominating head, in place.

    Our reading of the paper's fold; it preserves the layer's output if two heads are equal.

    Args:
        attention: One attention.
        dominating: int64 `[heads]`, from `find_dominating`.
    """
    weight = attention.o.weight
    columns = torch.arange(weight.shape[1], device=weight.device).view(len(dominating), -1)
    _fold_columns(weight, columns, dominating)


@torch.no_grad()
def merge_mlp_in(attention: Attention, mlp: Mlp, dominating: Tensor, kept: Sequence[int], dense_heads: int) -> None:
    """Add the L_in columns of every replaced head to those of its dominating head, in place.

    This is the paper's literal fold. Column block h of L_in belongs to head h of the dense model, which requires that
    the heads' concatenated outputs are as wide as the MLP's input.

    Args:
        attention: One attention.
        mlp: The MLP of the same layer.
        dominating: int64 `[heads]`, from `find_dominating`.
        kept: Positions of these heads in the dense model.
        dense_heads: Number of heads in the dense model.

    Raises:
        UserError: If the total width of the dense model's heads differs from the MLP's input.
    """
    check_mlp_in(attention, mlp, dense_heads * attention.groups)
    width = attention.head_dim * attention.groups
    for projection in mlp.ins:
        weight = projection.weight
        start = torch.tensor(kept, device=weight.device) * width
        _fold_columns(weight, start[:, None] + torch.arange(width, device=weight.device), dominating)


def check_mlp_in(attention: Attention, mlp: Mlp, dense_heads: int) -> None:
    """Reject an MLP whose input has no column for each channel of the dense attention's heads; see `merge_mlp_in`.

    Args:
        attention: One attention.
        mlp: The MLP of the same layer.
        dense_heads: Number of query heads in the dense model.

    Raises:
        UserError: If the total width of these heads differs from the MLP's input.
    """
    for projection in mlp.ins:
        width = projection.weight.shape[1]
        if dense_heads * attention.head_dim != width:
            raise UserError(
                f"merge: mlp_in does not fit {attention.name}: its {dense_heads} heads of {attention.head_dim} are not "
                f"as wide as the MLP's input ({width}), so L_in has no columns for each head; use merge: output."
            )


def mlp_of(attention: Attention, mlps: Sequence[Mlp]) -> Mlp:
    """Return the MLP of an attention's layer: the one whose dotted name has the longest common prefix."""

    def shared(mlp: Mlp) -> int:
        pairs = zip(attention.name.split("."), mlp.name.split("."), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(mlp.name.split(".")))

    return max(mlps, key=shared)


def query_heads(attention: Attention, heads: Sequence[int]) -> list[int]:
    """Return the query heads of these units, numbered as in `surgery.remove`."""
    groups = attention.groups
    return [head * groups + query for head in heads for query in range(groups)]


def _fold_columns(weight: Tensor, columns: Tensor, dominating: Tensor) -> None:
    """Add each replaced head's block of columns to that of its dominating head."""
    dominating = dominating.to(weight.device)
    replaced = dominating != torch.arange(len(dominating), device=weight.device)
    into, taken = columns[dominating[replaced]].flatten(), columns[replaced].flatten()
    weight.index_add_(1, into, weight[:, taken])


def _head_slices(attention: Attention) -> Tensor:
    """Return each head's weights in Q, K and V as one row: float32 `[heads, entries]`."""
    heads = attention.heads // attention.groups
    weights = (attention.q.weight, attention.k.weight, attention.v.weight)
    return torch.cat([w.detach().float().reshape(heads, w.numel() // (heads or 1)) for w in weights], dim=1)


def survivors(distance: Tensor, theta: float) -> int:
    """Count the heads of one attention that FIND_DOMINATING keeps at a threshold.

    Args:
        distance: `[heads, heads]`, from `distances`.
        theta: The threshold.

    Returns:
        Number of heads.
    """
    dominating = find_dominating(distance <= theta)
    return int((dominating == torch.arange(len(dominating), device=dominating.device)).sum())


def theta_for(distance: Sequence[Tensor], count: int) -> tuple[float, int]:
    """Find a threshold at which the number of heads kept by FIND_DOMINATING crosses a given count.

    The number of survivors generally falls as theta grows, but not monotonically. Bisection over the occurring
    distances finds a threshold at which it crosses `count`.

    Args:
        distance: `[heads, heads]` of each attention, from `distances`.
        count: Number of heads to keep, at least one per attention.

    Returns:
        The threshold and the number of heads kept at it, which can be below `count` because heads merge several at a
        time.
    """
    distance = [d.cpu() for d in distance]
    steps = torch.cat([torch.zeros(1), *(d[d > 0] for d in distance)]).unique()
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if sum(survivors(d, float(steps[middle])) for d in distance) <= count:
            high = middle
        else:
            low = middle + 1
    theta = float(steps[high])
    return theta, sum(survivors(d, theta) for d in distance)
