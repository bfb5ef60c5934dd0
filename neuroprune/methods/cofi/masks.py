"""CoFi's five kinds of masks on any architecture: their parameters, their values, and the sparsity that they stand for.

`hidden` acts on what embeddings, attentions and MLPs write to the residual stream, and on layer norms, which are taken
over the open dimensions alone; `head` and `intermediate` on what an output projection reads from a head or neuron;
`head_layer` and `mlp` on what it puts out, bias included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroprune.methods.cofi.hard_concrete import LIMIT, draw, evaluation_gates, open_probability
from neuroprune.methods.hooks import State
from neuroprune.pruning.blocks import Block, Blocks
from neuroprune.pruning.sparsity import unit_size

START, SPREAD = 10.0, 0.01  # log alpha at the beginning: mean and standard deviation
INTERMEDIATE_START = 0.0  # as in the authors' code, which starts neurons half closed


@dataclass(frozen=True)
class MaskValues:
    """A value for each gate of a model, or a probability.

    Args:
        hidden: `[width]`.
        heads: For each attention, `[heads]` (with grouped queries: of key/value heads).
        attentions: `[attentions]`.
        neurons: For each MLP, `[neurons]`.
        mlps: `[MLPs]`.
    """

    hidden: Tensor
    heads: list[Tensor]
    attentions: Tensor
    neurons: list[Tensor]
    mlps: Tensor

    def by_block(self, blocks: Blocks) -> dict[Block, BlockMask]:
        """Return the masks of each block's units and of its output."""
        units, outputs = [*self.heads, *self.neurons], torch.cat([self.attentions, self.mlps])
        return {block: BlockMask(*masks) for block, *masks in zip(blocks.all, units, outputs, strict=True)}


class BlockMask(NamedTuple):
    """The masks of one attention or MLP.

    Args:
        units: `[units]`, of its heads or neurons.
        output: A scalar, of the whole block.
    """

    units: Tensor
    output: Tensor


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
    """The sizes of the parts of a model that masks act on.

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


def sparsity_of(values: MaskValues, sizes: Sizes, total: int) -> Tensor:
    """Return the share of the dense model's prunable weights that goes with these masks.

    With probabilities it is the expected sparsity: gates are independent, and a weight stays if its hidden dimension,
    its head or neuron and its layer do. With a mask of zeros and ones it is the exact share. Biases, embeddings and
    norms are not counted, as everywhere here.

    Args:
        values: Probabilities to be open, or 1 where open and 0 where closed.
        sizes: What they are worth.
        total: Prunable weights of the dense model.

    Returns:
        A scalar, differentiable by the values.
    """
    heads = sum(
        gate * units.sum() * size.weights
        for gate, units, size in zip(values.attentions, values.heads, sizes.attentions, strict=True)
    )
    neurons = sum(
        gate * units.sum() * size.weights
        for gate, units, size in zip(values.mlps, values.neurons, sizes.mlps, strict=True)
    )
    return 1 - values.hidden.mean() * (heads + neurons) / total


class MaskParameters:
    """Log alpha of all gates.

    Args:
        sizes: The model's.
        kinds: Which kinds of masks there are; gates of the others are always open.
        device: Where they lie.
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
        self._heads, self._neurons = ([size.units for size in kind] for kind in (sizes.attentions, sizes.mlps))
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
        """Keep every log alpha within log .01 and log 100."""
        for parameter in self.log_alpha.values():
            parameter.clamp_(-LIMIT, LIMIT)

    def draw(self) -> MaskValues:
        """Draw all gates."""
        return self._values(draw)

    def open_probability(self) -> MaskValues:
        """Return the chance of every gate to be open."""
        return self._values(open_probability)

    def for_evaluation(self, shift: float = 0.0) -> MaskValues:
        """Return the gates without noise: zeros are chosen within each layer; a layer's own gate is a row by itself."""
        lengths = {"head": self._heads, "intermediate": self._neurons, "hidden": [self.sizes.width]}

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
            list(found["head"].split(self._heads)),
            found["head_layer"],
            list(found["intermediate"].split(self._neurons)),
            found["mlp"],
        )


def meet(parameters: MaskParameters, target: float, total: int) -> MaskValues:
    """Return the gates without noise whose exact sparsity is just below a target.

    One number is added to all log alpha when zeros are counted: the smallest for which not too much goes. Then neurons
    (where they have masks, else heads) close one by one, the likeliest to be closed first, for as long as it
    is not too much.

    Args:
        parameters: The gates' log alpha.
        target: Share of the prunable weights that is to go.
        total: Prunable weights of the dense model.

    Returns:
        Values for evaluation.
    """
    low, high = -4 * LIMIT, 4 * LIMIT  # everything closed, everything open
    for _ in range(40):
        middle = (low + high) / 2
        too_much = float(sparsity_of(opened(parameters.for_evaluation(middle)), parameters.sizes, total)) > target
        low, high = (middle, high) if too_much else (low, middle)
    return _close_units(parameters, parameters.for_evaluation(high), target, total)


def opened(values: MaskValues) -> MaskValues:
    """Return 1 where a gate is open at all, 0 where it is closed."""
    return MaskValues(
        (values.hidden != 0).double(),
        [(row != 0).double() for row in values.heads],
        (values.attentions != 0).double(),
        [(row != 0).double() for row in values.neurons],
        (values.mlps != 0).double(),
    )


def _close_units(parameters: MaskParameters, values: MaskValues, target: float, total: int) -> MaskValues:
    """Close single neurons or heads while not too much goes."""
    kind = next((kind for kind in ("intermediate", "head") if kind in parameters.log_alpha), None)
    if kind is None:
        return values
    neurons = kind == "intermediate"
    rows, layers = (values.neurons, values.mlps) if neurons else (values.heads, values.attentions)
    sizes = parameters.sizes.mlps if neurons else parameters.sizes.attentions
    share = float((values.hidden != 0).double().mean())
    room = (target - float(sparsity_of(opened(values), parameters.sizes, total))) * total
    flat, log_alpha = torch.cat(rows), parameters.log_alpha[kind].detach()
    worth = torch.cat(
        [
            torch.full((len(row),), size.weights * share * float(gate != 0))
            for row, size, gate in zip(rows, sizes, layers, strict=True)
        ]
    )
    for unit in torch.argsort(log_alpha, stable=True).tolist():
        if flat[unit] != 0 and worth[unit] and worth[unit] <= room:
            flat[unit] = 0
            room -= float(worth[unit])
    closed = list(flat.split([len(row) for row in rows]))
    return MaskValues(
        values.hidden,
        values.heads if neurons else closed,
        values.attentions,
        closed if neurons else values.neurons,
        values.mlps,
    )


def _start(kind: str, count: int) -> Tensor:
    mean = INTERMEDIATE_START if kind == "intermediate" else START
    return torch.randn(count) * SPREAD + mean
