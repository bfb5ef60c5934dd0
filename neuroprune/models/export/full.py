"""A cut model at the dense model's size, zeros where units were removed: plain transformers loads it anywhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.models import card
from neuroprune.models.export.tokenizers import copy_tokenizer
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.plain_config import is_plain, to_plain, to_recorded
from neuroprune.pruning.residual_stream import kept_hidden
from neuroprune.pruning.surgery import kept_slices


def export(folder: Path, out: Path) -> list[str]:
    """Write a zero-filled checkpoint of full size, with its card and tokenizer.

    Args:
        folder: A saved model.
        out: Where to; it is made if need be.

    Returns:
        What was written.
    """
    model = from_pretrained(folder)
    full, facts = full_size(model), vars(card.read_facts(folder))
    copy_tokenizer(folder, out)
    save_pretrained(full, out, name=folder.resolve().name, **facts)
    return [f"{out}: a {type(model).__name__} of the dense model's size; plain transformers loads it."]


@torch.no_grad()
def full_size(model: Any) -> Any:
    """Return a model of the dense model's size that computes what a cut one does.

    A removed head has zeros in Q, K, V, their biases and O: whatever it attends to, it passes nothing on. A removed
    neuron has zeros in its rows, its bias and its column.

    Args:
        model: A transformers model of a known type, cut or not; it is left as it is.

    Returns:
        A new model in eval mode without a record in its configuration; what was not cut is shared with `model`.

    Raises:
        UserError: If the hidden dimension was cut: layer norms can't leave out dimensions.
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
    """Give a model the dense model's configuration for a while, if its own is plain."""
    plain = is_plain(model)
    to_recorded(model)
    try:
        yield
    finally:
        if plain:
            to_plain(model)


def _spread(part: Tensor, shape: torch.Size, dim: int, index: Tensor) -> Tensor:
    """Return zeros of a shape with slices of `part` where `index` says along `dim`."""
    return part.new_zeros(shape).index_copy_(dim, index.to(part.device), part)
