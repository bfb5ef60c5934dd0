"""Entries of a method's report: sparsity, removed heads, and distances between heads; warning of a missed target."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from neuroprune.methods.hooks import Run
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Blocks
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import kept_units

MISSED = 1e-3
"""Difference between the reached and the target sparsity from which a target counts as missed."""

logger = logging.getLogger(__name__)


def warn_if_missed(run: Run, target: float, reason: str = "") -> None:
    """Log a warning at the end of a run if the model's sparsity differs from the target.

    Args:
        run: The run.
        target: Target sparsity, a fraction of the prunable weights.
        reason: End of the sentence.
    """
    found = measure_sparsity(run.model).weights
    if abs(found - target) > MISSED:
        text = "training ended at step %d with a sparsity of %.1f %% instead of %.1f %%%s"
        logger.warning(text, run.step, 100 * found, 100 * target, reason)


def reached(model: nn.Module) -> dict[str, Any]:
    """Return the reached sparsity and the numbers of removed heads and neurons."""
    found, kept = measure_sparsity(model), kept_units(model)
    return {
        "reached": found.weights,
        "heads_removed": sum(kept.dense_heads) - sum(map(len, kept.heads)),
        "neurons_removed": sum(kept.dense_neurons) - sum(map(len, kept.neurons)),
    }


def removed_heads(model: nn.Module) -> list[list[int]]:
    """Return the removed heads of each attention, as positions in the dense model."""
    return [units.removed() for units in kept_units(model).attentions]


def head_distances(blocks: Blocks) -> dict[str, float] | None:
    """Return the minimum and quartiles of the distances between heads of a layer; None if no layer has two heads."""
    found = []
    for attention in blocks.attentions:
        distance = heads.distances(attention)
        found.append(distance[torch.ones_like(distance, dtype=torch.bool).triu(diagonal=1)].cpu())
    values = torch.cat(found)
    if len(values) == 0:
        return None
    points = torch.quantile(values, torch.tensor([0.0, 0.25, 0.5, 0.75])).tolist()
    return dict(zip(("min", "q1", "median", "q3"), points, strict=True))
