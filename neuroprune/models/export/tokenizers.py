"""Copying of the tokenizer along with an exported model."""

from __future__ import annotations

import shutil
from pathlib import Path

FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.spm")


def copy_tokenizer(folder: Path, out: Path) -> list[Path]:
    """Copy a tokenizer's files unchanged.

    Args:
        folder: A saved model.
        out: The folder to write to; created if necessary.

    Returns:
        The written files; none if there is no tokenizer.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = sorted({file for pattern in (*FILES, "*.jinja") for file in folder.glob(pattern) if file.is_file()})
    return [Path(shutil.copyfile(file, out / file.name)) for file in found]
