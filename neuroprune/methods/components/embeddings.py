"""Freezing of parameters, such as the embeddings, during a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from neuroprune.methods.hooks import Run


class FrozenParameters:
    """Parameters that are frozen until `release`, stored by name because a cut replaces parameters.

    Args:
        model: Their model.
        names: Their names.
    """

    def __init__(self, model: nn.Module | None = None, names: Sequence[str] = ()) -> None:
        self._model, self.names = model, tuple(names)

    @classmethod
    def freeze(cls, model: nn.Module, parameters: Iterable[Any]) -> FrozenParameters:
        """Freeze those of a model's parameters that are trainable."""
        chosen = {id(parameter) for parameter in parameters if parameter.requires_grad}
        frozen = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
        for parameter in frozen.values():
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimizer would still take a step with it
        return cls(model, tuple(frozen))

    def __bool__(self) -> bool:
        return bool(self.names)

    def release(self) -> None:
        """Unfreeze the parameters; further calls do nothing."""
        for name in self.names:
            assert self._model is not None
            self._model.get_parameter(name).requires_grad_(True)
        self.names = ()


def freeze_embeddings(run: Run) -> FrozenParameters:
    """Freeze the embeddings, so that they have no gradient, optimizer step or weight decay.

    Args:
        run: The run whose model's embeddings are frozen, except embeddings tied to the output layer and position biases
            of attentions.

    Returns:
        The parameters that were trainable before.
    """
    output = getattr(run.model, "get_output_embeddings", lambda: None)()
    in_use = {module for attention in run.blocks.attentions for module in attention.module.modules()}
    embeddings = [m for m in run.model.modules() if isinstance(m, nn.Embedding) and m not in in_use]
    tied = getattr(output, "weight", None)
    return FrozenParameters.freeze(run.model, [e.weight for e in embeddings if e.weight is not tied])
