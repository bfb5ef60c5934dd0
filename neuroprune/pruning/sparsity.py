"""Sparsity measurement, pruning schedules, and selection of the smallest weights over many matrices.

Sparsity is the fraction of the dense model's Q, K, V, O and MLP weights that are zero or removed. Biases, embeddings,
layer norms and the classifier are not counted. The dense sizes come from `kept_units.kept_units`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.pruning.blocks import Attention, Block, Blocks, Mlp, Projection, config_of, find_blocks
from neuroprune.pruning.kept_units import read_record
from neuroprune.pruning.residual_stream import kept_hidden
from neuroprune.pruning.surgery import kept_units


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """Removed or zero parts of a model, as fractions of the dense one.

    Args:
        weights: Fraction of the prunable weights that are zero or removed.
        heads: Fraction of the heads that are removed or disconnected: each channel is zero in V or in O.
        neurons: Fraction of the MLP neurons that are removed or disconnected: the row in an expanding matrix or the
            column in the contracting one is zero.
        parameters: Current number of all parameters, including embeddings and biases.
        dense_parameters: Number of parameters of the dense model.
        heads_per_layer: Remaining heads of each attention.
        neurons_per_layer: Remaining neurons of each MLP.
    """

    weights: float
    heads: float
    neurons: float
    parameters: int
    dense_parameters: int
    heads_per_layer: tuple[int, ...]
    neurons_per_layer: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def prunable_projections(blocks: Blocks) -> list[Projection]:
    """Return the counted matrices: Q, K, V, O of every attention, then the matrices of every MLP."""
    attentions = [projection for a in blocks.attentions for projection in (a.q, a.k, a.v, a.o)]
    return attentions + [projection for mlp in blocks.mlps for projection in (*mlp.ins, mlp.out)]


def prunable_weights(model: nn.Module) -> int:
    """Return N, the number of prunable weights of the dense model from which `model` was cut."""
    present = sum(projection.weight.numel() for projection in prunable_projections(find_blocks(model)))
    return present + removed_weights(model)


def removed_weights(model: nn.Module) -> int:
    """Count the dense model's prunable weights that were removed with units and hidden dimensions."""
    return _removed(model, biases=False)


def zero_or_removed(model: nn.Module) -> int:
    """Count the dense model's prunable weights that are exactly zero or removed."""
    zeros = [p.weight.numel() - int(p.weight.count_nonzero()) for p in prunable_projections(find_blocks(model))]
    return removed_weights(model) + sum(zeros)


def measure_sparsity(model: nn.Module) -> Sparsity:
    """Measure the sparsity of a model.

    Args:
        model: A model of a known architecture, cut or not.

    Returns:
        Fractions of zero or removed weights, heads and neurons; numbers of parameters; remaining units of each layer.
    """
    blocks, kept = find_blocks(model), kept_units(model)
    heads = tuple(int(heads_connected(attention, *_weights(attention)).sum()) for attention in blocks.attentions)
    neurons = tuple(int(neurons_connected(*_weights(mlp)).sum()) for mlp in blocks.mlps)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Sparsity(
        weights=zero_or_removed(model) / prunable_weights(model),
        heads=1 - sum(heads) / sum(kept.dense_heads),
        neurons=1 - sum(neurons) / sum(kept.dense_neurons),
        parameters=parameters,
        dense_parameters=parameters + _removed(model, biases=True),
        heads_per_layer=heads,
        neurons_per_layer=neurons,
    )


def heads_connected(attention: Attention, value: Tensor, output: Tensor) -> Tensor:
    """Mark the query heads that contribute: at least one channel is connected in both V and O.

    Args:
        attention: One attention.
        value: Its V weights, or a bool matrix of the same shape that is true for connections.
        output: The same for O.

    Returns:
        bool `[heads]`.
    """
    values = value.any(dim=1).view(-1, 1, attention.head_dim).expand(-1, attention.groups, -1)
    channels = values.reshape(-1, attention.head_dim) & output.any(dim=0).view(-1, attention.head_dim)
    return channels.any(dim=1)


def neurons_connected(*matrices: Tensor) -> Tensor:
    """Mark the neurons of an MLP with connections in every expanding matrix and in the contracting one.

    Args:
        *matrices: The weights of `mlp.ins` and of `mlp.out`, or bool matrices that are true for connections.

    Returns:
        bool `[width]`.
    """
    *ins, out = matrices
    present = out.any(dim=0)
    for matrix in ins:
        present = present & matrix.any(dim=1)
    return present


def unit_size(block: Block) -> int:
    """Return the number of prunable weights of a unit: a key/value head with its query heads, or a neuron."""
    inputs = [projection.weight.shape[1] for projection in block.inputs]
    width = block.output.weight.shape[0]
    if isinstance(block, Attention):
        query, key, value = inputs
        return block.head_dim * (block.groups * (query + width) + key + value)
    return sum(inputs) + width


def cubic_schedule(target: float, events: int) -> list[float]:
    """Return the sparsity after each event: s_k = s (1 - (1 - k / n)^3), so .70 s, .96 s, s for n = 3.

    Args:
        target: Final sparsity s.
        events: Number of events n.

    Returns:
        n fractions; the last is exactly `target`.
    """
    return [target * (1 - (1 - k / events) ** 3) for k in range(1, events)] + [target]


