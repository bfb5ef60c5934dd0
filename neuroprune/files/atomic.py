"""Atomic, durable writes and file hashes. All modules that write results use these functions."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def finite(value: Any) -> Any:
    """Return JSON-serializable data with NaN and infinities, which JSON cannot represent, replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file beside it, which is synced to disk and then renamed.

    Args:
        path: The file; its folder is created if necessary, and an existing file is replaced.
        data: The content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: BaseModel | Mapping[str, Any]) -> None:
    """Write a record or a mapping as JSON, atomically; see `write_bytes`.

    Args:
        path: The file; its folder is created if necessary.
        data: A pydantic model, or a mapping of JSON-serializable values. Non-finite numbers become null.
    """
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    write_text(Path(path), json.dumps(finite(plain), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
