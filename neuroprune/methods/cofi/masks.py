"""Parameters, values and expected sparsity of CoFi's five kinds of masks, for any architecture.

`hidden` masks the outputs of embeddings, attentions and MLPs to the residual stream and restricts layer norms to the
open dimensions. `head` and `intermediate` mask an output projection's inputs from a head or neuron. `head_layer` and
`mlp` mask its output, including the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroprune.methods.cofi.hard_concrete import LIMIT, draw, evaluation_gates, open_probability
from neuroprune.methods.hooks import State
from neuroprune.pruning.blocks import Block, Blocks, Mlp
from neuroprune.pruning.sparsity import unit_size

START, SPREAD = 10.0, 0.01  # mean and standard deviation of the initial log alpha
INTERMEDIATE_START = 0.0  # as in the authors' code, which initialises neurons half closed


class BlockMask(NamedTuple):
    """The masks of one attention or MLP.

    Args:
        units: `[units]`, masks of its heads (with grouped queries: key/value heads) or neurons.
        output: A scalar, the mask of the whole block.
        weights: Prunable weights of one unit.
    """

    units: Tensor
    output: Tensor
    weights: int

    def remaining(self) -> Tensor:
        """Return the number of remaining weights at full width, a scalar."""
        return self.output * self.units.sum() * self.weights


@dataclass(frozen=True)
class MaskValues:
    """Values or probabilities of all gates of a model.

    Args:
        hidden: `[width]`.
        attentions: The masks of each attention.
        mlps: The masks of each MLP.
    """

    hidden: Tensor
    attentions: list[BlockMask]
    mlps: list[BlockMask]

    def of(self, block: Block) -> BlockMask:
        """Return the masks of the given attention or MLP."""
        return self.mlps[block.index] if isinstance(block, Mlp) else self.attentions[block.index]

    def open_mlps(self) -> Tensor:
        """Mark the MLPs that contribute to the model's output, bool `[MLPs]`."""
        return torch.stack([mask.output for mask in self.mlps]) != 0


class BlockSize(NamedTuple):
    """The size of an attention or MLP.

    Args:
        units: Number of its heads (with grouped queries: key/value heads) or neurons.
        weights: Prunable weights of one unit.
    """

    units: int
    weights: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of the maskable parts of a model.

    Args:
        width: Dimensions of the residual stream.
        attentions: Sizes of the attentions.
        mlps: Sizes of the MLPs.
    """

    width: int
    attentions: list[BlockSize]
    mlps: list[BlockSize]

    @classmethod
    def of(cls, blocks: Blocks) -> Sizes:
        """Return the sizes of a model's blocks."""
        attentions, mlps = (
            [BlockSize(block.units, unit_size(block)) for block in kind] for kind in (blocks.attentions, blocks.mlps)
        )
        return cls(blocks.mlps[0].out.weight.shape[0], attentions, mlps)


def sparsity_of(values: MaskValues, total: int) -> Tensor:
    """Return the fraction of the dense model's prunable weights that these masks remove.

    For probabilities, this is the expected sparsity: gates are independent, and a weight remains if its hidden
    dimension, its head or neuron and its layer remain. For masks of zeros and ones, it is the exact sparsity. As in the
    whole package, biases, embeddings and norms are not counted.

    Args:
        values: Probabilities of open gates, or 1 for open and 0 for closed gates.
        total: Prunable weights of the dense model.

    Returns:
        A scalar, differentiable with respect to the values.
    """
    heads = sum(mask.remaining() for mask in values.attentions)
    neurons = sum(mask.remaining() for mask in values.mlps)
    return 1 - values.hidden.mean() * (heads + neurons) / total


