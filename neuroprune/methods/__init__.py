"""The methods by name; a class loads when it is asked for.

A new method is one file with a class of `base.Method`, its settings in `neuroprune.config.settings`, and one line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroprune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from neuroprune.config.settings import MethodSettings
    from neuroprune.methods.base import Method

METHODS: dict[str, str] = {
    "dense": "neuroprune.methods.dense:Dense",
    "l1": "neuroprune.methods.l1:L1",
    "neuroprune": "neuroprune.methods.neuroprune:NeuroPrune",
    "cofi": "neuroprune.methods.cofi.method:CoFi",
    "dsp": "neuroprune.methods.dsp:DSP",
    "taylor": "neuroprune.methods.taylor:Taylor",
    "random": "neuroprune.methods.random_units:RandomUnits",
}


def find(name: str) -> type[Method]:
    """Load the class of a method.

    Args:
        name: A key of `METHODS`.

    Returns:
        The class.

    Raises:
        UserError: If there is no such method.
    """
    if name not in METHODS:
        raise UserError(f"method {name!r} is unknown{did_you_mean(name, METHODS)}; known are {', '.join(METHODS)}.")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def build(settings: MethodSettings) -> Method:
    """Make the method that the settings name."""
    return find(settings.name).from_settings(settings)


def __getattr__(name: str) -> Any:
    """Load `methods.NeuroPrune` and the other classes when they are used."""
    for path in METHODS.values():
        module, _, attribute = path.partition(":")
        if attribute == name:
            return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
