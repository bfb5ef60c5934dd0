"""Differentiable random subsets of a fixed size: Gumbel top-k with a temperature, and straight-through top-k."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gumbel_top_k(scores: Tensor, count: int, temperature: float) -> Tensor:
    """Draw a relaxed random subset as the sum of `count` softmaxes, each excluding earlier choices.

    Args:
        scores: float64 `[units]`; a unit with a higher score is chosen more often.
        count: Size of the subset, 1 to the number of units.
        temperature: > 0; values near 0 give a mask close to zeros and ones.

    Returns:
        `[units]`, with sum `count`, in [0, 1] near temperature 0, differentiable with respect to `scores`.
    """
    if count == len(scores):
        return torch.ones_like(scores)
    tiny = torch.finfo(scores.dtype).tiny
    uniform = torch.rand_like(scores).clamp_min(tiny)
    keys = scores - (-uniform.log()).clamp_min(tiny).log()
    mask, chosen = torch.zeros_like(scores), torch.zeros_like(scores)
    for _ in range(count):
        keys = keys + (1 - chosen).clamp_min(tiny).log()
        chosen = (keys / temperature).softmax(dim=0)
        mask = mask + chosen
    return mask


def top_k(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` highest scores with 1, the others with 0.

    Args:
        scores: `[units]`.
        count: 1 to the number of units.

    Returns:
        `[units]` of the same type, without gradient.
    """
    return torch.zeros_like(scores).detach().index_fill(0, scores.detach().topk(count).indices, 1.0)


def straight_through_top_k(scores: Tensor, count: int) -> Tensor:
    """Apply `top_k` with a straight-through gradient, as if the mask were the scores."""
    return top_k(scores, count) + (scores - scores.detach())


def log_linear(step: int, steps: float, first: float, last: float) -> float:
    """Return a temperature whose logarithm decreases linearly.

    Args:
        step: Completed steps.
        steps: Steps after which `last` is reached; 0 for immediately.
        first: Temperature at step 0.
        last: Temperature from `steps` on.

    Returns:
        The temperature.
    """
    share = min(1.0, step / steps) if steps else 1.0
    return math.exp(math.log(first) - share * (math.log(first) - math.log(last)))
