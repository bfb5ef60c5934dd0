"""Settings of differentiable subset pruning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroprune.config.fields import Count, Positive, Schedule
from neuroprune.config.methods.base import PruningSettings


class DSPSettings(PruningSettings):
    """Differentiable subset pruning (Li et al. 2021): `heads` heads remain, chosen by learned scores.

    Every head has one score. In training, the outputs of the heads are multiplied by a random mask drawn from the
    scores. It sums to `heads` and sharpens to zeros and ones as a temperature falls. At the end the heads with the
    highest scores are kept, and the others are removed physically.
    """

    name: Literal["dsp"] = Field(default="dsp", description="The method.")
    version: Literal[1] = Field(default=1, description="Increases when the method's results change; do not set it.")
    heads: Count = Field(description="Number of heads that remain at the end, in all layers together.")
    stage: Literal["joint", "pipelined"] = Field(
        default="joint",
        description="Train weights and scores together, or only the scores (of a model that is already fine-tuned).",
    )
    estimator: Literal["gumbel", "straight_through"] = Field(
        default="gumbel",
        description="Mask in training: a relaxed random subset, or the heads with the highest scores without noise and "
        "with a straight-through gradient.",
    )
    score_lr: Positive = Field(default=0.5, description="Learning rate of the scores; it decays linearly to 0.")
    start_temperature: Positive = Field(
        default=1000.0, description="Initial temperature of the relaxation (paper: 1000 for BERT)."
    )
    end_temperature: Positive = Field(
        default=1e-8, description="Final temperature, at which the mask consists of zeros and ones."
    )
    cooldown: Schedule = Field(
        default=0.68, description="Fraction of the steps over which the temperature falls, linearly in its logarithm."
    )
