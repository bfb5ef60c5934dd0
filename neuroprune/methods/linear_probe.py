"""Linear probing before fine-tuning (LP-FT, Kumar et al. 2022, arXiv 2202.10054).

A new head on pretrained features sends large, random gradients through the encoder in the first steps. Fitting it to
the frozen encoder first avoids this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import TrainerCallback

from neuroprune import distributed
from neuroprune.errors import UserError
from neuroprune.pruning.blocks import base_of
from neuroprune.pruning.defaults import IGNORED

ROWS = 1000
"""Maximum number of training rows for fitting the head."""
L2 = 0.01
"""Factor of half the squared norm of the weights, added to the mean loss; biases are not penalised."""
ITERATIONS = 200

logger = logging.getLogger(__name__)


class LinearProbe(TrainerCallback):
    """Callback that fits the last linear layer before training: `callbacks=[LinearProbe(), NeuroPrune(...)]`.

    In a bare loop, call `fit_head` instead. Training resumed from a checkpoint keeps the existing head.

    Args:
        rows: Maximum number of training rows for the fit.
    """

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **_: Any
    ) -> None:
        """Fit the head to the Trainer's own batches."""
        if state.global_step == 0:
            fit_head(model, train_dataloader, self.rows)


def fit_head(model: Any, batches: Iterable[Mapping[str, Any]], rows: int = ROWS) -> None:
    """Fit the last linear layer of a model's head, in place, to features of the frozen rest.

    Classes use logistic regression (L-BFGS), several labels per row one logistic regression each, and numbers ridge
    regression. The training's random numbers are not affected. With several processes, the main process fits the head
    for all, on its own rows.

    Args:
        model: A transformers model with a head for sequences or tokens.
        batches: Batches of inputs with `labels`.
        rows: Maximum number of rows, read in whole batches.

    Raises:
        UserError: If the model has no such head or the batches have no labels for it.
    """
    name, layer = head_layer(model)
    with torch.random.fork_rng():
        features, labels = _features(model, layer, batches, rows)
    weight, bias = fit(features, labels, _kind(model, labels), layer.out_features, layer.bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    distributed.copy_main(list(layer.parameters()))
    logger.info("%s was fitted to %d rows before training", name, len(features))


def head_layer(model: Any) -> tuple[str, nn.Linear]:
    """Return the name and module of the linear layer that outputs a model's logits.

    Args:
        model: A transformers model.

    Returns:
        The last linear layer outside the base model with as many outputs as the configuration has labels.

    Raises:
        UserError: If there is none because the model generates text or has no head.
    """
    base, outputs = base_of(model), getattr(model.config, "num_labels", None)
    inside = set() if base is model else set(base.modules())
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in inside and module.out_features == outputs
    ]
    writes = getattr(model, "get_output_embeddings", lambda: None)() is not None
    if not found or base is model or writes:
        raise UserError(
            f"linear_probe: {type(model).__name__} has no linear head for {outputs} classes to be fitted "
            "first; leave linear_probe out. It supports classification of sequences and tokens, not generated text."
        )
    return found[-1]


def fit(
    features: Tensor, labels: Tensor, kind: str, outputs: int, with_bias: bool, l2: float = L2
) -> tuple[Tensor, Tensor | None]:
    """Minimise the mean loss plus l2 / 2 times the squared norm of the weights.

    Args:
        features: `[rows, width]`.
        labels: Classes int64 `[rows]`, or numbers `[rows, outputs]`.
        kind: `classes` (cross-entropy), `labels` (binary cross-entropy of each output) or `numbers` (half the squared
            error).
        outputs: Number of outputs of the layer.
        with_bias: Whether the layer has a bias.
        l2: Strength.

    Returns:
        Weight `[outputs, width]` and bias `[outputs]` or None, float64.
    """
    x = features.double().cpu()
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if with_bias else x
    y = labels.cpu()
    y = y[:, None] if kind == "numbers" and y.dim() == 1 else y
    found = _ridge(x, y.double(), l2, with_bias) if kind == "numbers" else _logistic(x, y, kind, outputs, l2, with_bias)
    return (found[:, :-1], found[:, -1]) if with_bias else (found, None)


def _ridge(x: Tensor, y: Tensor, l2: float, with_bias: bool) -> Tensor:
    penalty = torch.full((x.shape[1],), l2 * len(x), dtype=x.dtype)
    if with_bias:
        penalty[-1] = 0
    return torch.linalg.lstsq(x.T @ x + penalty.diag(), x.T @ y).solution.T


def _logistic(x: Tensor, y: Tensor, kind: str, outputs: int, l2: float, with_bias: bool) -> Tensor:
    weight = torch.zeros(outputs, x.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=ITERATIONS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        """Return the loss with its l2 penalty; set the gradients."""
        optimizer.zero_grad()
        logits = x @ weight.T
        free = weight[:, :-1] if with_bias else weight
        if kind == "classes":
            loss = functional.cross_entropy(logits, y)
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, y.double(), reduction="none").sum(1).mean()
        loss = loss + l2 / 2 * free.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()


def _kind(model: Any, labels: Tensor) -> str:
    """Return the kind of labels expected by the model's loss, by the rule of transformers' classifiers."""
    asked = getattr(model.config, "problem_type", None)
    if asked == "regression" or (asked is None and model.config.num_labels == 1):
        return "numbers"
    several = asked == "multi_label_classification" or (asked is None and labels.dtype not in (torch.long, torch.int))
    return "labels" if several else "classes"


@torch.no_grad()
def _features(model: Any, layer: nn.Linear, batches: Iterable[Mapping[str, Any]], rows: int) -> tuple[Tensor, Tensor]:
    """Return the layer's inputs for labelled rows or tokens and their labels, from at most `rows` rows."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    found: list[tuple[Tensor, Tensor]] = []
    try:
        for batch in batches:
            found.append(_labelled(model, batch, seen))
            if sum(len(features) for features, _ in found) >= rows:
                break
    finally:
        hook.remove()
        for module, training in modes.items():
            module.training = training
    features, labels = (torch.cat(parts)[:rows] for parts in zip(*found, strict=True))
    return features, labels


def _labelled(model: Any, batch: Mapping[str, Any], seen: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return one batch's features and labels; for heads on every token, only at the token used for the prediction."""
    device = next(model.parameters()).device
    inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    labels = inputs.pop("labels", None)
    if labels is None:
        raise UserError("linear_probe: the training batches have no labels; leave linear_probe out.")
    seen.clear()
    logits = model(**inputs).logits
    x, output = seen[-1]
    if labels.shape == output.shape[:-1] and output.dim() == 3:
        real = labels != IGNORED
        return x[real], labels[real]
    if output.dim() == 3:
        place = (output - logits[:, None]).abs().sum(dim=-1).argmin(dim=1)
        x = x[torch.arange(len(x), device=device), place]
    if len(x) != len(labels):
        raise UserError(
            f"linear_probe: the head reads {len(x)} rows, but there are {len(labels)} labels, as in multiple choice; "
            "leave linear_probe out."
        )
    return x, labels
