"""Data and models of runs, read from the manifests written by `prepare-data` and `prepare-model`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.config.canonical import settings_hash

if TYPE_CHECKING:
    from neuroprune.config.settings import RunSettings
    from neuroprune.results.records import RunRecord


@dataclass(frozen=True)
class Prepared:
    """Prepared data of a task, and a prepared model.

    Args:
        data_sha256: Hash of the data.
        model_sha256: Hash of the model's files.
        copied: What the task's metric gives for copying the source, worked out once for all runs; None for classes.
    """

    data_sha256: str
    model_sha256: str
    copied: float | None = None

    @classmethod
    def read(cls, data: Path, model: Path) -> Prepared:
        """Read the manifests of a task's data and of a model."""
        of_data, of_model = (json.loads(path.read_text(encoding="utf-8")) for path in (data, model))
        return cls(of_data["sha256"], of_model["sha256"], of_data["copied"])

    def gave(self, record: RunRecord, settings: RunSettings) -> bool:
        """Return whether a record is the result of these settings, data and model; older records name no model."""
        environment = record.environment
        return (
            settings_hash(record.settings) == settings_hash(settings)
            and environment.data_sha256 == self.data_sha256
            and environment.model_sha256 in (None, self.model_sha256)
        )

    def value_of_copying(self, data: Any) -> float | None:
        """Return the metric of copying on the rows that a run read; recomputed only if they differ."""
        return self.copied if data.sha256 == self.data_sha256 else data.copied
