"""Candidates of `research`: settings of NeuroPrune-FC, other scores under its fold, and the methods to compare with."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from neuroprune import Dense, NeuroPrune, RandomUnits, Run, Taylor
from neuroprune.methods.callback import Method
from neuroprune.methods.components.calibration import Calibration
from neuroprune.methods.neuroprune.connectivity import NeuroPruneTarget
from neuroprune.methods.taylor import taylor_scores
from neuroprune.pruning.blocks import Block


class OtherScore(NeuroPruneTarget):
    """The target form with its fold but a different score."""

    score: ClassVar[str]
    _sums: dict[Block, Tensor] | None = None

    def before_step(self, run: Run) -> None:
        """Accumulate |w dL/dw| during calibration."""
        super().before_step(run)
        if self._calibration is not None:
            now, before = taylor_scores(run), self._sums
            self._sums = now if before is None else {block: before[block] + now[block] for block in now}

    def _take_calibration(self, run: Run) -> Calibration:
        calibration, sums, self._sums = super()._take_calibration(run), self._sums, None
        assert sums is not None
        for block, seen in calibration.statistics.items():
            root, taylor = seen.connectivity.sqrt(), sums[block]
            score = {"taylor": taylor, "root": root, "both": root * taylor, "counts": ranked_like(root, taylor)}[
                self.score
            ]
            seen.gates = (score * seen.samples)[:, None, None]
        return calibration


def ranked_like(order: Tensor, values: Tensor) -> Tensor:
    """Return the values permuted to the order of another score."""
    dealt = torch.empty_like(values)
    dealt[order.argsort()] = values.sort().values
    return dealt


def scored(score: str, **fields: Any) -> NeuroPrune:
    """Return NeuroPrune with another score.

    Args:
        score: `taylor`; `root` of the Fisher information; `both`, their product; or `counts`: the number of units per
            block follows Taylor, their choice the Fisher information.
        **fields: Settings of NeuroPrune.

    Returns:
        The method.
    """
    return with_form(OtherScore, {"score": score}, **fields)


class WeightedRows(NeuroPruneTarget):
    """The target form with rows weighted in the Fisher information by what the model predicts for them."""

    kind: ClassVar[str]

    def _calibrate(self, run: Run) -> Calibration:
        calibration, seen = super()._calibrate(run), []

        def see(model: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if torch.is_grad_enabled():
                seen[:] = [row_factors(output.logits.detach().float(), kwargs["labels"], self.kind)]

        def add(usual: Any, x: Tensor, gradient: Tensor, *rest: Any) -> None:
            usual(x, gradient * seen[0][:, None, None], *rest)

        calibration._handles.append(run.model.register_forward_hook(see, with_kwargs=True))
        for statistics in calibration.statistics.values():
            statistics.add = partial(add, statistics.add)  # type: ignore[method-assign]
        return calibration


def row_factors(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Return a factor for the gradients of each row: `[rows]`.

    Args:
        logits: `[rows, classes]`.
        labels: `[rows]`.
        kind: `predicted`: the squared gradient becomes that expected over the model's own predictions in place of the
            label (exact for two classes); `margin`: every row gets the same weight, whatever its loss.

    Returns:
        The factors, at most the square root of 30 for `predicted`.
    """
    predictions = logits.softmax(-1)
    classes = torch.eye(logits.shape[1])
    squares = (predictions[:, None] - classes).square().sum(-1)  # of the loss's gradient by the logits, for each class
    actual = squares.gather(1, labels[:, None])[:, 0]
    if kind == "margin":
        return actual.clamp_min(1e-6).rsqrt()
    expected = (predictions * squares).sum(-1)
    return (expected / actual.clamp_min(1e-4)).clamp_max(30).sqrt()


def weighted(kind: str, **fields: Any) -> NeuroPrune:
    """Return NeuroPrune with rows weighted as in `row_factors`."""
    return with_form(WeightedRows, {"kind": kind}, **fields)


def with_form(base: type[NeuroPruneTarget], attributes: dict[str, Any], **fields: Any) -> NeuroPrune:
    """Return NeuroPrune whose strategy is a subclass of `base` with these attributes of the class."""
    form = type("Form", (base,), attributes)
    return type("Changed", (NeuroPrune,), {"make_strategy": lambda method: form(method.settings)})(**fields)


NO_DROPOUT = "no dropout"
"""End of the names of variants in which dropout ends at the last event."""
LATE = {"start": 1 / 3, "end": 2 / 3, "post_lr": 3}
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dense": (Dense, {}),
    "usual": (NeuroPrune, {}),
    "whole": (NeuroPrune, {"centred": False}),
    "no fold": (NeuroPrune, {"fold": False}),
    "means only": (NeuroPrune, {"fold": "means"}),
    "ridge 1": (NeuroPrune, {"ridge": 1.0}),
    "equal tokens": (NeuroPrune, {"token_weights": False}),
    "taylor": (Taylor, {}),
    "random": (RandomUnits, {}),
    "score taylor": (scored, {"score": "taylor"}),
    "score root": (scored, {"score": "root"}),
    "score both": (scored, {"score": "both"}),
    "post_lr 4": (NeuroPrune, {"post_lr": 4}),
    "early": (NeuroPrune, {"start": 0.15, "end": 0.3}),
    "one event": (NeuroPrune, {"start": 0.5, "end": 0.5, "events": 1, "post_lr": 4}),
    "late": (NeuroPrune, LATE),
    "late whole": (NeuroPrune, LATE | {"centred": False}),
    "late, 64 rows": (NeuroPrune, LATE | {"calibration_rows": 64}),
    "late taylor": (Taylor, LATE),
    "post_lr 1": (NeuroPrune, {"post_lr": 1}),
    "taylor, post_lr 1": (Taylor, {"post_lr": 1}),
    "six events": (NeuroPrune, {"events": 6}),
    "taylor, six events": (Taylor, {"events": 6}),
    "score counts": (scored, {"score": "counts"}),
    "score counts, no fold": (scored, {"score": "counts", "fold": False}),
    "dense, no dropout": (Dense, {}),
    "no dropout": (NeuroPrune, {}),
    "means, no dropout": (NeuroPrune, {"fold": "means"}),
    "no fold, no dropout": (NeuroPrune, {"fold": False}),
    "taylor, no dropout": (Taylor, {}),
    "score taylor, means, no dropout": (scored, {"score": "taylor", "fold": "means"}),
    "score root, means, no dropout": (scored, {"score": "root", "fold": "means"}),
    "predicted rows, no dropout": (weighted, {"kind": "predicted"}),
    "margin rows, no dropout": (weighted, {"kind": "margin"}),
    "uniform": (NeuroPrune, {"layout": "uniform"}),
    "uniform, 64": (NeuroPrune, {"layout": "uniform", "multiple_of": 64}),
}


def build(name: str, sparsity: float) -> Method:
    """Return the method of a variant; `Training` ends dropout, in dense runs too, so that the method never does.

    NeuroPrune-FC folds by least squares at any length unless the variant says otherwise.
    """
    kind, fields = VARIANTS[name]
    if kind is Dense:
        return Dense(**fields)
    usual = {} if kind in (Taylor, RandomUnits) else {"fold": True}
    return kind(sparsity=sparsity, post_dropout=1.0, **usual | fields)
