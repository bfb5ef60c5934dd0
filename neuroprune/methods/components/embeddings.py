"""Freezing of the embeddings during a run."""

from __future__ import annotations

from collections.abc import Sequence

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
    frozen = {id(e.weight) for e in embeddings if e.weight.requires_grad and e.weight is not tied}
    names = [name for name, parameter in run.model.named_parameters() if id(parameter) in frozen]
    for name in names:
        weight = run.model.get_parameter(name)
        weight.requires_grad_(False)
        weight.grad = None
    return FrozenParameters(run.model, names)
