"""Exact detection, from the weights, of heads and neurons with zero or constant contribution."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.blocks import Attention, Mlp, Projection


def idle_heads(attention: Attention, empty: bool = False) -> list[int]:
    """Return the heads that can be removed without changing the model's outputs.

    A head is idle if each of its channels has no weight in O, is always zero, or has a constant value that can be added
    to the bias of O. With grouped queries, only heads that can be removed together are returned (see `surgery.remove`).

    Args:
        attention: An attention with current weights.
        empty: Whether all heads may go; if not, one stays in any case.

    Returns:
        Current positions, ascending.
    """
    idle = _idle(attention.o, constant_context(attention), attention.head_dim)
    groups = idle.unflatten(0, (-1, attention.groups))
    whole = groups.all(1)
    if whole.all() and (empty or not attention.heads):
        return list(range(attention.heads))
    whole[:1] &= ~whole.all()
    each = groups[~whole].sum(1).clamp(max=attention.groups - 1).min()
    gone = whole[:, None] | (groups & (groups.cumsum(1) <= each))
    return gone.flatten().nonzero().flatten().tolist()


def idle_neurons(mlp: Mlp, empty: bool = False) -> list[int]:
    """Return the neurons that can be removed without changing the model's outputs.

    Args:
        mlp: An MLP with current weights.
        empty: Whether all neurons may go; if not, one stays in any case.

    Returns:
        Current positions, ascending.
    """
    idle = _idle(mlp.out, constant_activation(mlp), 1)
    return idle.nonzero().flatten().tolist()[int(idle.all() and not empty) :]


def constant_context(attention: Attention) -> Tensor:
    """Return the constant values of the channels before O, nan where they depend on the input: `[heads * head_dim]`.

    Attention weights sum to 1 (in expectation if dropout is applied to them), so a channel whose value weights are all
    zero equals its value bias.
    """
    v = attention.v
    bias = v.weight.new_zeros(len(v.weight)) if v.bias is None else v.bias
    channels = bias.masked_fill((v.weight != 0).any(1), torch.nan).unflatten(0, (-1, attention.head_dim))
    return channels.repeat_interleave(attention.groups, 0).flatten()


def constant_activation(mlp: Mlp) -> Tensor:
    """Return the constant activations of the neurons, nan where they depend on the input: `[width]`."""
    factors = torch.stack([_constant_output(projection) for projection in mlp.ins])
    unknown = factors[0].isnan()  # users' hooks on the activation, such as the Trainer's debug option, must not see nan
    factors[0] = mlp.activation(factors[0].masked_fill(unknown, 0)).masked_fill(unknown, torch.nan)
    return factors.prod(0).masked_fill((factors == 0).any(0), 0)


def constant_effect(out: Projection, constant: Tensor, channels: Tensor) -> Tensor:
    """Return the constant contribution of the given channels to the output of a projection.

    Args:
        out: Output projection `[d, channels]`.
        constant: Constant values of all its channels, nan where they depend on the input.
        channels: Channels to remove, int64; input-dependent ones must have no weight in `out`.

    Returns:
        `[d]`.
    """
    channels = channels.to(constant.device)
    return out.weight[:, channels] @ constant[channels].nan_to_num()


def _constant_output(projection: Projection) -> Tensor:
    """Return a projection's constant outputs, nan where they depend on the input: `[out]`."""
    weight, bias = projection.weight, projection.bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return bias.masked_fill((weight != 0).any(1), torch.nan)


def _idle(out: Projection, constant: Tensor, size: int) -> Tensor:
    """Mark the units of `size` channels that can be removed: bool `[units]`."""
    foldable = constant == 0 if out.bias is None else ~constant.isnan()
    silent = (out.weight == 0).all(0)
    return (foldable | silent).unflatten(0, (-1, size)).all(1)
