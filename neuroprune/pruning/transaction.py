"""Atomic changes to a model and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

from torch import Tensor

_MISSING = object()


class Transaction:
    """Staged assignments, which take effect on `commit`.

    New values are computed while assignments are staged, so that an error at this stage changes nothing. If an
    assignment fails or is interrupted, `commit` undoes the previous ones in reverse order.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Callable[[], Any], Callable[[], Any]]] = []

    def set(self, owner: Any, name: str, value: object) -> None:
        """Stage `owner.name = value`."""
        old = getattr(owner, name, _MISSING)
        undo = (lambda: vars(owner).pop(name, None)) if old is _MISSING else (lambda: setattr(owner, name, old))
        self._staged.append((lambda: setattr(owner, name, value), undo))

    def shadow(self, owner: Any, name: str, value: object) -> None:
        """Stage an attribute of an instance that hides one of its class, such as a method."""
        old = vars(owner).get(name, _MISSING)
        undo = (lambda: vars(owner).pop(name, None)) if old is _MISSING else (lambda: vars(owner).update({name: old}))
        self._staged.append((lambda: vars(owner).update({name: value}), undo))

    def replace(self, mapping: MutableMapping[Any, Any], content: MutableMapping[Any, Any]) -> None:
        """Stage the replacement of all entries of `mapping` by `content`; the mapping remains the same object."""
        old = dict(mapping)
        self._staged.append((lambda: _refill(mapping, content), lambda: _refill(mapping, old)))

    def copy(self, tensor: Tensor, value: Tensor) -> None:
        """Stage an in-place change of a tensor's values; `commit` must run under `torch.no_grad`."""
        old = tensor.detach().clone()
        self._staged.append((lambda: tensor.copy_(value), lambda: tensor.copy_(old)))

    def commit(self) -> None:
        """Apply all staged changes; on any exception, undo them and re-raise it."""
        started: list[Callable[[], Any]] = []
        try:
            for change, undo in self._staged:
                started.append(undo)
                change()
        except BaseException:
            for undo in reversed(started):
                with suppress(Exception):  # a failed assignment may not be reversible either
                    undo()
            raise


def _refill(mapping: MutableMapping[Any, Any], content: MutableMapping[Any, Any]) -> None:
    mapping.clear()
    mapping.update(content)
