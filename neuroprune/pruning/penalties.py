"""The paper's two regularisers, each as a scalar, a closed-form gradient and a proximal step.

Eq. 1 is the weighted l1 norm of the MLP's neurons, Eq. 2 the l_{1,1/2} group norm of the attention's input dimensions.
The gradients need no autograd graph, and the degree weights of Eq. 1 are constants in them. The proximal steps are the
decoupled form: like AdamW's weight decay, they do not enter the gradient. They run after the optimizer's step, with
strength learning rate x alpha (or beta). They are needed because Adam normalises gradients: a penalty inside the loss
moves a weight by at most about one learning rate per step and yields no exact zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuroprune.pruning.blocks import Attention, Mlp, Projection
from neuroprune.pruning.defaults import EPS
from neuroprune.pruning.topology import DegreeWeight, degree_weights


def mlp_penalty(mlp: Mlp, eps: float = EPS, degree_weight: DegreeWeight = "inverse") -> Tensor:
    """Compute the weighted l1 norm of one MLP's neurons (Eq. 1 without alpha), differentiable in the weights.

    Sum over the rows i of L_in and of L_out of w_i |row i|_1; a gated MLP has two L_in, both counted.

    Args:
        mlp: One MLP.
        eps: An entry whose absolute value is below this counts as absent.
        degree_weight: Reading of "inversely proportional to the connectivity", see `topology.degree_weights`.

    Returns:
        Scalar, on the weights' device.
    """
    rows = [
        (degree_weights(p.weight, eps, degree_weight) * p.weight.abs().sum(dim=1)).sum() for p in (*mlp.ins, mlp.out)
    ]
    return torch.stack(rows).sum()


def attention_penalty(attention: Attention) -> Tensor:
    """Compute the l_{1,1/2} group norm of one attention's input dimensions (Eq. 2 without beta), differentiably.

    Sum over the rows i of A = [Q, K, V] of the square root of |row i|_1. Row i of the paper's A is column i of the
    three weights. In cross-attention, where the input of Q differs from that of K and V, we read A as the rows of [Q]
    and of [K, V].

    Args:
        attention: One attention.

    Returns:
        Scalar, on the weights' device. All-zero groups contribute nothing and get no gradient.
    """
    return torch.stack([_group_norms(group).sqrt().sum() for group in attention_groups(attention)]).sum()


def attention_groups(attention: Attention) -> list[tuple[Projection, ...]]:
    """Return the matrices whose columns form groups: (Q, K, V), or (Q) and (K, V) if their inputs differ."""
    q, k, v = attention.q, attention.k, attention.v
    return [(q,), (k, v)] if attention.cross else [(q, k, v)]


def add_mlp_gradient(
    mlp: Mlp,
    strength: float,
    eps: float = EPS,
    degree_weight: DegreeWeight = "inverse",
    dense_width: int | None = None,
) -> None:
    """Add the gradient of `strength` x Eq. 1 to the weights' `.grad`: strength w_i sign(W[i, j]).

    Args:
        mlp: One MLP; matrices without a gradient (frozen ones) are skipped.
        strength: The paper's alpha.
        eps: An entry whose absolute value is below this counts as absent.
        degree_weight: Reading of the degree weight.
        dense_width: Neurons of the dense MLP if some were removed; these count as absent in the rows of L_out.
    """
    for projection, length in _mlp_rows(mlp, dense_width):
        weight, grad = projection.weight.detach(), projection.grad
        if grad is not None:
            scale = degree_weights(weight, eps, degree_weight, length).mul_(strength)
            grad.addcmul_(weight.sign(), scale[:, None].to(grad.dtype))


def add_attention_gradient(attention: Attention, strength: float) -> None:
    """Add the gradient of `strength` x Eq. 2 to the weights' `.grad`: strength sign(A[i, j]) / (2 sqrt(|row i|_1)).

    It grows without bound as a group shrinks and is zero for an all-zero group.

    Args:
        attention: One attention; matrices without a gradient (frozen ones) are skipped.
        strength: The paper's beta.
    """
    for group in attention_groups(attention):
        scale = strength * _slope(_group_norms(group).detach())
        for projection in group:
            if (grad := projection.grad) is not None:
                grad.addcmul_(projection.weight.detach().sign(), scale.to(grad.dtype))


def add_l1_gradient(projection: Projection, strength: float) -> None:
    """Add the gradient of `strength` x |W|_1 to the weight's `.grad`; skip a matrix without a gradient."""
    if (grad := projection.grad) is not None:
        grad.add_(projection.weight.detach().sign(), alpha=strength)


