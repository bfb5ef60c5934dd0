"""Freezing of the embeddings during a run."""

from __future__ import annotations

from torch import Tensor, nn

from neuroprune.methods.hooks import Run


def freeze_embeddings(run: Run) -> list[Tensor]:
    """Freeze the embeddings: they get no gradient, no optimizer step and no weight decay.

    Args:
        run: The embeddings of its model are frozen, except those tied to the output layer and the attentions' position
            biases.

    Returns:
        The parameters that were trainable before.
    """
    output = getattr(run.model, "get_output_embeddings", lambda: None)()
    in_use = {module for attention in run.blocks.attentions for module in attention.module.modules()}
    embeddings = [m for m in run.model.modules() if isinstance(m, nn.Embedding) and m not in in_use]
    tied = getattr(output, "weight", None)
    frozen = [e.weight for e in embeddings if e.weight.requires_grad and e.weight is not tied]
    for weight in frozen:
        weight.requires_grad_(False)
        weight.grad = None
    return frozen
