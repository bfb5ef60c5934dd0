"""Import hook by which transformers can load cut models, whichever package is imported first.

Loading is taught by `neuroprune.models.quantizer`, which needs torch and transformers. Importing it here would make
`import neuroprune` slow, so it is imported as soon as transformers' own loading code is: at once if that exists
already, otherwise right after it. Python has no event for "this module was imported". The usual substitute is a finder
that waits for one module, lets the other finders load it, and is removed after its execution. wrapt's post-import hooks
would do the same, but importing wrapt takes 60 ms, twice as long as a bare interpreter and this package together.
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
"""Imported by transformers before it loads any model; keeps the registry that `quantizer` writes into."""


def teach_transformers() -> None:
    """Import `neuroprune.models.quantizer` as soon as transformers can load models; does nothing the second time."""
    if AWAITED in sys.modules:
        import_module("neuroprune.models.quantizer")
    elif not any(isinstance(finder, _Await) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Await())


class _Await(MetaPathFinder):
    """Finder of one module, which runs `neuroprune.models.quantizer` after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the awaited module's spec; nothing for all others."""
        if fullname != AWAITED:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        """Let `neuroprune.models.quantizer` follow when this loader has executed its module."""

        def exec_module(module: ModuleType) -> None:
            """Execute the module with the loader's own method, then import `neuroprune.models.quantizer`."""
            del loader.exec_module  # the loader's own is back
            loader.exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            import_module("neuroprune.models.quantizer")

        loader.exec_module = exec_module
