"""Check that a model's files can be read, before any job relies on them. Nothing is loaded into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer

from neuroprune.errors import UserError
from neuroprune.files.packages import cause
from neuroprune.pruning.architectures import find_architecture

LFS_POINTER = b"version https://git-lfs"


def check_weights(files: Iterable[Path]) -> None:
    """Refuse safetensors files that are damaged or cut, by their headers and sizes.

    Args:
        files: The files.

    Raises:
        UserError: If one can't be read.
    """
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            with path.open("rb") as start:
                pointer = start.read(len(LFS_POINTER)) == LFS_POINTER
            what = "is a pointer of Git LFS; fetch it with `git lfs pull`" if pointer else "is cut or damaged"
            raise UserError(f"{path} {what} ({cause(error)}); copy or download the model again") from error


def check_description(folder: Path, **options: Any) -> Any:
    """Refuse a folder whose configuration or tokenizer can't be read, or whose model type is not supported.

    Args:
        folder: The model's folder.
        **options: For transformers' `from_pretrained`.

    Returns:
        The configuration.

    Raises:
        UserError: If a file can't be read.
    """
    config = _read(folder / "config.json", lambda: AutoConfig.from_pretrained(folder, **options))
    try:
        find_architecture(config.model_type)
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    tokenizer = _read(folder / "tokenizer.json", lambda: AutoTokenizer.from_pretrained(folder, **options))
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError(f"{folder} holds no tokenizer, such as tokenizer.json or vocab.txt; copy it there")
    return config


def _read(path: Path, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # transformers and the parsers below it have errors of their own
        what = path if path.exists() else f"{path.parent}, which has no {path.name},"
        raise UserError(f"{what} can't be read ({cause(error)}); copy or download the model again") from error
