"""Feedback control of penalty strengths: a common factor on alpha and beta steers a run to a target sparsity.

An addition to the paper, in which strengths must be searched for every sparsity. The fraction of absent weights is
measured during training, and a proportional-integral controller adjusts the logarithm of a common factor, so that the
ratio of alpha to beta remains as given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuroprune.pruning.blocks import Projection

EVERY = 10
"""Optimizer steps between two measurements."""
PROPORTIONAL, INTEGRAL = 5.0, 0.25
"""Proportional gain per unit of error, and integral gain per unit of error and measurement, of the log factor."""
LARGEST_LOG = 9.0
"""Bound on the absolute log factor (a factor of 8,000), so that an unreachable target can't overflow."""
ABSENT_RATES = 2.0
"""Entries below this many learning rates count as absent, because Adam makes penalised entries oscillate about zero."""


@dataclass
class StrengthControl:
    """Proportional-integral control of the penalties' common factor.

    Args:
        target: Target fraction of absent prunable weights at the end, between 0 and 1.
        start: Fraction of the steps at which the ramp of the wanted fraction starts.
        end: Fraction of the steps at which the ramp reaches the target, which is then held.
        factor: The current factor.
        integral: The accumulated part of the log factor.
    """

    target: float
    start: float
    end: float
    factor: float = 1.0
    integral: float = 0.0

    def wanted(self, progress: float) -> float:
        """Return the wanted fraction of absent weights at a fraction `progress` of the steps: a linear ramp."""
        if progress >= self.end:
            return self.target
        return self.target * max(0.0, (progress - self.start) / (self.end - self.start))

    def update(self, progress: float, absent: float) -> None:
        """Update the factor after a measurement.

        Args:
            progress: Completed fraction of the steps.
            absent: Measured fraction of absent weights.
        """
        error = self.wanted(progress) - absent
        self.integral = _bounded(self.integral + INTEGRAL * error)
        self.factor = math.exp(_bounded(PROPORTIONAL * error + self.integral))

    def state_dict(self) -> dict[str, float]:
        """Return the state for resuming a run."""
        return {"target": self.target, "factor": self.factor, "integral": self.integral}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.target, self.factor, self.integral = (float(state[name]) for name in ("target", "factor", "integral"))


def absence_threshold(eps: float, rate: float) -> float:
    """Return the absolute value below which an entry counts as absent at a given learning rate.

    Args:
        eps: The paper's threshold, which is used at the end.
        rate: The current learning rate; entries moved only by the penalty stay within about this distance of zero.

    Returns:
        The larger of `eps` and `ABSENT_RATES` learning rates.
    """
    return max(eps, ABSENT_RATES * rate)


@torch.no_grad()
def absent_entries(projections: Sequence[Projection], thresholds: Sequence[float]) -> int:
    """Count the entries of the projections' weights with an absolute value below the projection's threshold."""
    if not projections:
        return 0
    pairs = zip(projections, thresholds, strict=True)
    counts = [(projection.weight.abs() < threshold).sum() for projection, threshold in pairs]
    return int(torch.stack([count.to(counts[0].device) for count in counts]).sum())


def _bounded(value: float) -> float:
    return max(-LARGEST_LOG, min(LARGEST_LOG, value))