class MaskParameters:
    """Log alpha of all gates.

    Args:
        sizes: The model's.
        kinds: Kinds of masks to use; gates of other kinds are always open.
        device: Device of the parameters.
    """

    def __init__(self, sizes: Sizes, kinds: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.sizes, self._device = sizes, device
        counts = {
            "hidden": sizes.width,
            "head": sum(size.units for size in sizes.attentions),
            "head_layer": len(sizes.attentions),
            "intermediate": sum(size.units for size in sizes.mlps),
            "mlp": len(sizes.mlps),
        }
        self._counts = counts
        self.log_alpha = {kind: nn.Parameter(_start(kind, counts[kind]).to(device)) for kind in counts if kind in kinds}

    def state_dict(self) -> State:
        """Return log alpha by kind."""
        return {kind: parameter.detach() for kind, parameter in self.log_alpha.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore log alpha in place."""
        for kind, parameter in self.log_alpha.items():
            parameter.data.copy_(state[kind])

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamp every log alpha to [log .01, log 100]."""
        for parameter in self.log_alpha.values():
            parameter.clamp_(-LIMIT, LIMIT)

    def draw(self) -> MaskValues:
        """Draw all gates."""
        return self._values(draw)

    def open_probability(self) -> MaskValues:
        """Return each gate's probability of being open."""
        return self._values(open_probability)

    def for_evaluation(self, shift: float = 0.0) -> MaskValues:
        """Return the gates without noise: zeros are chosen within each layer, or for each layer gate alone."""
        lengths: dict[str, list[int]] = {
            "head": [size.units for size in self.sizes.attentions],
            "intermediate": [size.units for size in self.sizes.mlps],
            "hidden": [self.sizes.width],
        }

        def by_rows(kind: str, log_alpha: Tensor) -> Tensor:
            rows = log_alpha.split(lengths.get(kind, 1))
            return torch.cat([evaluation_gates(row, shift) for row in rows])

        return self._of_kinds(by_rows)

    def _values(self, function: Callable[[Tensor], Tensor]) -> MaskValues:
        return self._of_kinds(lambda kind, log_alpha: function(log_alpha))

    def _of_kinds(self, function: Callable[[str, Tensor], Tensor]) -> MaskValues:
        found = {
            kind: function(kind, self.log_alpha[kind])
            if kind in self.log_alpha
            else torch.ones(count, device=self._device)
            for kind, count in self._counts.items()
        }
        return MaskValues(
            found["hidden"],
            _block_masks(self.sizes.attentions, found["head"], found["head_layer"]),
            _block_masks(self.sizes.mlps, found["intermediate"], found["mlp"]),
        )


def _block_masks(sizes: Sequence[BlockSize], units: Tensor, outputs: Tensor) -> list[BlockMask]:
    """Return the masks of each block, given those of all units and all outputs."""
    rows = units.split([size.units for size in sizes])
    return [BlockMask(row, outputs[i], size.weights) for i, (row, size) in enumerate(zip(rows, sizes, strict=True))]


def meet(parameters: MaskParameters, target: float, total: int) -> MaskValues:
    """Return gates without noise whose exact sparsity is just below a target.

    For counting zeros, a common shift is added to all log alpha: the smallest one that does not exceed the target. Then
    single neurons (or heads, if neurons have no masks) are closed, those most likely to be closed first, as long as the
    sparsity does not exceed the target.

    Args:
        parameters: The gates' log alpha.
        target: Fraction of the prunable weights to remove.
        total: Prunable weights of the dense model.

    Returns:
        Values for evaluation.
    """
    low, high = -4 * LIMIT, 4 * LIMIT  # all closed, all open
    for _ in range(40):
        middle = (low + high) / 2
        too_much = float(sparsity_of(opened(parameters.for_evaluation(middle)), total)) > target
        low, high = (middle, high) if too_much else (low, middle)
    return _close_units(parameters, parameters.for_evaluation(high), target, total)


def opened(values: MaskValues) -> MaskValues:
    """Return 1 for gates above 0 and 0 for closed ones."""
    attentions, mlps = (
        [mask._replace(units=_open(mask.units), output=_open(mask.output)) for mask in kind]
        for kind in (values.attentions, values.mlps)
    )
    return MaskValues(_open(values.hidden), attentions, mlps)


def _open(gates: Tensor) -> Tensor:
    return (gates != 0).double()


def _close_units(parameters: MaskParameters, values: MaskValues, target: float, total: int) -> MaskValues:
    """Close single neurons or heads as long as the sparsity does not exceed the target."""
    kind = next((kind for kind in ("intermediate", "head") if kind in parameters.log_alpha), None)
    if kind is None:
        return values
    masks = values.mlps if kind == "intermediate" else values.attentions
    share = float(_open(values.hidden).mean())
    room = (target - float(sparsity_of(opened(values), total))) * total
    worth = torch.cat([torch.full((len(m.units),), m.weights * share * float(m.output != 0)) for m in masks])
    gates = torch.cat([mask.units for mask in masks])
    for unit in torch.argsort(parameters.log_alpha[kind].detach(), stable=True).tolist():
        if gates[unit] != 0 and worth[unit] and worth[unit] <= room:
            gates[unit] = 0
            room -= float(worth[unit])
    rows = gates.split([len(mask.units) for mask in masks])
    closed = [mask._replace(units=row) for mask, row in zip(masks, rows, strict=True)]
    return replace(values, mlps=closed) if kind == "intermediate" else replace(values, attentions=closed)


def _start(kind: str, count: int) -> Tensor:
    mean = INTERMEDIATE_START if kind == "intermediate" else START
    return torch.randn(count) * SPREAD + mean
