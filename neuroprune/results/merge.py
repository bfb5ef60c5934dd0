"""Merge the runs of several studies or machines into one study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroprune.config.versions import different_versions
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_bytes, write_json
from neuroprune.results.records import read_plan, read_record

KEPT = ("run.json", "timing.json", "*.safetensors")  # files of a run that are copied; models are not


def merge(sources: Sequence[Path], target: Path) -> list[str]:
    """Copy the records and small arrays of several studies into one folder, ready for ``collect`` or ``redraw``.

    If several sources contain a run, each of its files is copied from the first source that has it.

    Args:
        sources: Folders of studies.
        target: The folder to write; it may contain an earlier merge.

    Returns:
        Names of all runs in the target.

    Raises:
        UserError: If a source has no run, two sources have different records of the same run, a folder has the record
            of another run, a plan or record is damaged, or the target is a file. Nothing is written in these cases.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; give the folder of a study, new or existing.")
    found: dict[str, list[Path]] = defaultdict(list)
    for source in sources:
        records = sorted(Path(source).glob("runs/*/run.json"))
        if not records:
            raise UserError(f"{source}: no run has a record (runs/*/run.json); give the folder of a study.")
        for record in records:
            found[record.parent.name].append(record.parent)
            _check_same(found[record.parent.name][0], record.parent)
    for name, folders in found.items():
        earlier = target / "runs" / name / "run.json"
        if earlier.exists():
            _check_same(earlier.parent, folders[0])
    first = {path.parent.name: path for path in sorted(target.glob("runs/*/run.json"))}
    first |= {name: folders[0] / "run.json" for name, folders in found.items()}
    recorded = {name: _settings_of(path) for name, path in sorted(first.items())}
    plans = [read_plan(Path(folder)) for folder in (*sources, target)]
    for name, folders in found.items():
        for path in _files(folders):
            write_bytes(target / "runs" / name / path.name, path.read_bytes())
    write_json(target / "plan.json", _one_plan(plans, recorded, target.name))
    return sorted(recorded)


def _settings_of(path: Path) -> dict[str, Any]:
    """Return the settings in a record; reject the record of a run that is not named like its folder."""
    record = read_record(path)
    if record.run != path.parent.name:
        raise UserError(f"{path.parent}: contains the record of the run {record.run}; delete or rename it.")
    return record.settings.model_dump(mode="json")


def _check_same(one: Path, other: Path) -> None:
    """Reject different records with the same name."""
    if one == other:
        return
    first, second = (read_record(folder / "run.json") for folder in (one, other))
    if first != second:
        versions = different_versions(first.settings.method, second.settings.method)
        raise UserError(
            f"{one} and {other} are different records of a run with the same name"
            f"{f', made by {versions}' if versions else ''}; leave one of them out, or rename the model or task in one "
            "of the studies."
        )


def _files(folders: Sequence[Path]) -> list[Path]:
    """Return the files to copy for one run, each from the first folder that contains it."""
    there = [path for folder in folders for pattern in KEPT for path in sorted(folder.glob(pattern)) if path.is_file()]
    return list({path.name: path for path in reversed(there)}.values())


def _one_plan(plans: Sequence[dict[str, Any]], recorded: dict[str, Any], study: str) -> dict[str, Any]:
    """Merge the plans, so that missing runs remain listed; add the settings of records without a plan."""
    runs: dict[str, Any] = {}
    for plan in plans:
        runs = {**plan["runs"], **runs}
    runs |= {name: settings for name, settings in recorded.items() if name not in runs}
    timed = dict.fromkeys(name for plan in plans for name in plan["timed"])
    return {"schema_version": 1, "study": study, "runs": runs, "timed": list(timed)}
