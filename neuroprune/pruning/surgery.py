"""Exact physical removal of heads and neurons, in place and including optimizer state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index as as_index
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuroprune.errors import UserError
from neuroprune.pruning import dead_units
from neuroprune.pruning.blocks import Attention, Blocks, Mlp, Projection, find_blocks
from neuroprune.pruning.cut_classes import stage_cut_class
from neuroprune.pruning.cuts import Cut, stage_cuts
from neuroprune.pruning.empty_blocks import stage_skip
from neuroprune.pruning.kept_units import Kept, kept_units, stage_record
from neuroprune.pruning.plain_config import is_plain, to_recorded
from neuroprune.pruning.plain_weights import check_no_adapters
from neuroprune.pruning.transaction import Transaction

__all__ = ["Kept", "Positions", "Removed", "kept_slices", "kept_units", "remove", "remove_zero_units", "settle"]

Positions = Mapping[int, Iterable[int]] | Mapping[str, Iterable[int]] | Sequence[Iterable[int]]
"""Layer number (in the order of `find_blocks`) -> current positions of units; or a list of positions for every layer,
as in a method's `report["removed_heads"]`. Keys may be strings, as in JSON."""


class Removed(NamedTuple):
    """Numbers of removed units."""

    heads: int
    neurons: int


def remove(
    model: nn.Module,
    heads: Positions | None = None,
    neurons: Positions | None = None,
    optimizer: Any = None,
    *,
    unused: bool = False,
) -> None:
    """Remove heads and neurons physically; outputs are the same as with the units' outputs set to zero.

    Rows of Q, K, V and of the expanding matrices are removed with their biases; columns of O and of the contracting
    matrix are removed without them. Parameters are replaced by smaller ones because resizing `param.data` would break
    autograd. Gradients are cut as well; hooks on the old parameters are lost. `model.config` records the remaining
    units (see `kept_units`). After an error, model and optimizer are unchanged.

    The forward pass skips an attention or MLP that has lost all its units: the bias of its output projection, or
    nothing, is added to the residual stream.

    Args:
        model: A transformers model of a known type; changed in place.
        heads: Attention number -> current positions of query heads to remove. With grouped queries, remove whole groups
            or the same number from each remaining group.
        neurons: MLP number -> current positions of neurons to remove.
        optimizer: If given, its parameter groups and state tensors are updated as well. Accelerate's wrapper is
            supported.
        unused: Whether attentions that are never executed are counted, as in `find_blocks`.

    Raises:
        UserError: If a layer or position does not exist, the numbers of remaining heads differ between groups, layers
            that share weights would lose different positions, the model is quantized or has adapters, a trainable
            parameter to be cut is missing from the optimizer, or the optimizer's state cannot be cut.
    """
    _remove(model, heads, neurons, optimizer, unused)


@torch.no_grad()
def remove_zero_units(model: nn.Module, optimizer: Any = None, *, empty: bool = False) -> Removed:
    """Remove every head and neuron with a zero or constant contribution; outputs do not change.

    A unit contributes nothing if its outgoing weights are all zero or its output is zero for every input. A unit with
    another constant output (all incoming weights are zero, its bias is not) is folded into the bias of the next matrix,
    if there is one.

    Args:
        model: A transformers model of a known type; changed in place.
        optimizer: As in `remove`.
        empty: Whether an attention or MLP may lose all its units and then be skipped; otherwise each keeps at least
            one.

    Returns:
        The numbers of removed heads and neurons.
    """
    blocks = find_blocks(model)
    heads = {a.index: dead_units.idle_heads(a, empty) for a in blocks.attentions}
    neurons = {m.index: dead_units.idle_neurons(m, empty) for m in blocks.mlps}
    shifts = [_shift(a.o, dead_units.constant_context(a), heads[a.index], a.head_dim) for a in blocks.attentions]
    shifts += [_shift(m.out, dead_units.constant_activation(m), neurons[m.index], 1) for m in blocks.mlps]
    _remove(model, heads, neurons, optimizer, shifts=[shift for shift in shifts if shift is not None])
    return Removed(sum(map(len, heads.values())), sum(map(len, neurons.values())))


