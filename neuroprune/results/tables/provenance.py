"""Provenance table: code, versions and hardware behind a study's numbers, and missing runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neuroprune.errors import UserError
from neuroprune.results.tables.formats import Table


def provenance(study_dir: Path) -> Table:
    """Make the provenance table from the ``provenance.json`` written by ``collect``.

    Args:
        study_dir: The study's folder.

    Returns:
        One row per fact; the notes list incomplete, diverged and unreadable runs.

    Raises:
        UserError: If ``provenance.json`` is missing or damaged.
    """
    path = study_dir / "provenance.json"
    try:
        facts = _facts(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read; run `neuroprune collect --study {study_dir}`.") from error
    rows = pd.DataFrame(list(facts["rows"].items()), columns=["What", "Value"])
    return Table(f"Provenance of the study “{study_dir.name}”", rows, {"Code, machine, runs": rows}, facts["notes"])


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Format the collected facts as short texts."""
    rows = {
        "Runs": ", ".join(f"{count} {status}" for status, count in data["runs"].items()),
        "Commit": ", ".join(data["commits"]),
        "Runs by changed, uncommitted code": str(data["dirty_runs"]),
        "Accelerator": ", ".join(data["devices"]),
        "Processor": ", ".join(data["cpus"]),
        "Threads of a training": ", ".join(map(str, data["threads"])),
        "System": ", ".join(data["platforms"]),
        "First run, last run": f"{data['first']}, {data['last']}",
        "Training in all": f"{data['training_seconds']:.0f} s",
    }
    versions = {name: ", ".join(found) for name, found in data["versions"].items()}
    return {"rows": rows | versions, "notes": data["notes"]}
