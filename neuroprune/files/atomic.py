"""Write files whole or not at all, and hash them. The only place that does either."""

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
    """Return JSON-able data with NaN and infinities as None, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: BaseModel | Mapping[str, Any]) -> None:
    """Write a record or a dict as JSON, whole or not at all.

    Args:
        path: The file; its folder is made if need be.
        data: A pydantic model, or a mapping of JSON-able values. Values that are not finite become null.
    """
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    write_text(Path(path), json.dumps(finite(plain), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
