"""Early checks that a model's files can be read, without loading them into memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
)

from neuroprune.errors import UserError
from neuroprune.files.packages import cause
from neuroprune.models.tokenizer_files import load_tokenizer
from neuroprune.pruning.architectures import find_architecture

log = logging.getLogger(__name__)

SMALL = 20_000_000  # weights of a model that is computed in a moment
LFS_POINTER = b"version https://git-lfs"


def check_weights(files: Iterable[Path]) -> None:
    """Reject damaged or truncated safetensors files based on their headers and sizes.

    Args:
        files: The files.

    Raises:
        UserError: If a file can't be read.
    """
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            with path.open("rb") as start:
                pointer = start.read(len(LFS_POINTER)) == LFS_POINTER
            what = "is a pointer of Git LFS; fetch it with `git lfs pull`" if pointer else "is truncated or damaged"
            raise UserError(f"{path} {what} ({cause(error)}); copy or download the model again") from error


def check_construction(name: str, config: Any) -> None:
    """Reject a configuration without a working model, using tensors without data.

    Args:
        name: Name of the model, for error messages.
        config: The configuration.

    Raises:
        UserError: If the model can't be built, has an empty weight, or can't read four tokens.
    """
    config = copy.deepcopy(config)
    for special in ("pad", "bos", "eos", "decoder_start"):
        setattr(config, f"{special}_token_id", 0)  # the tokenizer, which is trained later, has its own
    _check_forward(name, config, AutoModel)
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        _check_forward(name, config, AutoModelForSequenceClassification)


def _check_forward(name: str, config: Any, auto_class: Any) -> None:
    """Refuse a configuration whose model of one class can't be built or can't read four tokens."""
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config)
        _check_not_empty(model)
        device = "cpu" if model.num_parameters() <= SMALL else "meta"
        with torch.device(device), torch.no_grad():
            model = auto_class.from_config(config).eval()
            tokens = torch.zeros(1, 4, dtype=torch.long)
            model(input_ids=tokens, **({"decoder_input_ids": tokens} if config.is_encoder_decoder else {}))
    except Exception as error:  # a wrong value can make any operation fail
        if "meta" in str(error):  # an operation that needs values, not only shapes
            log.debug("%s was built but not called: %s", name, error)
            return
        raise UserError(f"model {name}: its config does not give a working model: {cause(error)}") from error


def _check_not_empty(model: Any) -> None:
    """Refuse a model with an empty weight, in which no token can be looked up."""
    for name, weight in model.named_parameters():
        if not weight.numel():
            raise ValueError(f"the weight {name} would have the shape {tuple(weight.shape)}")


def check_description(folder: Path, name: str = "model", **options: Any) -> Any:
    """Reject a folder with an unreadable configuration or tokenizer or an unsupported model type.

    Args:
        folder: The model's folder.
        name: Beginning of error messages on the tokenizer, such as `model bert`.
        **options: Options of transformers' `from_pretrained`.

    Returns:
        The configuration.

    Raises:
        UserError: If a file can't be read.
    """
    path = folder / "config.json"
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except Exception as error:  # transformers and its parsers raise their own exceptions
        what = path if path.exists() else f"{folder}, which has no {path.name},"
        raise UserError(f"{what} can't be read ({cause(error)}); copy or download the model again") from error
    try:
        find_architecture(config.model_type)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    load_tokenizer(folder, name, **options)
    return config
