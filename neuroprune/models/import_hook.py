"""Import hook that enables transformers to load cut models, regardless of the order of imports.

Loading is implemented by `neuroprune.models.quantizer`, which needs torch and transformers. Importing it here would
make `import neuroprune` slow. It is therefore imported right after transformers' loading code, or immediately if that
is already loaded. Python has no event for "this module was imported". The usual substitute is a finder that waits for
one module, lets the other finders load it, and is removed after its execution. wrapt's post-import hooks would do the
same, but importing wrapt takes 60 ms, twice as long as a bare interpreter and this package together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AWAITED = "transformers.quantizers"
"""Module that transformers imports before it loads any model; contains the registry extended by `quantizer`."""


def teach_transformers() -> None:
    """Import `neuroprune.models.quantizer` as soon as transformers can load models; further calls do nothing."""
    if AWAITED in sys.modules:
        import_module("neuroprune.models.quantizer")
    elif not any(isinstance(finder, _Await) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Await())


class _Await(MetaPathFinder):
    """Finder of one module that imports `neuroprune.models.quantizer` after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the awaited module's spec; None for all other modules."""
        if fullname != AWAITED:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        """Import `neuroprune.models.quantizer` after this loader has executed its module."""

        def exec_module(module: ModuleType) -> None:
            """Execute the module with the loader's original method, then import `neuroprune.models.quantizer`."""
            del loader.exec_module  # restores the loader's original method
            loader.exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            import_module("neuroprune.models.quantizer")

        loader.exec_module = exec_module
