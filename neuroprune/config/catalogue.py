"""Configuration files: studies, and the catalogue of models and datasets that they refer to.

``config/models.yaml`` lists sources of models, and ``config/tasks/<name>.yaml`` describes a dataset. A study refers to
these rows, and may change their keys or add rows. The whole study is checked before any work, and all errors are
reported together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from neuroprune.config.availability import without_absent_data
from neuroprune.config.jobs import long_commands
from neuroprune.config.messages import Location, sentences
from neuroprune.config.plan import Plan, expand
from neuroprune.config.study import ModelRow, StudySettings, TaskRow
from neuroprune.config.yaml_files import as_mapping, read_yaml
from neuroprune.errors import ConfigError, did_you_mean

CATALOGUE = Path("config")
_MODELS, _TASKS = "models.yaml", "tasks"
_SECTIONS = ("seeds", "training", "timing", "models", "tasks")  # sections that may be missing or empty


@dataclass(frozen=True)
class Catalogue:
    """Rows of models and tasks, as written in ``config/models.yaml`` and ``config/tasks``.

    Args:
        models: Rows by name.
        tasks: Rows by name.
        problems: One sentence per mistake in the rows.
    """

    models: Mapping[str, Any]
    tasks: Mapping[str, Any]
    problems: tuple[str, ...] = ()


def make_plan(
    raw: Mapping[str, Any],
    source: str,
    catalogue: Path | Catalogue = CATALOGUE,
    artefacts: Sequence[str] | None = None,
) -> Plan:
    """Check a study and expand it to its plan.

    Args:
        raw: The content of the study file.
        source: Name of that file in error messages.
        catalogue: The rows, or the folder with ``models.yaml`` and ``tasks/``.
        artefacts: Names of all figures and tables; None: names are not checked.

    Returns:
        The plan.

    Raises:
        ConfigError: If there are errors in the rows or, otherwise, in the study; one sentence each.
    """
    rows = catalogue if isinstance(catalogue, Catalogue) else read_catalogue(catalogue)
    if rows.problems:
        raise ConfigError(rows.problems)
    raw = _without_empty(as_mapping(raw, source))
    problems = _unknown_rows(raw, rows)
    full = with_rows(raw, rows)
    known = _known_names(full, artefacts)
    plan = None
    try:
        plan = _at_hand(expand(StudySettings.model_validate(full, context=known)))
        problems += long_commands(plan)
    except ValidationError as error:
        problems += sentences(error, StudySettings)
        problems += _problems_of_the_rest(full, error, artefacts)
    except ConfigError as error:
        problems += error.problems
    if plan is None or problems:
        raise ConfigError(f"{source}: {problem}" for problem in problems)
    return plan


def _at_hand(plan: Plan) -> Plan:
    """Leave out tasks without data if the study requests this; redrawing results needs no data."""
    if plan.study.from_results or not plan.study.skip_absent_data:
        return plan
    study, skipped = without_absent_data(plan.study)
    return replace(expand(study), skipped=skipped) if skipped else plan


def read_study(files: Iterable[str | Path]) -> dict[str, Any]:
    """Read a study from one or more files; later files override earlier ones."""
    study: dict[str, Any] = {}
    for file in files:
        study = merge(study, read_yaml(Path(file)))
    return study


def read_catalogue(folder: Path) -> Catalogue:
    """Read the catalogue of models and tasks.

    Args:
        folder: The folder with ``models.yaml`` and ``tasks/``; missing files count as empty.

    Returns:
        All rows and their problems.
    """
    problems: list[str] = []
    models, tasks = {}, {}
    if (folder / _MODELS).exists():
        for name, row in _read_or_note(folder / _MODELS, problems).items():
            models[str(name)] = row
            problems += _problems_of_row(row, ModelRow, str(name), folder / _MODELS, (str(name),))
    for path in sorted((folder / _TASKS).glob("*.yaml")):
        if row := _read_or_note(path, problems):
            tasks[path.stem] = row
            problems += _problems_of_row(row, TaskRow, path.stem, path)
    return Catalogue(models, tasks, tuple(problems))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings recursively, like Snakemake's config files; other values are replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def with_rows(raw: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Merge a study's models and tasks into the catalogue's rows and add the rows' names.

    Args:
        raw: The study as read from its file.
        catalogue: The catalogue.

    Returns:
        The study with complete rows, without rows that are neither in the catalogue nor have a source.
    """
    full = dict(raw)
    for key, rows in (("models", catalogue.models), ("tasks", catalogue.tasks)):
        own = raw.get(key, {})
        if isinstance(own, Mapping):
            own = {name: row for name, row in own.items() if not _changes_nothing(name, row, rows)}
            merged = merge(rows, own).items()
            full[key] = {name: {"name": str(name), **row} if isinstance(row, Mapping) else row for name, row in merged}
    return full


