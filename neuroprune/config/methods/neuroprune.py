"""Settings of NeuroPrune's three algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from neuroprune.config.fields import Count, Fraction, NotNegative, Positive, Schedule, TargetSparsity
from neuroprune.config.methods.base import EVENTS, EventSettings, NewDefault
from neuroprune.pruning.defaults import EPS

_CONNECTIVITY = ("calibration_rows", "ridge", "fold", "centred", "token_weights")
"""Settings of the target form alone, in addition to the removal events'."""
_PENALTIES = ("mode", "eps", "penalty_start", "degree_weight", "merge")
"""Settings of the penalties, fixed or regulated."""
RECOVERY = 50
"""Number of steps after the last event from which `fold: auto` folds the means alone."""


class NeuroPruneSettings(EventSettings):
    """NeuroPrune in two forms: `sparsity`, `heads` or `speedup` set a target, `alpha`, `beta`, `theta` penalties."""

    later_defaults = (
        ("algorithm", "connectivity"),
        ("layout", "free"),
        ("multiple_of", 1),
        ("speedup", None),
        ("speedup_rows", 32),
        ("teacher", None),
        ("teacher_temperature", 2.0),
        ("layer_share", 0.0),
    )
    new_defaults = (NewDefault(3, "post_dropout", 1.0, added=True), NewDefault(4, "fold", True))
    name: Literal["neuroprune"] = Field(default="neuroprune", description="The method.")
    version: Literal[2, 3, 4] = Field(
        default=4, description="Increases when the method's results change; do not set it."
    )
    algorithm: Literal["connectivity", "penalties"] = Field(
        default="connectivity",
        description="Algorithm that meets `sparsity`: `connectivity`, this project's removal of units by functional "
        "connectivity, or `penalties`, the paper's algorithm with strengths regulated during training.",
    )
    # ---- target form
    sparsity: TargetSparsity | None = Field(
        default=None,
        description="Target form: fraction of the weights of all attention (Q, K, V, O) and MLP matrices of the dense "
        "model that is removed or zero at the end.",
    )
    heads: Count | None = Field(
        default=None,
        description="Target form: exact number of heads that remain at the end, in all layers together (at least one "
        "in each). Alone, or together with `sparsity`, which is then met by removing neurons.",
    )
    speedup: Annotated[float, Field(gt=1, le=1000)] | None = Field(
        default=None,
        description="Target form, instead of `sparsity` and `heads`: factor by which the model becomes faster than the "
        "dense one on the training machine.",
    )
    speedup_rows: Count = Field(
        default=32,
        description="Batch size at which `speedup` is measured, with rows of the length of the first training batch.",
    )
    layout: Literal["free", "uniform"] = Field(
        default="free",
        description="Target form: `free` lets each layer keep its own number of heads and neurons. `uniform` keeps the "
        "same number in all layers, so that the model has a plain configuration and loads without this package. Heads "
        "are then kept if the configuration can't give their number independently of the hidden size (BERT, BART, OPT, "
        "GPT-2).",
    )
    multiple_of: Count = Field(
        default=1,
        description="With `sparsity`: the number of neurons that a layer keeps is a multiple of this, such as 8 or 64, "
        "as required by some hardware and kernels.",
    )
    calibration_rows: Count = Field(
        default=256,
        description="Target form: training rows before each event for measuring scores and folds; few rows make these "
        "noisy. A step with measurement takes about 1.1 times as long, with the least-squares fold 1.3 times.",
    )
    ridge: Positive = Field(default=0.01, description="Target form: ridge regularisation of the least-squares fold.")
    min_share: Fraction = Field(
        default=0.01,
        description="Minimum fraction of its neurons that each layer keeps in the target form. With 0, a layer may "
        "lose all its neurons or all its heads in every form, and they are skipped.",
    )
    fold: bool | Literal["means", "auto"] = Field(
        default="auto",
        description="Target form: fold the effect of removed units into the remaining ones by least squares, or, with "
        "`means`, only the mean of their outputs into biases, which needs less memory and time. `auto` takes `means` "
        f"if at least {RECOVERY} steps follow the last event.",
    )
    centred: bool = Field(
        default=True,
        description="Target form: connectivity excludes the mean of a unit's output, which the fold absorbs into a "
        "bias. Without the fold or a bias, the mean is included.",
    )
    token_weights: bool = Field(
        default=True, description="Target form: weight tokens in the fold by their influence on the loss."
    )
    teacher: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Target form: `run` for the model before the first event, or a folder with a dense model of the "
        "same kind, fine-tuned on the task, which is used from the first step. Its predictions replace the labels; a "
        "step takes about a third longer.",
    )
    teacher_temperature: Positive = Field(
        default=2.0, description="Target form: temperature of the softened predictions of teacher and model."
    )
    layer_share: Fraction = Field(
        default=0.0,
        description="Target form with a teacher: weight of the distance between hidden states of the teacher's and the "
        "model's layers (CoFi: 0.9); the rest is that of the predictions.",
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
        description="Penalty form: heads whose weights all differ by at most this are redundant (paper: 0.15 to 0.25); "
        "suitable values scale with the model's weights.",
    )
    mode: Literal["coupled", "decoupled"] = Field(
        default="coupled",
        description="Penalty form: `coupled` passes the gradient through the optimizer, as in the paper; `decoupled` "
        "takes a proximal step after the optimizer's, like AdamW's weight decay. Short runs need `decoupled`.",
    )
    eps: Positive = Field(
        default=EPS, description="Penalty form: entries below this absolute value count as absent (paper: 1e-4)."
    )
    penalty_start: Schedule = Field(
        default=0.0,
        description="Penalty form: fraction of the steps before the penalty and the merging of heads begin (paper: "
        "half of the epochs in translation, else 0).",
    )
    degree_weight: Literal["inverse", "missing", "none"] = Field(
        default="inverse",
        description="Penalty form: weight of a neuron's penalty: 1 / connectivity or 1 - connectivity (two readings "
        "of the paper), or 1 for all, which is l1 without preferential attachment.",
    )
    merge: Literal["output", "mlp_in", "none"] = Field(
        default="output",
        description="Penalty form: destination of a redundant head's weights: the output projection of the remaining "
        "head, the MLP's input columns (as written in the paper), or none.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm == "penalties":
            self._check_regulated()
        else:
            self._check_one_form()
            self._check_order()
        self._check_layout()
        self._check_speedup()
        self._check_read()
        if self.teacher is not None and self.form != "target":
            raise ValueError("teacher is for the target form (algorithm: connectivity); leave it out")
        if self.layer_share and self.teacher is None:
            raise ValueError("layer_share needs a teacher, whose hidden states are learned; give teacher: run")
        return self

    def _check_one_form(self) -> None:
        penalty = [name for name in ("alpha", "beta", "theta") if getattr(self, name) is not None]
        target = [name for name in ("sparsity", "heads", "speedup") if getattr(self, name) is not None]
        if target and penalty:
            raise ValueError(
                f"give either {' and '.join(target)} (a target) or {', '.join(penalty)} (the penalty), not both"
            )
        if not target and not penalty:
            raise ValueError(
                "give sparsity, heads or speedup (a target), or at least one of alpha, beta and theta (the penalty)"
            )

    def _check_read(self) -> None:
        """Reject settings that belong to another form."""
        if self.form == "target":
            self._refuse(_PENALTIES, "with a target; they belong to the penalties")
        elif self.form == "regulated":
            unread = (name for name in (*_CONNECTIVITY, *EVENTS) if name != "end")
            self._refuse(unread, "with algorithm: penalties")
        else:
            self._refuse((*_CONNECTIVITY, *EVENTS), "with alpha, beta and theta (the penalty)")
            if not self.alpha and not self.beta and self.theta is None:
                raise ValueError(
                    "alpha and beta are 0 and theta is missing, so that nothing is pruned; give one of them"
                )

    def _check_layout(self) -> None:
        if self.layout == "uniform" and (self.heads is not None or self.form != "target"):
            raise ValueError("layout: uniform needs sparsity alone (algorithm: connectivity); leave the others out")
        if self.multiple_of != 1 and (self.sparsity is None or self.heads is not None or self.form != "target"):
            raise ValueError("multiple_of needs sparsity alone (algorithm: connectivity); leave the others out")

    def _check_speedup(self) -> None:
        others = self.layout == "uniform" or self.sparsity is not None or self.heads is not None
        if self.speedup is not None and others:
            raise ValueError("speedup can't be combined with sparsity, heads or layout; leave these out")

    def _check_regulated(self) -> None:
        if self.sparsity is None:
            raise ValueError("algorithm: penalties is regulated towards a target; give sparsity")
        if self.heads is not None:
            raise ValueError("algorithm: penalties does not support heads; give theta instead")
        if self.speedup is not None:
            raise ValueError("algorithm: penalties does not support speedup, its zeros hardly speed up the model")
        if self.penalty_start >= self.end:
            raise ValueError(
                f"algorithm: penalties needs penalty_start below end ({self.end:g}), where the target is reached"
            )
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("algorithm: penalties regulates alpha and beta; at least one must be above 0")

    @classmethod
    def has_events(cls, values: Mapping[str, Any]) -> bool:
        """Return whether a target is met by functional connectivity."""
        targets = (values.get(name) for name in ("sparsity", "heads", "speedup"))
        return values.get("algorithm") != "penalties" and any(target is not None for target in targets)

    def fold_with(self, steps: int) -> bool | Literal["means"]:
        """Return how removed units are folded if this number of steps follows the last event."""
        if self.fold == "auto":
            return "means" if steps >= RECOVERY else True
        return self.fold

    @property
    def removal(self) -> float:
        """Fraction of the steps, on average, before units are physically removed; 1 in the penalty forms."""
        return self.mean_event if self.form == "target" else 1.0

    @property
    def form(self) -> Literal["target", "penalty", "regulated"]:
        """The algorithm: FC (`target`), the paper's penalties, or penalties with regulated strengths."""
        if self.algorithm == "penalties":
            return "regulated"
        targets = (self.sparsity, self.heads, self.speedup)
        return "penalty" if all(target is None for target in targets) else "target"
