"""Settings of the methods that remove whole heads and neurons by a score."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroprune.config.fields import Count, Fraction, TargetSparsity
from neuroprune.config.methods.base import EventSettings


class UnitSettings(EventSettings):
    """Removal of whole heads and neurons at the same events as NeuroPrune's target form."""

    sparsity: TargetSparsity = Field(
        description="Fraction of the weights of all attention (Q, K, V, O) and MLP matrices of the dense model that is "
        "removed or zero at the end."
    )
    min_share: Fraction = Field(
        default=0.01,
        description="Minimum fraction of its neurons that each layer keeps. With 0, a layer may lose all its neurons "
        "or all its heads, and they are skipped.",
    )

    @property
    def removal(self) -> float:
        """Fraction of the steps, on average, before units are physically removed."""
        return self.mean_event


class TaylorSettings(UnitSettings):
    """First-order structured pruning: heads and neurons are ranked by the sum of |w dL/dw| over their weights.

    Events, budget and learning rates are those of NeuroPrune's target form, but there is no fold.
    """

    name: Literal["taylor"] = Field(default="taylor", description="The method.")
    version: Literal[1, 2] = Field(default=2, description="Increases when the method's results change; do not set it.")
    calibration_rows: Count = Field(
        default=256,
        description="Training rows before each event whose gradients are summed to scores, rounded to whole steps.",
    )


class RandomUnitsSettings(UnitSettings):
    """Random structured removal: heads and neurons are removed with equal probability.

    Events, budget and learning rates are those of NeuroPrune's target form; every score has to exceed it.
    """

    name: Literal["random"] = Field(default="random", description="The method.")
    version: Literal[1, 2] = Field(default=2, description="Increases when the method's results change; do not set it.")
