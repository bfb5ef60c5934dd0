"""Support for code that calls a model's `forward` directly, bypassing hooks, such as sentence-transformers."""

from __future__ import annotations

from functools import wraps
from types import MethodType
from typing import Any

from torch import nn

INSIDE = "_neuroprune_inside_call"
"""Model attribute that is true between its pre-hooks and its forward pass."""


class HookedForward:
    """Make `model.forward(...)` equivalent to `model(...)`, including hooks, until `detach`.

    Methods read batches and draw masks in the model's hooks, which PyTorch runs only for `model(...)`.

    Args:
        model: The model, whose `forward` is replaced until `detach`. Copies of it behave in the same way with their own
            hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._replaced = model, model.__dict__.get("forward")
        original = type(model).forward if self._replaced is None else _unbound(self._replaced)

        @wraps(original)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.__dict__.pop(INSIDE, False):
                return original(self, *args, **kwargs)
            return self(*args, **kwargs)

        self._handle = model.register_forward_pre_hook(_enter)
        model.__dict__["forward"] = MethodType(forward, model)

    def detach(self) -> None:
        """Restore the model's original `forward`."""
        self._handle.remove()
        for name in ("forward", INSIDE):
            self._model.__dict__.pop(name, None)
        if self._replaced is not None:
            self._model.__dict__["forward"] = self._replaced


def _enter(model: nn.Module, args: Any) -> None:
    model.__dict__[INSIDE] = True


def _unbound(function: Any) -> Any:
    """Return a function of the model and the arguments."""
    if isinstance(function, MethodType):
        return function.__func__
    return wraps(function)(lambda model, *args, **kwargs: function(*args, **kwargs))