def _remove(
    model: nn.Module,
    heads: Positions | None,
    neurons: Positions | None,
    optimizer: Any,
    unused: bool = False,
    shifts: Iterable[tuple[Tensor, Tensor]] = (),
) -> None:
    """Remove units and add shifts to biases; a plain configuration stays as it is if nothing is removed."""
    check_no_adapters(model)
    blocks = find_blocks(model, unused)
    head_keeps = _positions_left("attention", "head", blocks.attentions, [a.heads for a in blocks.attentions], heads)
    neuron_keeps = _positions_left("MLP", "neuron", blocks.mlps, [m.width for m in blocks.mlps], neurons)
    if is_plain(model):
        if not _stage_removal(Transaction(), model, head_keeps, neuron_keeps, optimizer, unused):
            return
        to_recorded(model, optimizer)
    changes = Transaction()
    _stage_removal(changes, model, head_keeps, neuron_keeps, optimizer, unused)
    for bias, shift in shifts:
        changes.copy(bias, bias + shift)
    changes.commit()


def _stage_removal(
    changes: Transaction,
    model: nn.Module,
    head_keeps: list[Tensor],
    neuron_keeps: list[Tensor],
    optimizer: Any,
    unused: bool,
) -> bool:
    """Compute and stage all changes that keep these current positions; return whether any unit is removed."""
    blocks, kept = find_blocks(model, unused), kept_units(model, unused)
    stage_cuts(changes, model, _cuts(blocks, head_keeps, neuron_keeps), optimizer)
    left = Kept(
        [kept.of(attention).only(head_keeps[attention.index]) for attention in blocks.attentions],
        [kept.of(mlp).only(neuron_keeps[mlp.index]) for mlp in blocks.mlps],
    )
    stage_record(changes, model, blocks, left)
    _stage_attributes(changes, blocks, left, head_keeps)
    return any(len(left.of(block).left) < len(kept.of(block).left) for block in blocks.all)


