"""Settings of differentiable subset pruning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroprune.config.fields import Count, Positive, Schedule
from neuroprune.config.methods.base import PruningSettings


class DSPSettings(PruningSettings):
    """Differentiable subset pruning (Li et al. 2021): `heads` heads stay, chosen by learned scores.

    Every head has one score. In training a random mask over all heads, drawn from the scores, multiplies what heads
    pass on; it sums to `heads`, and sharpens to zeros and ones as a temperature falls. At the end the heads with the
    highest scores stay, the others are removed physically.
    """

    name: Literal["dsp"] = Field(default="dsp", description="The method.")
    version: Literal[1] = Field(default=1, description="Rises when the method's results change; not to be set.")
    heads: Count = Field(description="Heads that are left at the end, over all layers together.")
    stage: Literal["joint", "pipelined"] = Field(
        default="joint",
        description="Train weights and scores together, or the scores alone (of a model that is fine-tuned already).",
    )
    estimator: Literal["gumbel", "straight_through"] = Field(
        default="gumbel",
        description="Mask in training: a relaxed random choice, or the heads with the highest scores, without noise, "
        "with the gradient passed through.",
    )
    score_lr: Positive = Field(default=0.5, description="Learning rate of the scores; it decays linearly to 0.")
    start_temperature: Positive = Field(
        default=1000.0, description="Temperature of the relaxation in the beginning (paper: 1000 for BERT)."
    )
    end_temperature: Positive = Field(
        default=1e-8, description="Temperature at the end, where the mask is zeros and ones."
    )
    cooldown: Schedule = Field(
        default=0.68, description="Share of the steps over which the temperature falls, linearly in its logarithm."
    )
