"""Application of CoFi's masks during training, and their exact fold into the weights with removal of closed units.

The fold differs from the authors': a hidden mask that is neither 0 nor 1 is multiplied into all writers of the residual
stream and into the layer norms' weights *and biases*, not into the readers. The compacted model thus has the same
outputs as the masked one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroprune.methods.cofi.masks import MaskValues
from neuroprune.methods.components.unit_masks import DrawnMasks, masked_units, remove_closed
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Block, Blocks
from neuroprune.pruning.residual_stream import Stream, remove_hidden


class MaskedModel:
    """Hooks that draw and apply masks in each forward pass until `detach`.

    Args:
        model: A model.
        blocks: Its attentions and MLPs.
        stream: Its residual stream, None if there is no hidden mask.
        draw: Function that returns the masks; its argument is true in training.
    """

    def __init__(
        self, model: nn.Module, blocks: Blocks, stream: Stream | None, draw: Callable[[bool], MaskValues]
    ) -> None:
        self._masks, self._norms = DrawnMasks(model, draw), [] if stream is None else stream.norms
        self._handles: list[RemovableHandle] = []
        for block in blocks.all:
            module, hidden = block.output.module, stream is not None
            self._handles.append(module.register_forward_pre_hook(partial(self._multiply_units, block)))
            self._handles.append(module.register_forward_hook(partial(self._multiply_output, block, hidden)))
        for table in [] if stream is None else stream.embeddings:
            self._handles.append(table.register_forward_hook(self._multiply_hidden))
        # kernels such as Liger's replace `forward` on the module itself
        self._own_forwards = {norm: norm.__dict__["forward"] for norm in self._norms if "forward" in norm.__dict__}
        for norm in self._norms:
            norm.forward = partial(self._normalise, norm)

    @property
    def masks(self) -> MaskValues:
        """The masks of the last forward pass."""
        return self._masks.last

    def detach(self) -> None:
        """Remove the masks from the model."""
        self._masks.detach()
        while self._handles:
            self._handles.pop().remove()
        for norm in self._norms:
            norm.__dict__.pop("forward", None)
        for norm, forward in self._own_forwards.items():
            norm.forward = forward

    def _multiply_units(self, block: Block, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mask = self._masks.current().of(block).units
        return (masked_units(inputs[0], mask), *inputs[1:]) if len(mask) else inputs

    def _multiply_output(self, block: Block, hidden: bool, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        masks = self._masks.current()
        output = output * masks.of(block).output.to(output)
        return output * masks.hidden.to(output) if hidden else output

    def _multiply_hidden(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * self._masks.current().hidden.to(output)

    def _normalise(self, norm: nn.Module, x: Tensor) -> Tensor:
        mask = self._masks.current().hidden
        return (masked_norm(norm, x, mask) * mask.to(norm.weight)).to(norm.weight.dtype)  # type: ignore[arg-type]


def masked_norm(norm: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Apply a layer norm or root-mean-square norm over the open dimensions only.

    Args:
        norm: An `nn.LayerNorm`, or a module with `weight` and `variance_epsilon`.
        x: `[..., width]`, zero in the closed dimensions.
        mask: `[width]`, 0 where closed.

    Returns:
        float32 `[..., width]`, with the norm's weight and bias applied; closed dimensions contain arbitrary values.
    """
    present = (mask != 0).float()
    count, x = present.sum().clamp_min(1), x.float() * present
    centred = isinstance(norm, nn.LayerNorm)
    if centred:
        x = (x - x.sum(dim=-1, keepdim=True) / count) * present
    variance = x.square().sum(dim=-1, keepdim=True) / count
    y = x * torch.rsqrt(variance + (norm.eps if centred else norm.variance_epsilon)) * norm.weight.float()
    return y if getattr(norm, "bias", None) is None else y + norm.bias.float()


@torch.no_grad()
def compact(run: Run, stream: Stream | None, masks: MaskValues) -> list[str]:
    """Fold masks into the weights and remove closed units without changing the model's output.

    Args:
        run: The run; its model and optimizer state are changed in place.
        stream: The residual stream, None if there is no hidden mask.
        masks: The final masks.

    Returns:
        Names of attentions and MLPs that no longer contribute.
    """
    closed = {}
    for block in run.blocks.all:
        mask = masks.of(block)
        for tensor in (block.output.weight, block.output.bias):
            if tensor is not None:
                tensor.mul_(mask.output.to(tensor))
        closed[block] = mask.units if mask.output != 0 else torch.zeros_like(mask.units)
    if stream is None:
        return remove_closed(run, closed)
    _fold_hidden(stream, [(block.output.weight, block.output.bias) for block in closed], masks.hidden)
    silent = remove_closed(run, closed)
    remove_hidden(run.model, masks.hidden.nonzero().flatten(), run.optimizer)
    return silent


def _fold_hidden(stream: Stream, layers: list[tuple[Tensor, Tensor | None]], mask: Tensor) -> None:
    """Multiply a hidden mask into the writers of the residual stream and into its norms."""
    for table in {id(module.weight): module.weight for module in stream.embeddings}.values():
        table.mul_(mask.to(table))  # type: ignore[operator, arg-type]
    for weight, bias in layers:
        weight.mul_(mask.to(weight)[:, None])
        if bias is not None:
            bias.mul_(mask.to(bias))
    for norm in stream.norms:
        if norm is not stream.tied_norm:  # a tied output layer already has the mask through the embeddings
            for parameter in norm.parameters():
                parameter.mul_(mask.to(parameter))
