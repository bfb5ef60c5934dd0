"""Gini coefficient and power-law tail of neuron degrees."""

from __future__ import annotations

import math
import warnings

import numpy as np

CANDIDATES = 25  # candidate starts of the tail
FEWEST = 50  # smallest tail that is fitted, in neurons
DIFFERENT = 10  # different values in such a tail
MOST = 5000  # largest number of fitted values; larger samples are reduced to evenly spaced quantiles
FOUND = ("exponent", "xmin", "tail_share", "versus_exponential", "p_exponential", "versus_lognormal", "p_lognormal")


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient: 0 if all values are equal, near 1 if a few values make up most of the sum.

    Args:
        values: Not negative, ``[values]``.

    Returns:
        Half the mean absolute difference between two values, divided by their mean; NaN if all values are 0.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    total, count = ordered.sum(), len(ordered)
    if total <= 0:
        return math.nan
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))


def tail(values: np.ndarray) -> dict[str, float]:
    """Fit a power law to the tail of a distribution; compare it with an exponential and a lognormal.

    The tail begins where the power law fits best (smallest Kolmogorov-Smirnov distance, Clauset et al. 2009), among 25
    quantiles. The comparisons are Vuong's likelihood-ratio tests as implemented in the package ``powerlaw``.

    Args:
        values: ``[values]``; zeros are left out because a power law excludes them.

    Returns:
        ``exponent``, ``xmin`` (where the tail begins), ``tail_share`` (of the values above zero), and for
        ``exponential`` and ``lognormal`` the normalised log-likelihood ratio ``versus_<name>`` (above 0: the power law
        fits better) with its two-sided ``p_<name>``. All NaN if there are too few values or too few different ones.
    """
    import powerlaw

    positive = np.sort(values[values > 0].astype(float))
    if len(positive) > MOST:
        positive = np.quantile(positive, np.linspace(0, 1, MOST))
    starts = _starts(positive)
    if len(starts) == 0:
        return dict.fromkeys(FOUND, math.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fits = [powerlaw.Fit(positive, xmin=start, verbose=False) for start in starts]
        best = min(fits, key=lambda fit: fit.power_law.D)
        found = {"exponent": best.power_law.alpha, "xmin": best.xmin, "tail_share": np.mean(positive >= best.xmin)}
        for name in ("exponential", "lognormal"):
            ratio, p = best.distribution_compare("power_law", name, normalized_ratio=True)
            found |= {f"versus_{name}": ratio, f"p_{name}": p}
    return {name: float(value) for name, value in found.items()}


def _starts(ordered: np.ndarray) -> list[float]:
    """Return candidate starts of the tail of ascending values: quantiles with enough distinct values above them."""
    if len(ordered) < FEWEST:
        return []
    starts = np.unique(ordered[np.linspace(0, len(ordered) - FEWEST, CANDIDATES).astype(int)])
    return [float(start) for start in starts if len(np.unique(ordered[ordered >= start])) >= DIFFERENT]
