"""Folds of a projection's removed input channels: by least squares into the remaining ones, or their means alone."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.pruning.blocks import Projection


def fold_solution(
    moments: Tensor, weight: Tensor, kept: Tensor, removed: Tensor, ridge: float, constant: bool
) -> tuple[Tensor, Tensor | None]:
    """Solve for the change of the kept channels' weights that best compensates for removed channels.

    D = (H[K, K] + ridge mean(diag H) I)^-1 H[K, R] W[:, R]^T minimises the weighted squared error of the output over
    the tokens used for H. For two equal channels, one of them kept, and ridge 0, D equals the removed channel's
    weights: the paper's merge.

    Args:
        moments: H, float `[channels + 1, channels + 1]`, second moments of the input, with the constant 1 in the last
            row and column.
        weight: W `[out, channels]` before the removal.
        kept: int64 `[K]`, channels to keep.
        removed: int64 `[R]`, channels to remove.
        ridge: Fraction of the channels' mean second moment that is added to the diagonal; > 0 unless H[K, K] has full
            rank. A ridge too small for the rounding errors in H is increased.
        constant: Whether a bias can absorb part of the error; otherwise the constant is left out of the system.

    Returns:
        The changes of the kept weights `[out, K]` and of the bias (`[out]` or None), in float64 if the device supports
        it.
    """
    dtype = torch.float32 if moments.device.type == "mps" else torch.float64
    last = torch.tensor([len(moments) - 1], device=kept.device)
    base = torch.cat([kept, last]) if constant else kept
    level = moments.diagonal()[:-1].to(dtype).mean().clamp_min(torch.finfo(torch.float32).tiny)
    target = moments[base[:, None], removed].to(dtype) @ weight[:, removed].to(dtype).T
    factor = _ridge_factor(moments, base, ridge * level, dtype)
    half = torch.linalg.solve_triangular(factor, target, upper=False)
    change = torch.linalg.solve_triangular(factor.T, half, upper=True).T
    return (change[:, :-1], change[:, -1]) if constant else (change, None)


def _ridge_factor(moments: Tensor, base: Tensor, ridge: Tensor, dtype: torch.dtype) -> Tensor:
    """Factorise H[base, base] + ridge I; multiply the ridge by ten until rounding errors no longer prevent it.

    The factor takes the place of the matrix, stored by columns as LAPACK requires, because copies of it would dominate
    the peak memory of runs with wide MLPs.
    """
    failed = torch.zeros((), dtype=torch.int32, device=moments.device)
    while True:
        factor = moments[base[:, None], base].to(dtype).T
        factor.diagonal().add_(ridge)
        torch.linalg.cholesky_ex(factor, out=(factor, failed))
        if not failed:
            return factor
        ridge = ridge * 10


@torch.no_grad()
def fold(projection: Projection, moments: Tensor, removed: Tensor, ridge: float) -> None:
    """Fold removed input channels of a projection, in place, into the remaining ones and into its bias, if any.

    Args:
        projection: An output projection; its removed columns are not changed and must be cut afterwards.
        moments: float32 `[channels + 1, channels + 1]`, see `fold_solution`; nothing is done if they are not finite
            because the run has diverged.
        removed: bool `[channels]`, true for input channels to be removed; nothing is done if there are none,
            or if there are no others and no bias.
        ridge: See `fold_solution`.
    """
    weight, bias = projection.weight, projection.bias
    kept, gone = (~removed).nonzero().flatten(), removed.nonzero().flatten()
    if not len(gone) or not (len(kept) or bias is not None) or not bool(moments.isfinite().all()):
        return
    change, shift = fold_solution(moments, weight, kept, gone, ridge, constant=bias is not None)
    weight[:, kept] += change.to(weight.dtype)
    if bias is not None and shift is not None:
        bias += shift.to(bias.dtype)


@torch.no_grad()
def fold_means(projection: Projection, means: Tensor, removed: Tensor) -> None:
    """Add what removed input channels contribute on average to a projection's bias, if any.

    Args:
        projection: An output projection.
        means: float32 `[channels]`, means of the input.
        removed: bool `[channels]`, true for input channels to be removed.
    """
    if projection.bias is not None:
        weight, bias = projection.weight, projection.bias
        bias.add_((weight[:, removed].float() @ means[removed]).to(bias.dtype))
