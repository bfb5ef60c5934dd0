"""Weighted moments of a projection's input: means alone, or second moments, of which one triangle is stored."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

BAND = 128
"""Rows of a band. Narrower bands store and compute less below the diagonal, but their products are less efficient."""


class Means:
    """Weighted means of the input channels.

    Args:
        channels: Number of input channels.
        device: Device of the sums.
    """

    def __init__(self, channels: int, device: torch.device | None = None) -> None:
        self.sums = [torch.zeros(channels, device=device), torch.zeros(1, device=device)]
        """To be changed in place only. float32: weighted sum of each channel `[channels]`, sum of the weights `[1]`."""

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add tokens, as in `SecondMoments.add`."""
        x = x.float()
        weights = torch.ones_like(x[:, 0]) if weights is None else weights
        self.sums[0] += weights @ x
        self.sums[1] += weights.sum()

    def means(self) -> Tensor:
        """Return the weighted mean of every channel, float32 `[channels]`; 0 if it is not finite."""
        return _finite(self.sums[0] / self.sums[1])


class SecondMoments:
    """H = sum over tokens of w x x^T, with x = [input, 1], as bands of rows from the diagonal to the right.

    The matrix is symmetric. The bands contain little more than half of it, so that sums take about half of the time and
    memory of the full matrix.

    Args:
        channels: Number of input channels.
        device: Device of the sums.
    """

    def __init__(self, channels: int, device: torch.device | None = None) -> None:
        self._edges = list(pairwise([*range(0, channels, BAND), channels]))
        bands = [torch.zeros(last - first, channels - first + 1, device=device) for first, last in self._edges]
        self.sums = [*bands, torch.zeros(1, 1, device=device)]
        """To be changed in place only. float32 `[rows of the band, channels from its first row's diagonal on + 1]` with
        the constant last; then the sum of the weights `[1, 1]`."""

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add tokens.

        Args:
            x: `[tokens, channels]`.
            weights: float32 `[tokens]`, non-negative; None for all 1.
        """
        x = x.float()
        weights = torch.ones_like(x[:, 0]) if weights is None else weights
        for band, (first, last) in zip(self.sums[:-1], self._edges, strict=True):
            weighted = (x[:, first:last] * weights[:, None]).T
            band[:, :-1].addmm_(weighted, x[:, first:])
            band[:, -1] += weighted.sum(dim=1)
        self.sums[-1] += weights.sum()

    def means(self) -> Tensor:
        """Return the weighted mean of every channel, float32 `[channels]`; 0 if it is not finite."""
        totals = torch.cat([part[:, -1] for part in self.sums])
        return _finite(totals[:-1] / totals[-1])

    def matrix(self) -> Tensor:
        """Return H in full, float32 `[channels + 1, channels + 1]`, with the constant in the last row and column."""
        full = self.sums[0].new_empty(2 * self.sums[0].shape[1:])
        for part in self.sums:
            first, last = len(full) - part.shape[1], len(full) - part.shape[1] + part.shape[0]
            full[first:, first:last] = part.T
            full[first:last, first:] = part
        return full


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, posinf=0.0, neginf=0.0)
