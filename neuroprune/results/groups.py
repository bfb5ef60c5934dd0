"""Grouping of runs by settings: runs that differ only in their seed form a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neuroprune.config.canonical import canonical, canonical_but_seed
from neuroprune.config.plan import POINT, differences, options, short_name
from neuroprune.config.settings import RunSettings
from neuroprune.config.versions import in_version, version_of

Kind = tuple[Any, ...]


@dataclass(frozen=True)
class Group:
    """A set of runs that are averaged.

    Args:
        name: Model, task, method, point and variant; the same for all seeds.
        variant: Options that differ from the usual settings of the same kind, such as ``events_1``, and an earlier
            version than that of other runs of the same method, such as ``version_2``; usually empty.
    """

    name: str
    variant: str


def groups(runs: Iterable[RunSettings], usual: dict[Kind, RunSettings]) -> list[Group]:
    """Return the group of each run.

    Args:
        runs: Settings of runs.
        usual: The usual settings of each kind of run, as returned by `first_of_each_kind`.

    Returns:
        The group of each run. Two runs share a group if and only if their settings differ only in name and seed.
    """
    taken: dict[str, str] = {}
    found = []
    newest = _newest_versions(runs := list(runs))
    for run in runs:
        changes = _changes_from(run, usual[_kind(run)], newest[_form(run)])
        name = "-".join([short_name(run.model.name, run.task.name, run.method), *changes])
        identity = canonical_but_seed(run)
        while taken.setdefault(name, identity) != identity:  # different values can have the same format
            name += "_"
        found.append(Group(name, "-".join(changes)))
    return found


def first_of_each_kind(runs: Iterable[RunSettings]) -> dict[Kind, RunSettings]:
    """Return the first run of each model, task, method and point."""
    found: dict[Kind, RunSettings] = {}
    for run in runs:
        found.setdefault(_kind(run), run)
    return found


def usual_first(runs: Iterable[RunSettings]) -> list[RunSettings]:
    """Sort runs without a plan: fewest changes from the method's defaults first, then commonest training settings."""
    runs = list(runs)
    common = Counter(canonical(run.training) for run in runs)
    return sorted(runs, key=lambda run: (_changes(run), -common[canonical(run.training)]))


def _changes_from(run: RunSettings, usual: RunSettings, newest: int) -> list[str]:
    """Return the options that differ from the usual settings, and the version if other runs have a newer one."""
    version = version_of(run.method)
    same_version = usual.model_copy(update={"method": in_version(usual.method, version)})
    earlier = [f"version_{version}"] if version is not None and version < newest else []
    return [*earlier, *differences(_options(run), _options(same_version))]


def _newest_versions(runs: Iterable[RunSettings]) -> dict[tuple[str, str], int]:
    """Return the newest version among the runs of each method and form."""
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        found[_form(run)] = max(found.get(_form(run), 0), version_of(run.method) or 0)
    return found


def _form(run: RunSettings) -> tuple[str, str]:
    """Return a run's method and form, whose versions are compared."""
    return run.method.name, getattr(run.method, "form", "")


def _kind(run: RunSettings) -> Kind:
    """Return the kind of a run: model, task, method and point."""
    return (run.model.name, run.task.name, run.method.name, *(getattr(run.method, name, None) for name in POINT))


def _options(run: RunSettings) -> dict[str, Any]:
    """Return all settings of a run as a flat mapping, without the run's name and seed."""
    sources = {"model": run.model, "task": run.task}
    more = {f"{part}.{name}": value for part, settings in sources.items() for name, value in settings}
    return options(run.method, run.training) | more


def _changes(run: RunSettings) -> int:
    """Count the method's settings that differ from their defaults."""
    return sum(value != run.method.default(name) for name, value in run.method)
