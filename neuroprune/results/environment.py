"""Environment section of a record: code, data and machine behind a result."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "safetensors", "numpy", "neuroprune")


class Part(BaseModel):
    """Base class of a record's sections. Unknown keys are rejected, so that files in other formats are detected."""

    model_config = ConfigDict(extra="forbid")


class Environment(Part):
    """Code, data and machine behind a result."""

    versions: dict[str, str] = Field(description="Versions of Python and of the numerical packages.")
    commit: str | None = Field(description="Commit of the code; null outside a git checkout.")
    dirty: bool | None = Field(description="Whether the package's code had uncommitted changes.")
    platform: str
    device: str = Field(min_length=1, description="Name of the accelerator, or `cpu`.")
    cpu: str = Field(min_length=1)
    threads: int | None = Field(description="CPU threads of the job.")
    started: str = Field(description="ISO 8601, UTC.")
    settings_sha256: str
    data_sha256: str | None = Field(default=None, description="Hash of the prepared data's manifest.")
    model_sha256: str | None = Field(default=None, description="Hash of the prepared model's files, if known.")
    teacher_sha256: str | None = Field(default=None, description="Hash of the teacher's files, if it is in a folder.")


def environment(
    *, threads: int | None = None, device: str | None = None, started: datetime | None = None
) -> dict[str, Any]:
    """Describe the current code and machine.

    Args:
        threads: CPU threads of the job.
        device: Name of the accelerator; default: the one that torch selects.
        started: When the job began; default: now.

    Returns:
        The environment section of a record, without the hashes of settings, data and model.
    """
    commit, dirty = git_state()
    return {
        "versions": installed_versions(),
        "commit": commit,
        "dirty": dirty,
        "platform": platform.platform(),
        "device": device or device_name(),
        "cpu": cpu_name(),
        "threads": threads,
        "started": (started or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
    }


def installed_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the installed numerical packages."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path = Path(__file__).parents[1]) -> tuple[str | None, bool | None]:
    """Return a folder's commit and whether it has uncommitted changes; (None, None) outside a checkout.

    Folders that git does not track, such as an installed package inside another repository, have no commit.
    """
    if not _git(folder, "ls-files", "."):
        return None, None
    changes = _git(folder, "status", "--porcelain", "--", ".")
    return (_git(folder, "rev-parse", "HEAD") or "").strip() or None, None if changes is None else bool(changes.strip())


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git, or None if it fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def cpu_name() -> str:
    """Return the processor's name as reported by the system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine() or "unknown"


def device_name() -> str:
    """Return the name of the accelerator that torch selects, or ``cpu``."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if torch.backends.mps.is_available() else "cpu"
