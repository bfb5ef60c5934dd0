"""Hard-concrete gates (Louizos et al. 2018) with CoFi's constants: random values in [0, 1], often exactly 0 or 1.

Each gate has one parameter, log alpha; larger values make an open gate more likely.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOW, HIGH = -0.1, 1.1  # range of the stretched sigmoid before clipping to [0, 1]
TEMPERATURE = 2 / 3
EPSILON = 1e-6
SHARPNESS = 0.8  # factor of log alpha in evaluation
LIMIT = math.log(100)  # bound on the absolute value of log alpha


def draw(log_alpha: Tensor) -> Tensor:
    """Draw gates: u ~ U(eps, 1 - eps), s = sigmoid((logit u + log alpha) / T), z = stretched s clipped to [0, 1].

    Args:
        log_alpha: Any shape.

    Returns:
        The same shape, differentiable with respect to `log_alpha` where the gate is neither 0 nor 1.
    """
    uniform = torch.rand_like(log_alpha) * (1 - 2 * EPSILON) + EPSILON
    sigmoid = ((uniform.logit() + log_alpha) / TEMPERATURE).sigmoid()
    return (sigmoid * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return the probability that a gate is not exactly 0: 1 - sigmoid(T log(-LOW / HIGH) - log alpha)."""
    closed = (TEMPERATURE * math.log(-LOW / HIGH) - log_alpha).sigmoid()
    return 1 - closed.clamp(EPSILON, 1 - EPSILON)


def evaluation_gates(log_alpha: Tensor, shift: float = 0.0) -> Tensor:
    """Return the gates without noise: the expected number of zeros, and sigmoid(0.8 log alpha / T) for the others.

    Args:
        log_alpha: `[gates]`: the gates among which zeros are chosen, smallest first.
        shift: Added to log alpha for counting zeros, but not in the returned values.

    Returns:
        `[gates]`, without gradient.
    """
    log_alpha = log_alpha.detach()
    gates = (log_alpha * SHARPNESS / TEMPERATURE).sigmoid()
    zeros = round(len(gates) - float(open_probability(log_alpha + shift).sum()))
    gates[log_alpha.topk(zeros, largest=False).indices] = 0
    return gates
