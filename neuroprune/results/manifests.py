"""Hashes of prepared data and models, read from the manifests of `prepare-data` and `prepare-model`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.config.availability import teacher_files
from neuroprune.config.canonical import settings_hash
from neuroprune.errors import UserError
from neuroprune.files import failures
from neuroprune.files.atomic import files_hash

if TYPE_CHECKING:
    from neuroprune.config.settings import RunSettings
    from neuroprune.results.records import RunRecord

OF_DATA, OF_MODEL = ("sha256", "copied"), ("sha256",)
"""Keys that a manifest of data or of a model must have."""


@dataclass(frozen=True)
class Prepared:
    """A task's prepared data and a prepared model.

    Args:
        data_sha256: Hash of the data.
        model_sha256: Hash of the model's files.
        copied: The task's metric for copying the source, computed once for all runs; None for classification.
    """

    data_sha256: str
    model_sha256: str
    copied: float | None = None

    @classmethod
    def read(cls, data: Path, model: Path) -> Prepared:
        """Read the manifests of a task's data and of a model.

        Args:
            data: Manifest of the task's data.
            model: Manifest of the model.

        Returns:
            The hashes that both manifests name.

        Raises:
            UserError: A manifest is missing or damaged.
        """
        (data_sha256, copied), (model_sha256,) = _values(data, *OF_DATA), _values(model, *OF_MODEL)
        return cls(data_sha256, model_sha256, copied)

    def gave(self, record: RunRecord, settings: RunSettings) -> bool:
        """Return whether a record belongs to these settings, data, model and teacher.

        Older records have no hashes of model and teacher.
        """
        environment = record.environment
        return (
            settings_hash(record.settings) == settings_hash(settings)
            and environment.data_sha256 == self.data_sha256
            and environment.model_sha256 in (None, self.model_sha256)
            and (environment.teacher_sha256 is None or environment.teacher_sha256 == teacher_hash(settings))
        )

    def value_of_copying(self, data: Any) -> float | None:
        """Return the metric for copying on a run's evaluation rows; recompute it only if the rows differ."""
        return self.copied if data.sha256 == self.data_sha256 else data.copied


def teacher_hash(settings: RunSettings) -> str | None:
    """Return the current hash of a run's teacher; None without a teacher in a folder, or if it is missing."""
    files = teacher_files(settings.method)
    return files_hash(files) if files and all(path.is_file() for path in files) else None


def is_usable(manifest: Path, keys: Sequence[str]) -> bool:
    """Return whether a manifest is missing or can be read; an earlier version may have written one without all keys."""
    try:
        return not manifest.exists() or bool(_values(manifest, *keys))
    except UserError:
        return False


def _values(manifest: Path, *keys: str) -> list[Any]:
    """Return values of a manifest."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if not (isinstance(content["sha256"], str) and isinstance(content.get("copied"), float | int | None)):
            raise TypeError
        return [content[key] for key in keys]
    except OSError as error:
        raise UserError(
            failures.sentence(error) or f"{manifest} can't be read ({error.strerror}); start the study again"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{manifest} is damaged; delete it and start the study again") from error
