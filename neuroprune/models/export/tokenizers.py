"""Copying of the tokenizer along with an exported model."""

from __future__ import annotations

import shutil
from pathlib import Path

from neuroprune.models.tokenizer_files import files_of


def copy_tokenizer(folder: Path, out: Path) -> list[Path]:
    """Copy a tokenizer's files unchanged.

    Args:
        folder: A saved model.
        out: The folder to write to; created if necessary.

    Returns:
        The written files; none if there is no tokenizer.
    """
    out.mkdir(parents=True, exist_ok=True)
    return [_copy(file, out / file.relative_to(folder)) for file in files_of(folder)]


def _copy(file: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    return Path(shutil.copyfile(file, target))
