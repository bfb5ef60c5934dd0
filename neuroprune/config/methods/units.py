"""Settings of the methods that remove whole heads and neurons by a score."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroprune.config.fields import Count, Fraction, TargetSparsity
from neuroprune.config.methods.base import EventSettings


class UnitSettings(EventSettings):
    """Removal of whole heads and neurons at the same events as NeuroPrune's target form."""

    sparsity: TargetSparsity = Field(
        description="This share of the weights of all attention (Q, K, V, O) and MLP matrices of the dense model is "
        "gone or zero at the end."
    )
    min_share: Fraction = Field(default=0.01, description="Share of its neurons that a layer keeps at least.")


class TaylorSettings(UnitSettings):
    """First-order structured pruning: heads and neurons go by the sum of |w dL/dw| over their weights.

    The same events, budget and learning rates as NeuroPrune's target form, without its fold: what the topology adds
    shows in the difference.
    """

    name: Literal["taylor"] = Field(default="taylor", description="The method.")
    version: Literal[1] = Field(default=1, description="Rises when the method's results change; not to be set.")
    calibration_rows: Count = Field(
        default=256,
        description="Training rows before each event whose steps' gradients are summed up to scores, in whole steps.",
    )


class RandomUnitsSettings(UnitSettings):
    """Random structured removal: which heads and neurons go is drawn, all with the same chance.

    The same events, budget and learning rates as NeuroPrune's target form: the level that a score has to beat.
    """

    name: Literal["random"] = Field(default="random", description="The method.")
    version: Literal[1] = Field(default=1, description="Rises when the method's results change; not to be set.")
