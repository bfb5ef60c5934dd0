"""NeuroPrune: transformers that shrink during fine-tuning.

Importing this package is cheap: dependencies such as torch are loaded when a public name is first used. The only side
effect is that transformers can then load cut models like any other (see `models/import_hook.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroprune.models.import_hook import teach_transformers

if TYPE_CHECKING:
    from neuroprune.methods import DSP, L1, CoFi, Dense, NeuroPrune, RandomUnits, Taylor
    from neuroprune.methods.hooks import Run
    from neuroprune.methods.linear_probe import LinearProbe
    from neuroprune.models.pretrained import from_pretrained, save_pretrained
    from neuroprune.models.vocabulary import trim_vocabulary
    from neuroprune.pruning import heads, penalties, topology
    from neuroprune.pruning.architectures import register_architecture
    from neuroprune.pruning.blocks import find_blocks
    from neuroprune.pruning.sparsity import measure_sparsity
    from neuroprune.pruning.surgery import remove, remove_zero_units
    from neuroprune.training.budget import at_dense_cost

__all__ = [
    "DSP",
    "L1",
    "CoFi",
    "Dense",
    "LinearProbe",
    "NeuroPrune",
    "RandomUnits",
    "Run",
    "Taylor",
    "at_dense_cost",
    "find_blocks",
    "from_pretrained",
    "heads",
    "measure_sparsity",
    "penalties",
    "register_architecture",
    "remove",
    "remove_zero_units",
    "save_pretrained",
    "topology",
    "trim_vocabulary",
]

_MODULES = {
    "CoFi": "methods",
    "DSP": "methods",
    "L1": "methods",
    "Dense": "methods",
    "LinearProbe": "methods.linear_probe",
    "NeuroPrune": "methods",
    "RandomUnits": "methods",
    "Run": "methods.hooks",
    "Taylor": "methods",
    "at_dense_cost": "training.budget",
    "find_blocks": "pruning.blocks",
    "from_pretrained": "models.pretrained",
    "measure_sparsity": "pruning.sparsity",
    "register_architecture": "pruning.architectures",
    "remove": "pruning.surgery",
    "remove_zero_units": "pruning.surgery",
    "save_pretrained": "models.pretrained",
    "trim_vocabulary": "models.vocabulary",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name in _MODULES:
        return getattr(import_module(f"neuroprune.{_MODULES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version  # half of the time that importing this package takes

        return version("neuroprune")
    if name in __all__:
        return import_module(f"neuroprune.pruning.{name}")
    raise AttributeError(f"module 'neuroprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})


teach_transformers()