def kept_slices(model: nn.Module, blocks: Blocks, kept: Kept) -> list[tuple[str, int, Tensor]]:
    """Map the parameters of a cut model to slices of the dense model's parameters.

    Args:
        model: A dense model.
        blocks: Its blocks.
        kept: The units that remain in a cut copy.

    Returns:
        For each parameter that is smaller in the cut model: its name, the cut dimension, and the remaining positions in
        the dense parameter, int64. No parameter is listed twice.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    cuts = _cuts(blocks, [units.left for units in kept.attentions], kept.neurons)
    return [(names[parameter], dim, cut.index) for cut in cuts for _, parameter, dim in cut.parameters()]


def settle(blocks: Blocks, kept: Kept) -> None:
    """Update the module attributes that depend on the numbers of heads and neurons.

    Args:
        blocks: A cut model's blocks, whose modules are updated.
        kept: The model's remaining units.
    """
    changes = Transaction()
    _stage_attributes(changes, blocks, kept, [torch.arange(a.heads) for a in blocks.attentions])
    changes.commit()


def _stage_attributes(changes: Transaction, blocks: Blocks, left: Kept, keeps: list[Tensor]) -> None:
    """Stage attributes according to the table of architectures; `keeps` are positions in the current model."""
    for attention in blocks.attentions:
        keep, units = keeps[attention.index], left.of(attention)
        groups = len(keep) // (len(_kept_key_heads(attention, keep)) or 1)
        numbers = {"heads": len(keep), "groups": groups, "width": len(keep) * attention.head_dim, "one": 1}
        for name, what in attention.row.counts.items():
            changes.set(attention.module, name, numbers[what])
        if attention.row.cut_class and len(units.left) < units.dense:
            stage_cut_class(changes, attention.module, attention.row.cut_class, units.left)
    for mlp in blocks.mlps:
        if mlp.row.width:
            changes.set(mlp.module, mlp.row.width, len(left.of(mlp).left))
    for block in blocks.all:
        if not len(left.of(block).left):
            stage_skip(changes, block)


def _shift(out: Projection, constant: Tensor, units: list[int], size: int) -> tuple[Tensor, Tensor] | None:
    """Return a bias and the constant contribution of units to add to it, or None if there is no bias."""
    if out.bias is None:
        return None
    return out.bias, dead_units.constant_effect(out, constant, _channels(torch.tensor(units, dtype=torch.long), size))


# ---- positions


def _positions_left(layer: str, unit: str, layers: list[Any], sizes: list[int], gone: Positions | None) -> list[Tensor]:
    """Return the positions to keep in each layer, int64."""
    sets = {i: set(_integers(positions)) for i, positions in _by_layer(layer, gone or {}).items()}
    for i, positions in sets.items():
        if i not in range(len(layers)):
            raise UserError(f"{layer} {i} does not exist; the model's are numbered 0 to {len(layers) - 1}.")
        where = f"{layer} {i} ({layers[i].name})"
        if strange := sorted(positions - set(range(sizes[i]))):
            raise UserError(f"{where} has no {unit} {strange[0]}; its {sizes[i]} are numbered 0 to {sizes[i] - 1}.")
    return [_all_but(size, sets.get(i, set())) for i, size in enumerate(sizes)]


def _by_layer(layer: str, gone: Positions) -> dict[int, Iterable[int]]:
    """Return positions by layer number."""
    numbered = gone.items() if isinstance(gone, Mapping) else enumerate(gone)
    found: dict[int, Iterable[int]] = {}
    for key, positions in numbered:
        if isinstance(key, str) and not key.isdecimal():
            raise UserError(
                f"{key!r} is not a number of an {layer}; layers are numbered from 0 in the order of find_blocks."
            )
        found[int(key)] = positions
    return found


def _all_but(size: int, positions: set[int]) -> Tensor:
    """Return 0 .. size - 1 without these positions, int64."""
    return torch.tensor([position for position in range(size) if position not in positions], dtype=torch.long)


def _integers(positions: Iterable[int]) -> list[int]:
    """Return plain integers; reject masks."""
    numbers = positions.tolist() if isinstance(positions, Tensor) else list(positions)
    if any(isinstance(number, bool) for number in numbers):
        raise UserError("expected positions, got a boolean mask; pass mask.nonzero().flatten().")
    return [as_index(number) for number in numbers]


def _kept_key_heads(attention: Attention, keep: Tensor) -> Tensor:
    """Return the key/value heads of these query heads; reject groups of different sizes."""
    counts = torch.bincount(keep // attention.groups, minlength=attention.heads // attention.groups)
    kept = counts.nonzero().flatten()
    if counts[kept].unique().numel() > 1:
        raise UserError(
            f"can't keep heads {keep.tolist()} of attention {attention.index} ({attention.name}): every "
            f"{attention.groups} query heads share a key/value head; remove whole groups, or the same number in each."
        )
    return kept


def _channels(units: Tensor, size: int) -> Tensor:
    """Return the channels of units with `size` channels each."""
    return (units[:, None] * size + torch.arange(size)).flatten()


# ---- cuts


def _cuts(blocks: Blocks, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> list[Cut]:
    """List the cuts that keep these positions in each attention and each MLP."""
    attentions = [cut for a in blocks.attentions for cut in _attention_cuts(a, heads[a.index])]
    return attentions + [cut for mlp in blocks.mlps for cut in _mlp_cuts(mlp, neurons[mlp.index])]


def _attention_cuts(attention: Attention, keep: Tensor) -> list[Cut]:
    """List the cuts that keep these query heads and their key/value heads."""
    q = _channels(keep, attention.head_dim)
    kv = _channels(_kept_key_heads(attention, keep), attention.head_dim)
    return [
        *_row_cuts([(attention.q, q), (attention.k, kv), (attention.v, kv)]),
        Cut(attention.o.module, "in", q),
    ]


def _mlp_cuts(mlp: Mlp, keep: Tensor) -> list[Cut]:
    """List the cuts that keep these neurons."""
    return [*_row_cuts([(projection, keep) for projection in mlp.ins]), Cut(mlp.out.module, "in", keep)]


def _row_cuts(kept: Sequence[tuple[Projection, Tensor]]) -> list[Cut]:
    """List the cuts that keep these rows of each projection; parts of a fused one are cut together."""
    rows: dict[nn.Module, list[Tensor]] = {}
    for projection, index in kept:
        rows.setdefault(projection.module, []).append(index + projection.part * len(projection.weight))
    return [Cut(module, "out", torch.cat(indices)) for module, indices in rows.items()]
