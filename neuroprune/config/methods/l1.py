"""Settings of l1 pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from neuroprune.config.fields import Positive, Schedule, TargetSparsity
from neuroprune.config.methods.base import EVENTS, EventSettings
from neuroprune.pruning.defaults import EPS


class L1Settings(EventSettings):
    """l1 pruning, the paper's baseline for T5 and OPT, in two forms: specify `sparsity` or `strength`."""

    name: Literal["l1"] = Field(default="l1", description="The method.")
    version: Literal[1, 2] = Field(default=2, description="Increases when the method's results change; do not set it.")
    sparsity: TargetSparsity | None = Field(
        default=None,
        description="Target form: fraction of the prunable weights (the smallest) that is zero at the end.",
    )
    strength: Positive | None = Field(
        default=None, description="Penalty form: factor on the l1 norm in the loss (paper: 1e-7 to 1e-1)."
    )
    mode: Literal["coupled", "decoupled"] = Field(
        default="coupled",
        description="Penalty form: `coupled` passes its gradient through the optimizer, as in the paper; `decoupled` "
        "takes a proximal step after the optimizer's.",
    )
    eps: Positive = Field(
        default=EPS, description="Penalty form: entries below this absolute value count as absent at the end."
    )
    penalty_start: Schedule = Field(
        default=0.0,
        description="Penalty form: fraction of the steps before the penalty begins; the paper's translation models "
        "train half of their epochs without it.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.sparsity is None) == (self.strength is None):
            raise ValueError("specify exactly one of sparsity (a target) and strength (the penalty)")
        self._check_order()
        if self.form == "target":
            self._refuse(("mode", "eps", "penalty_start"), "with sparsity (a target)")
        else:
            self._refuse(EVENTS, "with strength (the penalty)")
        return self

    @classmethod
    def has_events(cls, values: Mapping[str, Any]) -> bool:
        """Return whether the settings have a target."""
        return values.get("sparsity") is not None

    @property
    def form(self) -> Literal["target", "penalty"]:
        """The form selected by the settings."""
        return "penalty" if self.sparsity is None else "target"
