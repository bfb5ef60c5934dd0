"""Settings of CoFi."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from neuroprune.config.fields import Count, Fraction, Positive, Schedule, TargetSparsity
from neuroprune.config.methods.base import PruningSettings

MaskKind = Literal["hidden", "head", "head_layer", "intermediate", "mlp"]


class CoFiSettings(PruningSettings):
    """CoFi (Xia et al. 2022): learned masks on hidden dimensions, heads, neurons and whole layers.

    Each mask is a random gate (hard concrete) whose probability of being open is trained. A Lagrangian term is added to
    the loss: two multipliers times the difference between the expected sparsity and its target, and its square. The
    multipliers grow while the target is missed. The model is first fine-tuned without masks (until `start`). Then the
    target rises from 0 (over `warmup`). At `end` the masks are fixed, closed units are removed physically, and the
    smaller model is fine-tuned.
    """

    name: Literal["cofi"] = Field(default="cofi", description="The method.")
    version: Literal[1] = Field(default=1, description="Increases when the method's results change; do not set it.")
    sparsity: TargetSparsity = Field(
        description="Fraction of the weights of all attention (Q, K, V, O) and MLP matrices that is removed or zero "
        "at the end.",
    )
    schedule: Literal["fair", "published"] = Field(
        default="fair",
        description="`published`: the original updates of masks and multipliers, which overshoot and miss the target "
        "in short runs. `fair`: their learning rate is higher in shorter runs, the multipliers do not accumulate, and "
        "the final masks meet the target exactly with the help of zeroed single weights.",
    )
    masks: tuple[MaskKind, ...] = Field(
        default=("hidden", "head", "head_layer", "intermediate", "mlp"),
        min_length=1,
        description="Kinds of masks: hidden dimensions, heads, whole attentions, neurons, whole MLPs. A kind that an "
        "architecture does not support is left out, and the record says so. In a study, where lists define the grid, "
        "write a list of lists: `[[head, intermediate]]`.",
    )
    start: Schedule = Field(
        default=0.042,
        description="Fraction of the steps at which pruning starts (published: after 1 of 20 epochs, or 4 of "
        "100; 20 epochs of fine-tuning follow).",
    )
    warmup: Schedule = Field(
        default=0.083,
        description="Fraction of the steps, from `start` on, over which the target rises linearly from 0; in the fair "
        "schedule at least 60 % of the pruning stage.",
    )
    end: Schedule = Field(
        default=0.83,
        description="Fraction of the steps at which the masks are fixed; the smaller model is then fine-tuned.",
    )
    reg_lr: Positive = Field(
        default=0.01,
        description="Learning rate of masks and multipliers; the fair schedule scales it, see `mask_lr_steps`.",
    )
    mask_lr_steps: Count = Field(
        default=1000,
        description="Fair schedule: number of pruning steps for which `reg_lr` is intended; with fewer steps, the rate "
        "increases proportionally.",
    )
    final_lr: Positive = Field(
        default=1.0,
        description="Factor on the learning rate after the masks are fixed, re-warmed over 3 % of the steps.",
    )
    teacher: str | None = Field(
        default=None,
        min_length=1,
        description="Distillation: `run` for the model at `start`, or a folder with a dense model of the same kind, "
        "fine-tuned on the task, which is used from the first step. Its predictions replace the labels. Default: none, "
        "as in the paper's comparison.",
    )
    freeze_embeddings: bool = Field(
        default=True, description="Freeze the embeddings during the whole run, as published."
    )
    layer_share: Fraction = Field(
        default=0.9,
        description="Distillation: weight of the layer loss; the prediction loss has the remaining weight (published: "
        "0.9, 0.7 or 0.5).",
    )
    teacher_temperature: Positive = Field(
        default=2.0, description="Distillation: temperature of the softened predictions (published: 2)."
    )

    @property
    def removal(self) -> float:
        """Fraction of the steps, on average, before units are physically removed."""
        return self.end

    @model_validator(mode="after")
    def _schedule_fits(self) -> CoFiSettings:
        if self.teacher == "run" and self.start == 0:
            raise ValueError("teacher: run needs fine-tuning before pruning; set start above 0")
        if self.start + self.warmup > self.end:
            raise ValueError(f"start + warmup ({self.start + self.warmup:g}) must not be after end ({self.end:g})")
        if len(set(self.masks)) < len(self.masks):
            raise ValueError(f"masks lists a kind twice: {', '.join(self.masks)}")
        return self

    @model_serializer(mode="wrap")
    def _without_frozen_embeddings(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `freeze_embeddings` if true, so that settings from before it was added keep their hash."""
        return {key: value for key, value in serialize(self).items() if (key, value) != ("freeze_embeddings", True)}