def event_steps(total_steps: int, start: float, end: float, events: int) -> list[int]:
    """Return the optimizer steps after which pruning events take place, spread evenly from `start` to `end`.

    Args:
        total_steps: Optimizer steps of the run.
        start: Time of the first event as a fraction of the steps.
        end: Time of the last event as a fraction of the steps; also the time of a single event.
        events: Number of events.

    Returns:
        Steps in 1 .. total_steps, strictly increasing. In short runs, coinciding events are merged, so there may be
        fewer.
    """
    shares = [end - (end - start) * (events - k) / max(1, events - 1) for k in range(1, events + 1)]
    return sorted({min(total_steps, max(1, round(share * total_steps))) for share in shares})


def magnitude_threshold(tensors: Sequence[Tensor], count: int) -> tuple[float, int]:
    """Find the `count`-th smallest magnitude over all tensors without sorting them.

    The bit patterns of non-negative float32 numbers have the order of their values. Three histograms (of the upper 11
    bits, the next 11 and the last 9) therefore find the result exactly in three passes, one tensor at a time.

    Args:
        tensors: Any floating-point tensors; compared as float32.
        count: Number of smallest magnitudes, from 1 to the number of entries.

    Returns:
        The threshold, and the number of entries equal to it that belong to the `count` smallest.

    Raises:
        ValueError: If `count` is out of range.
    """
    if not 1 <= count <= sum(tensor.numel() for tensor in tensors):
        raise ValueError(f"count {count} is not between 1 and the number of entries")
    prefix, rest, known = 0, count, 32
    for shift in (20, 9, 0):
        histogram = torch.zeros(1 << (known - shift), dtype=torch.int64)
        for tensor in tensors:
            bits = _bits(tensor)
            if known < 32:
                bits = bits[bits >> known == prefix]
            low = (bits >> shift) & (len(histogram) - 1)
            histogram += torch.bincount(low, minlength=len(histogram)).cpu()
        below = histogram.cumsum(0)
        digit = int(torch.searchsorted(below, rest))
        rest -= int(below[digit] - histogram[digit])
        prefix, known = (prefix << (known - shift)) | digit, shift
    return float(torch.tensor(prefix, dtype=torch.int32).view(torch.float32)), rest


def smallest(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Mark the `count` entries of smallest magnitude over all tensors.

    Args:
        tensors: Any floating-point tensors.
        count: Number of marks, from 0 to the number of entries; equal entries are marked in order of position.

    Returns:
        bool tensors of the same shapes, on the same devices.
    """
    if count == 0:
        return [torch.zeros_like(tensor, dtype=torch.bool) for tensor in tensors]
    threshold, ties = magnitude_threshold(tensors, count)
    marks = []
    for tensor in tensors:
        magnitude = tensor.detach().float().abs()
        equal = magnitude == threshold
        first = equal & (equal.flatten().cumsum(0).view(equal.shape) <= ties)
        ties -= int(first.sum())
        marks.append((magnitude < threshold) | first)
    return marks


def _bits(tensor: Tensor) -> Tensor:
    """Return the bits of the magnitudes as flat int32, which have the same order as the magnitudes."""
    return tensor.detach().float().abs().contiguous().view(torch.int32).flatten()


def _weights(block: Attention | Mlp) -> list[Tensor]:
    """Return the matrices that determine whether a unit is connected."""
    projections = (block.v, block.o) if isinstance(block, Attention) else (*block.ins, block.out)
    return [projection.weight.detach() for projection in projections]


def _removed(model: nn.Module, biases: bool) -> int:
    """Count the weights and, optionally, the biases of removed heads, neurons and hidden dimensions."""
    blocks, kept = find_blocks(model), kept_units(model)
    left, of = _widths(model, blocks)
    record = read_record(model)
    gone = biases * (record.get("hidden", {}).get("others", 0) + record.get("others", 0))
    for a in blocks.attentions:
        heads, groups = kept.of(a).dense, _dense_groups(model, a)
        gone += _head_weights(a, heads, groups) * of // left - _head_weights(a, a.heads, a.groups)
        gone += biases * (_head_biases(a, heads, groups) - _head_biases(a, a.heads, a.groups))
    for m in blocks.mlps:
        neurons = kept.of(m).dense
        gone += neurons * unit_size(m) * of // left - m.width * unit_size(m)
        gone += biases * (neurons - m.width) * sum(projection.bias is not None for projection in m.ins)
    return gone


def _widths(model: nn.Module, blocks: Blocks) -> tuple[int, int]:
    """Return the width of the residual stream now and in the dense model; it scales the weights per unit."""
    hidden, width = kept_hidden(model), blocks.mlps[0].out.weight.shape[0]
    return (width, width) if hidden is None else (width, hidden[1])


def _dense_groups(model: nn.Module, attention: Attention) -> int:
    """Return the query heads per key/value head in the dense model; some may have been removed since."""
    config = config_of(model)
    names = ("num_attention_heads", "num_key_value_heads")
    dense = {name: getattr(config, name, None) for name in names} | read_record(model).get("config", {})
    heads, shared = (dense[name] for name in names)
    return heads // shared if shared else attention.groups


def _head_weights(attention: Attention, heads: int, groups: int) -> int:
    """Count the weights of this many query heads and of their key/value heads."""
    queries = attention.q.weight.shape[1] + attention.o.weight.shape[0]
    return attention.head_dim * (
        heads * queries + heads // groups * (attention.k.weight.shape[1] + attention.v.weight.shape[1])
    )


def _head_biases(attention: Attention, heads: int, groups: int) -> int:
    """Count the biases of this many query heads and of their key/value heads."""
    q, k, v = (projection.bias is not None for projection in (attention.q, attention.k, attention.v))
    return attention.head_dim * (heads * q + heads // groups * (k + v))
