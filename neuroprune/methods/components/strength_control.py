"""Regulation of the penalties' strengths: a factor on alpha and beta that leads a run to a target sparsity.

This project's addition to the paper, whose strengths have to be found by a search for every sparsity. The share of
absent weights is measured while the model trains, and a proportional-integral controller changes the logarithm of one
common factor, so that the ratio of alpha and beta stays as it was given.
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
"""Change of log factor per unit of error, and its growth per unit of error and measurement."""
LARGEST_LOG = 9.0
"""Bound on the absolute log factor (a factor of 8,000), so that an unreachable target can't overflow."""
ABSENT_RATES = 2.0
"""Entries below this many learning rates count as absent: a penalised entry oscillates about zero by one Adam step."""


@dataclass
class StrengthControl:
    """Proportional-integral control of the penalties' common factor.

    Args:
        target: Share of the prunable weights that is to be absent at the end, between 0 and 1.
        start: Share of the steps at which the ramp of the wanted share begins.
        end: Share of the steps at which it reaches the target; later the target is held.
        factor: The current factor.
        integral: The accumulated part of the log factor.
    """

    target: float
    start: float
    end: float
    factor: float = 1.0
    integral: float = 0.0

    def wanted(self, progress: float) -> float:
        """Return the share of absent weights wanted after a share `progress` of the steps: a linear ramp."""
        if progress >= self.end:
            return self.target
        return self.target * max(0.0, (progress - self.start) / (self.end - self.start))

    def update(self, progress: float, absent: float) -> None:
        """Change the factor after a measurement.

        Args:
            progress: Share of the steps that are done.
            absent: Measured share of absent weights.
        """
        error = self.wanted(progress) - absent
        self.integral = _bounded(self.integral + INTEGRAL * error)
        self.factor = math.exp(_bounded(PROPORTIONAL * error + self.integral))

    def state_dict(self) -> dict[str, float]:
        """Return the state that a resumed run restores."""
        return {"target": self.target, "factor": self.factor, "integral": self.integral}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.target, self.factor, self.integral = (float(state[name]) for name in ("target", "factor", "integral"))


def absence_threshold(eps: float, rate: float) -> float:
    """Return the absolute value below which an entry counts as absent at a learning rate.

    Args:
        eps: The paper's threshold, which counts at the end.
        rate: The current learning rate; an entry that only the penalty moves stays within about this of zero.

    Returns:
        The larger of `eps` and `ABSENT_RATES` learning rates.
    """
    return max(eps, ABSENT_RATES * rate)


@torch.no_grad()
def absent_entries(projections: Sequence[Projection], threshold: float) -> int:
    """Return how many entries of the projections' weights have an absolute value below `threshold`."""
    if not projections:
        return 0
    counts = [(projection.weight.abs() < threshold).sum() for projection in projections]
    return int(torch.stack([count.to(counts[0].device) for count in counts]).sum())


def _bounded(value: float) -> float:
    return max(-LARGEST_LOG, min(LARGEST_LOG, value))
