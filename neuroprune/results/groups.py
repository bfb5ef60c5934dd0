"""Groups of runs that differ only in their seed, and variants of a usual setting, both found from settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neuroprune.config.canonical import canonical, canonical_but_seed
from neuroprune.config.plan import POINT, differences, options, short_name
from neuroprune.config.settings import RunSettings

Kind = tuple[Any, ...]


@dataclass(frozen=True)
class Group:
    """The runs that are averaged with each other.

    Args:
        name: Model, task, method, point and variant; the same for all seeds.
        variant: Options in which its settings differ from the usual ones of their kind, ``events_1``; usually empty.
    """

    name: str
    variant: str


def groups(runs: Iterable[RunSettings], usual: dict[Kind, RunSettings]) -> list[Group]:
    """Return the group of each run.

    Args:
        runs: Settings of runs.
        usual: The settings that each kind of run is compared with, as `first_of_each_kind` returns them.

    Returns:
        One group for each run. Runs are in one group exactly if their settings differ in name and seed alone.
    """
    taken: dict[str, str] = {}
    found = []
    for run in runs:
        changes = differences(_options(run), _options(usual[_kind(run)]))
        name = "-".join([short_name(run.model.name, run.task.name, run.method), *changes])
        identity = canonical_but_seed(run)
        while taken.setdefault(name, identity) != identity:  # values that are formatted the same way
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
    """Sort runs that have no plan: fewest changes from the method's defaults first, then common training settings."""
    runs = list(runs)
    common = Counter(canonical(run.training) for run in runs)
    return sorted(runs, key=lambda run: (_changes(run), -common[canonical(run.training)]))


def _kind(run: RunSettings) -> Kind:
    """Return what runs of one kind share: model, task, method and point."""
    return (run.model.name, run.task.name, run.method.name, *(getattr(run.method, name, None) for name in POINT))


def _options(run: RunSettings) -> dict[str, Any]:
    """Return all settings of a run by name, without its own name and seed."""
    sources = {"model": run.model, "task": run.task}
    more = {f"{part}.{name}": value for part, settings in sources.items() for name, value in settings}
    return options(run.method, run.training) | more


def _changes(run: RunSettings) -> int:
    """Count the method's settings that differ from their defaults."""
    fields = type(run.method).model_fields
    return sum(value != fields[name].get_default() for name, value in run.method)
