"""Temporary folders with an identifiable owner, so that those of killed processes can be removed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

OWNER = ".owner.lock"  # locked by the process that uses the folder; the kernel releases it when the process ends


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new temporary folder, and delete it at the end of the block unless `keep` was called.

    Folders with the same prefix left by killed processes are deleted first.

    Args:
        prefix: First part of the folder's name.
        parent: Where to create it; default: the system's folder for temporary files.

    Yields:
        The folder, which contains only its owner's lock file.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    remove_abandoned(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with FileLock(folder / OWNER):
            yield folder
    finally:
        if (folder / OWNER).exists():
            shutil.rmtree(folder, ignore_errors=True)


def keep(folder: Path) -> None:
    """Keep a temporary folder for the user; neither this process nor a later one deletes it."""
    (folder / OWNER).unlink(missing_ok=True)


def remove_abandoned(prefix: str, parent: Path) -> None:
    """Delete temporary folders of terminated processes.

    Args:
        prefix: First part of the folders' names.
        parent: Their parent folder.
    """
    for folder in parent.glob(f"{prefix}*"):
        try:
            if (folder / OWNER).is_file():
                with FileLock(folder / OWNER, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):  # in use, or owned by another user, who may not allow a look inside
            continue
