"""Atomic, durable writes and hashes. All modules that write results use these functions."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
    """Write a file atomically, through a temporary file that is synced to disk and then renamed.

    Args:
        path: The file; its folder is created if necessary, and an existing file is replaced.
        data: The content.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_file(path: Path, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` when the block ends without an exception.

    The file is synced to disk before it is renamed. Its mode follows the umask, even if the writer in the block creates
    private files, as safetensors does.

    Args:
        path: The file to write; its folder is created if necessary.
        synced: Whether to wait until the file is on disk; unnecessary if the caller does so for all files of a folder.

    Yields:
        The temporary file, empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        mode = _create(temporary)
        yield temporary
        temporary.chmod(mode)
        if synced:
            sync(temporary)
        temporary.replace(path)
        if synced:
            sync(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # messages name the file that was to be written
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` when the block ends without an exception.

    Args:
        folder: The folder to write; its parent must exist. The caller ensures that no other process writes it.

    Yields:
        The temporary folder, empty.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_to_umask(folder: Path) -> None:
    """Set the modes of a folder's files according to the umask, because safetensors creates private files."""
    files = [path for path in folder.iterdir() if path.is_file()]
    probe = folder / f".mode.{os.getpid()}.tmp"
    mode = _create(probe)
    probe.unlink()
    for path in files:
        path.chmod(mode)


def _create(path: Path) -> int:
    """Create an empty file and return its permissions under the umask."""
    path.write_bytes(b"")
    return path.stat().st_mode & 0o777


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on disk."""
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


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_hash(paths: Iterable[Path]) -> str:
    """Return one SHA-256 for the names and contents of several files."""
    return text_hash("".join(f"{path.name} {file_hash(path)}\n" for path in paths))
