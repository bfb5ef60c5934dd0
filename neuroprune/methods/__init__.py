"""Registry of methods by name; each class is imported on first use.

To add a method, write one file with a subclass of `callback.Method`, its settings in `neuroprune.config`, and one line
in `METHODS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroprune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from neuroprune.config.methods import MethodSettings
    from neuroprune.methods.callback import Method

METHODS: dict[str, str] = {
    "dense": "neuroprune.methods.dense:Dense",
    "l1": "neuroprune.methods.l1:L1",
    "neuroprune": "neuroprune.methods.neuroprune.method:NeuroPrune",
    "cofi": "neuroprune.methods.cofi.method:CoFi",
    "dsp": "neuroprune.methods.dsp:DSP",
    "taylor": "neuroprune.methods.taylor:Taylor",
    "random": "neuroprune.methods.random_units:RandomUnits",
}


def find(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: A key of `METHODS`.

    Returns:
        The class.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in METHODS:
        raise UserError(f"method {name!r} is unknown{did_you_mean(name, METHODS)}; choose one of {', '.join(METHODS)}.")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def build(settings: MethodSettings) -> Method:
    """Create the method named by the settings."""
    return find(settings.name).from_settings(settings)


def __getattr__(name: str) -> Any:
    """Import `methods.NeuroPrune` and the other classes on first use."""
    for path in METHODS.values():
        module, _, attribute = path.partition(":")
        if attribute == name:
            return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
