"""Identity of a result: settings as canonical JSON, and their hash.

Two runs have the same result if their settings, data and model are the same. Settings are compared as JSON with sorted
keys, without keys that do not affect results. The workflow's triggers, the records and the tables all use these
functions.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from neuroprune.files.atomic import text_hash

CHECKS = {"expected_rows"}  # keys of a task with which `prepare-data` only accepts or rejects a dataset
# Keys without effect on results or resolved into the settings of runs, by part of a study.
ELSEWHERE: dict[str, Any] = {
    "model": {"training", "job", "parameters"},
    "task": {"training", *CHECKS},
    "timing": {"seeds"},
    "study": {
        "keep_models": True,
        "from_results": True,
        "runs_per_job": True,
        "job_hours": True,
        "checkpoint_minutes": True,
        "experiments": {"__all__": {"runs_per_job"}},
        "models": {"__all__": {"job", "parameters"}},
    },
}
SEED = {"run", "seed"}


def canonical(settings: BaseModel, part: str | None = None) -> str:
    """Return settings as canonical JSON, which is equal if and only if results are equal.

    Args:
        settings: Settings of a run or of a job, or a part of a study.
        part: Part of the study, a key of `ELSEWHERE`, whose keys without an effect on results are left out. The
            `CHECKS` of a task remain, because `prepare-data` reads these settings.

    Returns:
        JSON on one line with sorted keys.
    """
    left_out: Any = ELSEWHERE[part] if part else None
    return _json(settings.model_dump(mode="json", exclude=left_out - CHECKS if part == "task" else left_out))


def canonical_but_seed(run: BaseModel) -> str:
    """Return a run's settings as canonical JSON without name and seed, equal for runs that are averaged."""
    return _json(run.model_dump(mode="json", exclude=SEED))


def settings_hash(settings: BaseModel) -> str:
    """Return the SHA-256 of settings as canonical JSON."""
    return json_hash(settings.model_dump(mode="json"))


def json_hash(data: Any) -> str:
    """Return the SHA-256 of JSON-serializable data with sorted keys; for settings read from a file, `settings_hash`."""
    return text_hash(_json(data))


def _json(data: Any) -> str:
    return json.dumps(data, sort_keys=True)
