"""The tokenizer beside a saved model goes where the model goes."""

from __future__ import annotations

import shutil
from pathlib import Path

FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.spm")


def copy_tokenizer(folder: Path, out: Path) -> list[Path]:
    """Copy a tokenizer's files, byte by byte.

    Args:
        folder: A saved model.
        out: Where to; it is made if need be.

    Returns:
        The files that were written; none if there is no tokenizer.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = sorted({file for pattern in (*FILES, "*.jinja") for file in folder.glob(pattern) if file.is_file()})
    return [Path(shutil.copyfile(file, out / file.name)) for file in found]
