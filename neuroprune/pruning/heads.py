"""Redundant heads: distances between heads, the dominating head of each (Algorithm 3), and merging.

Under grouped-query attention a head here is what can be removed by itself: a key/value head with the queries that read
it.
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
    """Elementwise l-infinity distance of the heads' slices A_H = [Q_H, K_H, V_H]; biases are not part of A.

    Args:
        attention: One attention.

    Returns:
        float32 `[heads, heads]`, symmetric, zero on the diagonal.
    """
    slices = _head_slices(attention)
    return torch.cdist(slices, slices, p=torch.inf)


def similarity(attention: Attention, theta: float) -> Tensor:
    """Which heads are redundant beside each other: S[i, j] = max |A_Hi - A_Hj| <= theta.

    The relation is symmetric and holds on the diagonal, but is not transitive.

    Args:
        attention: One attention.
        theta: Threshold in units of the weights (paper: 0.15 to 0.25); it has to shrink as they do.

    Returns:
        bool `[heads, heads]`.
    """
    return distances(attention) <= theta


def find_dominating(similar: Tensor) -> Tensor:
    """Replace each head by one that is similar to at least the same heads; see `dominating.find_dominating`.

    Args:
        similar: bool `[heads, heads]`, true on the diagonal.

    Returns:
        int64 `[heads]`, same device: j* of each head; the survivors are the heads with j* = i.
    """
    return torch.from_numpy(graphs.find_dominating(similar.cpu().numpy())).to(similar.device)


@torch.no_grad()
def merge_output(attention: Attention, dominating: Tensor) -> None:
    """Add W^O's columns of every replaced head to those of its dominating head, in place.

    Reading of the paper's fold: this is what keeps the layer's output when two heads are equal.

    Args:
        attention: One attention.
        dominating: int64 `[heads]`, from `find_dominating`.
    """
    weight = attention.o.weight
    columns = torch.arange(weight.shape[1], device=weight.device).view(len(dominating), -1)
    _fold_columns(weight, columns, dominating)


@torch.no_grad()
def merge_mlp_in(attention: Attention, mlp: Mlp, dominating: Tensor, kept: Sequence[int], dense_heads: int) -> None:
    """Add L_in's columns of every replaced head to those of its dominating head, in place: the paper's letter.

    Column block h of L_in belongs to head h of the dense model, which holds only where the heads' outputs side by side
    are as wide as the model.

    Args:
        attention: One attention.
        mlp: The MLP of the same layer.
        dominating: int64 `[heads]`, from `find_dominating`.
        kept: Position in the dense model of each of these heads.
        dense_heads: Number of heads in the dense model.

    Raises:
        UserError: If the dense model's heads are together wider or narrower than the MLP's input.
    """
    width = attention.head_dim * attention.groups
    for projection in mlp.ins:
        weight = projection.weight
        if dense_heads * width != weight.shape[1]:
            raise UserError(
                f"merge: mlp_in does not fit {attention.name}: its {dense_heads} heads of {width} are not as wide as "
                f"the MLP's input ({weight.shape[1]}), so L_in has no columns for each head; use merge: output."
            )
        start = torch.tensor(kept, device=weight.device) * width
        _fold_columns(weight, start[:, None] + torch.arange(width, device=weight.device), dominating)


def mlp_of(attention: Attention, mlps: Sequence[Mlp]) -> Mlp:
    """Return the MLP of the attention's layer: the one whose dotted name shares the longest beginning with its name."""

    def shared(mlp: Mlp) -> int:
        pairs = zip(attention.name.split("."), mlp.name.split("."), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(mlp.name.split(".")))

    return max(mlps, key=shared)


def query_heads(attention: Attention, heads: Sequence[int]) -> list[int]:
    """Return the query heads that go with these heads, as `surgery.remove` counts them."""
    groups = attention.groups
    return [head * groups + query for head in heads for query in range(groups)]


def _fold_columns(weight: Tensor, columns: Tensor, dominating: Tensor) -> None:
    """Add the column block `[heads, width]` of each replaced head to that of its dominating head."""
    dominating = dominating.to(weight.device)
    replaced = dominating != torch.arange(len(dominating), device=weight.device)
    into, taken = columns[dominating[replaced]].flatten(), columns[replaced].flatten()
    weight.index_add_(1, into, weight[:, taken])


def _head_slices(attention: Attention) -> Tensor:
    """Lay the weights of each head in Q, K and V side by side: float32 `[heads, entries]`."""
    heads = attention.heads // attention.groups
    weights = (attention.q.weight, attention.k.weight, attention.v.weight)
    return torch.cat([weight.detach().float().reshape(heads, -1) for weight in weights], dim=1)


def survivors(distance: Tensor, theta: float) -> int:
    """Return how many heads of one attention FIND_DOMINATING leaves at a threshold.

    Args:
        distance: `[heads, heads]`, from `distances`.
        theta: The threshold.

    Returns:
        Number of heads.
    """
    dominating = find_dominating(distance <= theta)
    return int((dominating == torch.arange(len(dominating), device=dominating.device)).sum())


def theta_for(distance: Sequence[Tensor], count: int) -> tuple[float, int]:
    """Find a threshold at which FIND_DOMINATING leaves at most so many heads of a model, and just above so many.

    The number of survivors falls as theta grows, though not strictly at every step; bisection over the distances that
    occur finds a threshold at which it passes `count`.

    Args:
        distance: `[heads, heads]` of each attention, from `distances`.
        count: Heads that are to be left, at least one for each attention.

    Returns:
        The threshold, and how many heads it leaves: `count` or, because heads are merged several at a time, fewer.
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
