"""Fine-tuning settings shared by all methods."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from neuroprune.config.fields import Count, Epochs, NotNegative, Positive, Processes, Rows, Settings, Threads


class TrainingSettings(Settings):
    """Settings of fine-tuning, which are the same for all compared methods."""

    LATER: ClassVar[tuple[str, ...]] = (
        "processes",
        "accumulation",
        "gradient_checkpointing",
        "optimizer",
        "budget",
        "linear_probe",
    )

    epochs: Epochs = Field(default=3.0, description="Passes over the training rows; the paper uses 1 to 5.")
    budget: Literal["epochs", "dense_flops"] = Field(
        default="epochs",
        description="End of training: after `epochs`, or when the run has used as many floating-point operations "
        "as `epochs` of dense fine-tuning. A pruned model then trains for more steps; events stay at their steps.",
    )
    batch_size: Rows = Field(default=32, description="Rows per step.")
    learning_rate: Positive = Field(default=1e-4, description="Peak of the learning rate; it decays linearly to 0.")
    weight_decay: NotNegative = Field(default=0.0, description="Weight decay; AdamW's is decoupled.")
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.06, description="Fraction of the steps in which the learning rate rises from 0."
    )
    max_grad_norm: Positive = Field(default=1.0, description="Gradients are clipped to this l2 norm.")
    linear_probe: bool = Field(
        default=False,
        description="Fit the last linear layer of the classification head before training, by logistic regression on "
        "the frozen model's features of at most 1,000 training rows; its time counts as training. It applies to "
        "every method, but not to text answers.",
    )
    freeze_embeddings: bool = Field(
        default=False, description="Freeze the embeddings in every method, including dense fine-tuning."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Arithmetic of the forward and backward pass; `auto` is bf16 on GPUs that support it, else fp32.",
    )
    threads: Threads = Field(
        default=1, description="CPU threads per process; equal for all runs, so that times are comparable."
    )
    processes: Processes = Field(
        default=1,
        description="Processes that train a model together, each with its part of a step's rows: one per GPU, or "
        "`threads` CPU threads each. The result equals that of a single process up to rounding and dropout.",
    )
    accumulation: Count = Field(
        default=1,
        description="Forward and backward passes per step in each process, to save memory. The gradient equals that of "
        "one pass up to rounding and dropout.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass instead of storing them, which saves much memory and "
        "takes about a third more time.",
    )
    optimizer: Literal["adamw", "adafactor", "sgd"] = Field(
        default="adamw",
        description="AdamW stores two numbers per weight, Adafactor (without momentum, at a fixed learning rate) "
        "hardly any, SGD none; each needs its own learning rate.",
    )
    evaluate: Literal["epoch", "end"] = Field(
        default="end", description="Evaluate after every epoch or once at the end; its time is recorded separately."
    )
    deterministic: bool = Field(default=False, description="Reject non-deterministic operations; slower on GPUs.")

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer settings with default values, so that earlier runs keep their hash."""
        plain = {name: type(self).model_fields[name].default for name in self.LATER}
        return {key: value for key, value in serialize(self).items() if key not in plain or value != plain[key]}

    @property
    def parts(self) -> int:
        """Number of parts into which a step's rows are split."""
        return self.processes * self.accumulation
