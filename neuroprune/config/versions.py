"""Versions of methods, whose results differ.

Heavy imports are avoided because Snakemake imports this module while it builds the job graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, get_args

from neuroprune.config.canonical import settings_hash
from neuroprune.config.settings import RunSettings


def version_of(method: Any) -> int | None:
    """Return the version of a method's settings; None for dense fine-tuning, which has none."""
    return getattr(method, "version", None)


def named(method: Any) -> str:
    """Name the version of a method's settings: `version 2 of neuroprune`."""
    return f"version {version_of(method)} of {method.name}"


def in_version(method: Any, version: int | None = None) -> Any:
    """Return a method's settings in another version, with its defaults.

    Args:
        method: The settings.
        version: The version; default: the one that this program trains.

    Returns:
        The same settings, with the other version's defaults in place of their own.
    """
    if version_of(method) in (None, version):
        return method
    given = {name: value for name, value in method if value != method.default(name) and name != "version"}
    return type(method)(**given, **({} if version is None else {"version": version}))


def earlier_version(method: Any, wanted: str) -> int | None:
    """Return the earlier version in which a method's settings have this hash; None if there is none."""
    newest = version_of(method) or 0
    known = get_args(type(method).model_fields["version"].annotation) if newest else ()
    same = (v for v in known if v < newest and settings_hash(in_version(method, v)) == wanted)
    return next(same, None)


def is_earlier(method: Any) -> bool:
    """Return whether settings are those of an earlier version than this program trains."""
    return version_of(method) != version_of(in_version(method))


def earlier_versions(runs: Iterable[RunSettings]) -> dict[str, list[str]]:
    """Return the names of runs of earlier versions, by a description of their version."""
    found: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if is_earlier(method := run.method):
            newest = version_of(in_version(method))
            found[f"made by {named(method)}, whose results differ from those of version {newest}"].append(run.run)
    return dict(found)


def different_versions(one: Any, other: Any) -> str:
    """Name the versions of two settings of one method, or return an empty string if they are equal."""
    if one.name != other.name or version_of(one) == version_of(other):
        return ""
    return f"{named(one)} and {named(other)}"
