"""In-memory check that a cut model can be saved and reloaded, without reading or copying weights."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from neuroprune.errors import UserError
from neuroprune.models.quantizer import cut_to_record
from neuroprune.pruning.blocks import base_of
from neuroprune.pruning.kept_units import configs_of, kept_units, read_record
from neuroprune.pruning.plain_config import is_plain

logger = logging.getLogger(__name__)


def check_reloadable(model: nn.Module) -> None:
    """Compare a model's shapes with those of a model built from its configuration and record.

    Args:
        model: A transformers model of a known type, or a module around one.

    Raises:
        UserError: If a weight below the heads has a different shape or exists in only one of the two, so that
            `from_pretrained` could not load the saved model. Different shapes of heads only cause a warning.
    """
    kept_units(model)
    base = base_of(model)
    if isinstance(model, PreTrainedModel):
        _compare(model, partial=False)
    if isinstance(base, PreTrainedModel) and (len(configs_of(model)) > 1 or not isinstance(model, PreTrainedModel)):
        _compare(base, partial=True)


def _shapes_of_record(model: PreTrainedModel, record: dict[str, Any]) -> dict[str, torch.Size] | None:
    """Return the shapes built by `from_pretrained`; None if the class needs more than a configuration."""
    config = copy.deepcopy(model.config)
    try:
        with torch.device("meta"):
            built = type(model)(config)
    except TypeError:
        return None
    for own in configs_of(built):
        own.__dict__.pop("quantization_config", None)
    if not is_plain(model):
        cut_to_record(built, record)
    return {name: tensor.shape for name, tensor in built.state_dict().items()}


def _compare(model: PreTrainedModel, partial: bool) -> None:
    """Compare a model with its record's shapes; a model inside another may lack layers, such as a pooler."""
    expected = _shapes_of_record(model, read_record(model))
    if expected is None:
        return
    found = {name: tensor.shape for name, tensor in model.state_dict().items()}
    names = found if partial else {**expected, **found}
    differing = sorted(name for name in names if expected.get(name) != found.get(name))
    body = [name for name in differing if name.startswith(_prefix(model))]
    if body:
        wanted, shape = (shapes.get(body[0]) for shapes in (expected, found))
        raise UserError(
            f"{type(model).__name__} could be saved but not loaded again: {body[0]} has shape {_text(shape)}, but its "
            f"configuration and the record of what was cut give {_text(wanted)}. The model in memory is as it was "
            "trained; keep it with torch.save(model.state_dict(), file), and undo what changed its layers or its "
            "config by other means than neuroprune."
        )
    if differing:
        logger.warning(
            "%s has weights above its base model that its configuration does not describe (%s): load it with "
            "ignore_mismatched_sizes=True, or with your own class.",
            type(model).__name__,
            ", ".join(differing[:3]),
        )


def _prefix(model: PreTrainedModel) -> str:
    """Return the path of the base model in the model with a trailing dot; empty for the base model itself."""
    base = base_of(model)
    path = next(name for name, module in model.named_modules() if module is base)
    return f"{path}." if path else ""


def _text(shape: torch.Size | None) -> str:
    return "none, as there is no such weight" if shape is None else str(list(shape))
