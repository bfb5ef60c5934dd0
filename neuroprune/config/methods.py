"""Settings of every pruning method.

The methods take these fields as keyword arguments, and a run's record repeats them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from neuroprune.config.fields import (
    TASK_KINDS,
    Count,
    Fraction,
    NotNegative,
    Positive,
    Schedule,
    Settings,
    TargetSparsity,
)
from neuroprune.pruning.defaults import EPS


class DenseSettings(Settings):
    """Plain fine-tuning: what the other methods are compared with."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    name: Literal["dense"] = Field(default="dense", description="The method.")


class EventSettings(Settings):
    """Settings of the removal events of the target form, the same in every method that has one."""

    start: Schedule = Field(
        default=1 / 3,
        description="Share of the steps at which the first event comes; earlier, scores know little of the task.",
    )
    end: Schedule = Field(
        default=1 / 2, description="Share of the steps at which the last event comes and the target is reached."
    )
    events: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="Events at which the target form prunes, spread evenly from start to end; a single large one can "
        "fail.",
    )
    post_lr: Positive = Field(
        default=2.0, description="Factor of the learning rate after the last event, re-warmed over 3 % of the steps."
    )
    freeze_embeddings: bool = Field(default=True, description="Leave the embeddings as they are after the last event.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_order()
        return self

    def _check_order(self) -> None:
        """Refuse events that end before they start."""
        if self.start > self.end:
            raise ValueError(f"start ({self.start:g}) must not be after end ({self.end:g})")


class L1Settings(EventSettings):
    """l1 pruning, the paper's baseline for T5 and OPT, in two forms: give `sparsity` or `strength`."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    name: Literal["l1"] = Field(default="l1", description="The method.")
    version: Literal[1] = Field(default=1, description="Rises when the method's results change; not to be set.")
    sparsity: TargetSparsity | None = Field(
        default=None, description="Target form: this share of the prunable weights, the smallest, is zero at the end."
    )
    strength: Positive | None = Field(
        default=None, description="Penalty form: factor of the l1 norm in the loss (paper: 1e-7 to 1e-1)."
    )
    mode: Literal["coupled", "decoupled"] = Field(
        default="coupled",
        description="Penalty form: its gradient goes through the optimizer (the paper's letter), or a proximal step "
        "follows the optimizer's.",
    )
    eps: Positive = Field(default=EPS, description="Penalty form: an entry below this counts as absent at the end.")
    penalty_start: Schedule = Field(
        default=0.0,
        description="Penalty form: share of the steps before the penalty begins; the paper's translation models train "
        "half of their epochs without it.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.sparsity is None) == (self.strength is None):
            raise ValueError("give exactly one of sparsity (a target) and strength (the penalty)")
        self._check_order()
        return self

    @property
    def form(self) -> Literal["target", "penalty"]:
        """Which of the two forms these settings ask for."""
        return "penalty" if self.sparsity is None else "target"


_LATER_DEFAULTS = (("algorithm", "connectivity"), ("layout", "free"), ("multiple_of", 1))


class NeuroPruneSettings(EventSettings):
    """NeuroPrune in two forms: `sparsity` or `heads` ask for a target; `alpha`, `beta`, `theta` are the penalty."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    name: Literal["neuroprune"] = Field(default="neuroprune", description="The method.")
    version: Literal[2] = Field(default=2, description="Rises when the method's results change; not to be set.")
    algorithm: Literal["connectivity", "penalties"] = Field(
        default="connectivity",
        description="Algorithm that meets `sparsity`: `connectivity`, this project's own removal events by functional "
        "connectivity, or `penalties`, the paper's, with strengths that are regulated during training.",
    )
    # ---- target form
    sparsity: TargetSparsity | None = Field(
        default=None,
        description="Target form: this share of the weights of all attention (Q, K, V, O) and MLP matrices of the "
        "dense model is gone or zero at the end.",
    )
    heads: Count | None = Field(
        default=None,
        description="Target form: exactly so many heads are left at the end, over all layers together (at least one in "
        "each); alone, or beside `sparsity`, which the MLPs then complete.",
    )
    layout: Literal["free", "uniform"] = Field(
        default="free",
        description="Target form: `free` lets each layer keep its own number of heads and neurons. `uniform` keeps the "
        "same number in all layers, so that the model has a plain configuration and loads without this package; heads "
        "stay where the configuration can't give their number apart from the hidden size (BERT, BART, OPT, GPT-2).",
    )
    multiple_of: Count = Field(
        default=1, description="Uniform layout: the number of neurons of a layer is a multiple of this, such as 64."
    )
    calibration_rows: Count = Field(
        default=256,
        description="Target form: training rows before each event that measure what flows through a unit; few give "
        "noisy scores and folds. A step with them costs about half as long again.",
    )
    ridge: Positive = Field(default=0.01, description="Target form: ridge of the least-squares fold.")
    min_share: Fraction = Field(
        default=0.01, description="Target form: share of its neurons that a layer keeps at least."
    )
    fold: bool = Field(default=True, description="Target form: fold what removed units did into those that remain.")
    centred: bool = Field(
        default=True,
        description="Target form: connectivity counts what a unit does beyond its mean, which the fold puts into a "
        "bias; without the fold, or where there is no bias, it counts the whole.",
    )
    token_weights: bool = Field(
        default=True, description="Target form: weigh tokens in the fold by how much the loss depends on them."
    )
    # ---- penalty form
    alpha: NotNegative | None = Field(
        default=None, description="Penalty form: strength of the MLP penalty, Eq. 1 (paper: 1e-7 to 1e-1)."
    )
    beta: NotNegative | None = Field(
        default=None, description="Penalty form: strength of the attention penalty, Eq. 2 (paper: 1e-7 to 1e-1)."
    )
    theta: NotNegative | None = Field(
        default=None,
        description="Penalty form: heads whose weights differ by at most this everywhere are redundant (paper: 0.15 to "
        "0.25); it scales with the model's weights.",
    )
    mode: Literal["coupled", "decoupled"] = Field(
        default="coupled",
        description="Penalty form: the gradient goes through the optimizer (the paper's letter), or a proximal step "
        "follows the optimizer's, as AdamW does for decay; short runs need the second.",
    )
    eps: Positive = Field(default=EPS, description="Penalty form: an entry below this counts as absent (paper: 1e-4).")
    penalty_start: Schedule = Field(
        default=0.0,
        description="Penalty form: share of the steps before the penalty begins; no head is merged "
        "earlier either (paper: half of the epochs in translation, else 0).",
    )
    degree_weight: Literal["inverse", "missing", "none"] = Field(
        default="inverse",
        description="Penalty form: weight of a neuron's penalty, 1 / connectivity or 1 - connectivity (two readings); "
        "or 1 for all, which is l1 without preferential attachment.",
    )
    merge: Literal["output", "mlp_in", "none"] = Field(
        default="output",
        description="Penalty form: where a redundant head's contribution goes: into the output projection of the head "
        "that stays, into the MLP's input columns (the paper's letter), or nowhere.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm == "penalties":
            self._check_regulated()
        else:
            self._check_one_form()
            self._check_order()
        self._check_layout()
        return self

    def _check_one_form(self) -> None:
        penalty = [name for name in ("alpha", "beta", "theta") if getattr(self, name) is not None]
        target = [name for name in ("sparsity", "heads") if getattr(self, name) is not None]
        if target and penalty:
            raise ValueError(
                f"give either {' and '.join(target)} (a target) or {', '.join(penalty)} (the penalty), not both"
            )
        if not target and not penalty:
            raise ValueError(
                "give sparsity or heads (a target), or at least one of alpha, beta and theta (the penalty)"
            )

    def _check_layout(self) -> None:
        if self.layout == "uniform" and (self.heads is not None or self.form != "target"):
            raise ValueError("layout: uniform needs sparsity alone (algorithm: connectivity); leave the others out")
        if self.layout == "free" and self.multiple_of != 1:
            raise ValueError("multiple_of needs layout: uniform")

    def _check_regulated(self) -> None:
        if self.sparsity is None:
            raise ValueError("algorithm: penalties is regulated towards a target; give sparsity")
        if self.heads is not None:
            raise ValueError("algorithm: penalties can't be asked for a number of heads; give theta instead of heads")
        if self.penalty_start >= self.end:
            raise ValueError(
                f"algorithm: penalties needs penalty_start below end ({self.end:g}), where the target is reached"
            )
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("algorithm: penalties regulates alpha and beta; at least one must be above 0")

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out defaults of settings that came later, so that settings from before them keep their hash."""
        return {key: value for key, value in serialize(self).items() if (key, value) not in _LATER_DEFAULTS}

    @property
    def form(self) -> Literal["target", "penalty", "regulated"]:
        """Which algorithm these settings ask for: FC, the paper's penalties, or penalties with regulated strengths."""
        if self.algorithm == "penalties":
            return "regulated"
        return "penalty" if self.sparsity is None and self.heads is None else "target"


class UnitSettings(EventSettings):
    """Removal of whole heads and neurons at the same events as NeuroPrune's target form."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    sparsity: TargetSparsity = Field(
        description="This share of the weights of all attention (Q, K, V, O) and MLP matrices of the dense model is "
        "gone or zero at the end."
    )
    min_share: Fraction = Field(default=0.01, description="Share of its neurons that a layer keeps at least.")

    @property
    def form(self) -> Literal["target"]:
        """There is one form: the target."""
        return "target"


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


class DSPSettings(Settings):
    """Differentiable subset pruning (Li et al. 2021): `heads` heads stay, chosen by learned scores.

    Every head has one score. In training a random mask over all heads, drawn from the scores, multiplies what heads
    pass on; it sums to `heads`, and sharpens to zeros and ones as a temperature falls. At the end the heads with the
    highest scores stay, the others are removed physically.
    """

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
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

    @property
    def form(self) -> Literal["target"]:
        """There is one form: the target."""
        return "target"


MaskKind = Literal["hidden", "head", "head_layer", "intermediate", "mlp"]


class CoFiSettings(Settings):
    """CoFi (Xia et al. 2022): learned masks on hidden dimensions, heads, neurons and whole layers.

    Each mask is a random gate (hard concrete) whose chance to be open is trained. The loss gains two multipliers times
    the difference between the expected sparsity and its target, and its square; the multipliers rise for as long as the
    target is missed. First comes plain fine-tuning (until `start`), then the target rises from 0 (over `warmup`), and
    from `end` on the masks are fixed, what they close is removed physically, and the smaller model is fine-tuned.
    """

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    name: Literal["cofi"] = Field(default="cofi", description="The method.")
    version: Literal[1] = Field(default=1, description="Rises when the method's results change; not to be set.")
    sparsity: TargetSparsity = Field(
        description="Share of the weights of all attention (Q, K, V, O) and MLP matrices that is gone at the end."
    )
    schedule: Literal["fair", "published"] = Field(
        default="fair",
        description="`published`: the original's masks and multipliers, which wind up in runs of few steps and miss "
        "the target. `fair`: their learning rate grows as steps get fewer, the multipliers can't wind up, and the "
        "masks that are taken in the end meet the target, topped up with the smallest single weights.",
    )
    masks: tuple[MaskKind, ...] = Field(
        default=("hidden", "head", "head_layer", "intermediate", "mlp"),
        min_length=1,
        description="Kinds of masks: hidden dimensions, heads, whole attentions, neurons, whole MLPs. A kind that an "
        "architecture does not have is left out, and the record says so. In a study, where a list is an axis of the "
        "grid, a list of lists: `[[head, intermediate]]`.",
    )
    start: Schedule = Field(
        default=0.042,
        description="Share of the steps at which pruning starts (published: 1 of 20 epochs, and 4 of 100, before 4 and "
        "20 final ones).",
    )
    warmup: Schedule = Field(
        default=0.083,
        description="Share of the steps, from `start` on, over which the target rises linearly from 0; in the fair "
        "schedule at least 60 % of the pruning stage.",
    )
    end: Schedule = Field(
        default=0.83, description="Share of the steps at which the masks are fixed; then the smaller model trains on."
    )
    reg_lr: Positive = Field(
        default=0.01, description="Learning rate of masks and multipliers; the fair schedule scales it, see there."
    )
    mask_lr_steps: Count = Field(
        default=1000,
        description="Fair schedule: steps of pruning for which `reg_lr` is meant; with fewer it grows in proportion.",
    )
    final_lr: Positive = Field(
        default=1.0,
        description="Factor of the learning rate after the masks are fixed, re-warmed over 3 % of the steps.",
    )
    teacher: str | None = Field(
        default=None,
        min_length=1,
        description="Distillation: `run`, the model as it is at `start`; or a folder with a dense model of the same "
        "kind, fine-tuned on the task, which teaches from the first step. Its answers then take the labels' place. "
        "Default: none, as the paper compares.",
    )
    freeze_embeddings: bool = Field(
        default=True, description="Leave the embeddings as they are during the whole run, as published."
    )
    layer_share: Fraction = Field(
        default=0.9,
        description="Distillation: share of the layers' loss, the rest is that of the predictions (published: 0.9, 0.7 "
        "or 0.5).",
    )
    teacher_temperature: Positive = Field(
        default=2.0, description="Distillation: predictions are softened by it (published: 2)."
    )

    @model_validator(mode="after")
    def _schedule_fits(self) -> CoFiSettings:
        if self.teacher == "run" and self.start == 0:
            raise ValueError("teacher: run needs fine-tuning before pruning: let start be above 0")
        if self.start + self.warmup > self.end:
            raise ValueError(f"start + warmup ({self.start + self.warmup:g}) must not be after end ({self.end:g})")
        if len(set(self.masks)) < len(self.masks):
            raise ValueError(f"masks names a kind twice: {', '.join(self.masks)}")
        return self

    @model_serializer(mode="wrap")
    def _without_frozen_embeddings(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `freeze_embeddings` while it is true, so that settings from before it keep their hash."""
        return {key: value for key, value in serialize(self).items() if (key, value) != ("freeze_embeddings", True)}

    @property
    def form(self) -> Literal["target"]:
        """There is one form: the target."""
        return "target"


METHOD_SETTINGS: dict[str, type[Settings]] = {
    "dense": DenseSettings,
    "l1": L1Settings,
    "neuroprune": NeuroPruneSettings,
    "cofi": CoFiSettings,
    "dsp": DSPSettings,
    "taylor": TaylorSettings,
    "random": RandomUnitsSettings,
}
MethodSettings = Annotated[
    DenseSettings | L1Settings | NeuroPruneSettings | CoFiSettings | DSPSettings | TaylorSettings | RandomUnitsSettings,
    Field(discriminator="name"),
]