def _without_empty(raw: dict[str, Any]) -> dict[str, Any]:
    """Leave out sections that are empty or contain only comments."""
    return {key: value for key, value in raw.items() if value is not None or key not in _SECTIONS}


def _read_or_note(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except ConfigError as error:
        problems.extend(error.problems)
        return {}


def _problems_of_row(row: Any, kind: type[BaseModel], name: str, path: Path, above: Location = ()) -> list[str]:
    try:
        kind.model_validate({"name": name, **row} if isinstance(row, Mapping) else row)
    except ValidationError as error:
        return [f"{path}: {text}" for text in sentences(error, kind, above)]
    return []


def _changes_nothing(name: str, row: Any, rows: Mapping[str, Any]) -> bool:
    return name not in rows and isinstance(row, Mapping) and "source" not in row


def _unknown_rows(raw: Mapping[str, Any], catalogue: Catalogue) -> list[str]:
    """Report rows without a source that match no catalogue row and are most likely misspelled."""
    found = []
    for key, rows in (("models", catalogue.models), ("tasks", catalogue.tasks)):
        own = raw.get(key)
        for name, row in own.items() if isinstance(own, Mapping) else ():
            if _changes_nothing(name, row, rows):
                found.append(f"{key}.{name}: no such row exists{did_you_mean(name, rows)}; a new row needs a source")
    return found


def _known_names(full: Mapping[str, Any], artefacts: Sequence[str] | None) -> dict[str, Any]:
    """Return the valid names for experiments by kind; rows that are not mappings are reported separately."""
    rows = {kind: full.get(f"{kind}s", {}) for kind in ("model", "task")}
    return {"artefact": artefacts} | {kind: [*row] if isinstance(row, Mapping) else None for kind, row in rows.items()}


def _problems_of_the_rest(
    full: Mapping[str, Any], error: ValidationError, artefacts: Sequence[str] | None
) -> list[str]:
    """Report duplicate runs and inapplicable methods in the study without its invalid values."""
    rest = json.loads(json.dumps({**full, "study": "study"}, default=str))
    for _ in range(9):
        if not _leave_out_all(rest, error):
            return []
        try:
            expand(StudySettings.model_validate(rest, context=_known_names(rest, artefacts)))
            return []
        except ConfigError as found:
            return found.problems
        except ValidationError as again:
            error = again
    return []


def _leave_out_all(data: Any, error: ValidationError) -> bool:
    """Delete all invalid values in place, from last to first to keep list indices valid; return whether it worked."""
    places = [line["loc"] for line in reversed(error.errors()) if line["loc"] != ("study",)]
    return min([_leave_out(data, place) for place in places], default=True)


def _leave_out(data: Any, location: Location) -> bool:
    """Delete the value at a location, or its innermost existing parent, in place; return whether this succeeded."""
    found = None
    for part in location:
        if not (part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))):
            break
        found, data = (data, part), data[part]
    if found is not None:
        del found[0][found[1]]
    return found is not None