@torch.no_grad()
def shrink_mlp(
    mlp: Mlp,
    strength: float,
    eps: float = EPS,
    degree_weight: DegreeWeight = "inverse",
    dense_width: int | None = None,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> None:
    """Take the exact proximal step of `strength` x Eq. 1 in place: every weight moves towards zero by strength w_i.

    The step is soft thresholding; it is exact because Eq. 1 with constant w_i is separable.

    Args:
        mlp: One MLP.
        strength: The paper's alpha.
        eps: An entry whose absolute value is below this counts as absent.
        degree_weight: Reading of the degree weight.
        dense_width: Neurons of the dense MLP if some were removed.
        rates: Learning rate of each parameter, a factor on the strength; matrices without one do not move. None: 1.
    """
    for projection, length in _mlp_rows(mlp, dense_width):
        if step := strength * _rate(projection, rates):
            weight = projection.weight
            soft_threshold(weight, degree_weights(weight, eps, degree_weight, length)[:, None] * step)


@torch.no_grad()
def shrink_attention(attention: Attention, strength: float, rates: Mapping[nn.Parameter, float] | None = None) -> None:
    """Take a majorised proximal step of `strength` x Eq. 2 in place.

    The square root is concave, so its tangent at the current norm g is an upper bound. The step is exact for this
    tangent, a weighted l1 norm with weight 1 / (2 sqrt(g)) (majorise-minimise, as in reweighted l1). It never increases
    the sum of penalty and squared distance, and it sets small groups to zero in one step.

    Args:
        attention: One attention.
        strength: The paper's beta.
        rates: Learning rate of each parameter, a factor on the strength; matrices without one do not move. None: 1.
    """
    for group in attention_groups(attention):
        slope = _slope(_group_norms(group))
        for projection in group:
            if step := strength * _rate(projection, rates):
                soft_threshold(projection.weight, step * slope)


@torch.no_grad()
def soft_threshold(weight: Tensor, threshold: Tensor | float) -> None:
    """Move every entry towards zero by at most `threshold` (>= 0, broadcast), in place."""
    limit = torch.as_tensor(threshold, dtype=weight.dtype, device=weight.device)
    weight.sub_(torch.clamp(weight, -limit, limit))


@torch.no_grad()
def shrink_l1(projection: Projection, strength: float, rates: Mapping[nn.Parameter, float]) -> None:
    """Take the exact proximal step of `strength` x |W|_1 in place; `rates` as in `shrink_mlp`."""
    if step := strength * _rate(projection, rates):
        soft_threshold(projection.weight, step)


def _rate(projection: Projection, rates: Mapping[nn.Parameter, float] | None) -> float:
    """Return the learning rate of a projection's matrix, 0 if it has none."""
    return 1.0 if rates is None else rates.get(projection.parameter, 0.0)


def _mlp_rows(mlp: Mlp, dense_width: int | None) -> list[tuple[Projection, int]]:
    """Pair each matrix with its row length in the dense model."""
    width = mlp.width if dense_width is None else dense_width
    return [(projection, projection.weight.shape[1]) for projection in mlp.ins] + [(mlp.out, width)]


def _group_norms(group: tuple[Projection, ...]) -> Tensor:
    """Return the l1 norm of each stacked column, clamped to the smallest normal number: float32 `[columns]`."""
    norms = torch.stack([projection.weight.abs().sum(dim=0, dtype=torch.float32) for projection in group]).sum(dim=0)
    return norms.clamp_min(torch.finfo(torch.float32).tiny)


def _slope(norms: Tensor) -> Tensor:
    """Return the derivative of the square root at each group's norm."""
    return 0.5 * norms.rsqrt()
