"""Reduction of dropout after the last removal event."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


class ScaledDropout:
    """Dropout rates of a model, multiplied by a factor until `release`.

    A cut model has a fraction of its capacity left and rarely overfits in the steps that remain. Reached are dropout
    modules, and the rates that other modules keep as numbers, as attentions of transformers do; not layer dropout.
    The configuration is not changed.

    Args:
        factor: Multiple of the model's rates, 0 to 1; 1 leaves them as they are.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._original: list[tuple[nn.Module, str, float]] = []

    def begin(self, model: nn.Module) -> None:
        """Multiply the rates; further calls do nothing until `release`."""
        if self._factor == 1 or self._original:
            return
        self._original = list(dropout_rates(model))
        for module, name, rate in self._original:
            setattr(module, name, rate * self._factor)

    def release(self) -> None:
        """Restore the rates; further calls do nothing."""
        while self._original:
            module, name, rate = self._original.pop()
            setattr(module, name, rate)


def dropout_rates(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield module, attribute and value of every dropout rate above 0, each module once."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            names = ["p"]
        else:
            names = [name for name, value in vars(module).items() if "dropout" in name and type(value) is float]
        yield from ((module, name, getattr(module, name)) for name in names if getattr(module, name) > 0)
