"""Export of a cut model at the dense size, with zeros for removed units, for plain transformers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.models.export.checkpoint import save_copy
from neuroprune.models.pretrained import from_pretrained
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.plain_config import is_plain, to_plain, to_recorded
from neuroprune.pruning.residual_stream import kept_hidden
from neuroprune.pruning.surgery import kept_slices


def export(folder: Path, out: Path) -> list[str]:
    """Write a zero-filled checkpoint of the dense size, with card and tokenizer.

    Args:
        folder: A saved model.
        out: The folder to write to; created if necessary.

    Returns:
        A description of the result.
    """
    model = from_pretrained(folder)
    save_copy(full_size(model), folder, out)
    return [f"{out}: a {type(model).__name__} of the dense model's size; plain transformers loads it."]


@torch.no_grad()
def full_size(model: Any) -> Any:
    """Return a model of the dense size with the same outputs as a cut one.

    A removed head has zeros in Q, K, V, their biases and O, so its output is zero. A removed neuron has zeros in its
    rows, bias and column.

    Args:
        model: A transformers model of a known type, cut or not; not changed.

    Returns:
        A new model in eval mode without a record in its configuration; uncut parameters are shared with `model`.

    Raises:
        UserError: If the hidden dimension was cut, because layer norms can't skip dimensions.
    """
    if kept_hidden(model):
        raise UserError(
            "this model can't be written at full size: its hidden dimension was cut, and layer norms over the dense "
            "one would compute something else; save it as it is, or write it as ONNX."
        )
    with _recorded(model):
        config = copy.deepcopy(model.config)
        config.__dict__.pop("quantization_config", None)
        with torch.random.fork_rng(devices=[]):
            full = type(model)(config)
        stored = model.state_dict()
        for name, dim, index in kept_slices(full, find_blocks(full, unused=True), kept_units(model, unused=True)):
            stored[name] = _spread(stored[name], full.get_parameter(name).shape, dim, index)
        full.load_state_dict(stored, assign=True)
    full.tie_weights()
    full.generation_config = getattr(model, "generation_config", None)
    return full.eval()


@contextmanager
def _recorded(model: Any) -> Iterator[None]:
    """Temporarily replace a plain configuration by the dense model's."""
    plain = is_plain(model)
    to_recorded(model)
    try:
        yield
    finally:
        if plain:
            to_plain(model)


def _spread(part: Tensor, shape: torch.Size, dim: int, index: Tensor) -> Tensor:
    """Return zeros of the given shape with the slices of `part` at positions `index` along `dim`."""
    return part.new_zeros(shape).index_copy_(dim, index.to(part.device), part)
