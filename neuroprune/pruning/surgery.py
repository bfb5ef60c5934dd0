"""Physical removal of heads and neurons: exact, in place, optimizer state included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from operator import index as as_index
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuroprune.errors import UserError
from neuroprune.pruning import dead_units
from neuroprune.pruning.blocks import Attention, Blocks, Mlp, Projection, find_blocks
from neuroprune.pruning.kept_units import Kept, kept_units, write_record

__all__ = ["Kept", "Positions", "Removed", "kept_slices", "kept_units", "remove", "remove_zero_units", "settle"]

Positions = Mapping[int, Iterable[int]]
"""Number of a layer, as `find_blocks` lists them -> current positions of units in it."""


class Removed(NamedTuple):
    """Numbers of units that were removed."""

    heads: int
    neurons: int


def remove(
    model: nn.Module,
    heads: Positions | None = None,
    neurons: Positions | None = None,
    optimizer: Any = None,
) -> None:
    """Remove heads and neurons for good; the model then computes what it did with their outputs set to zero.

    Rows of Q, K, V and of the expanding matrices go with their biases, columns of O and of the contracting matrix
    without. Parameters are replaced by smaller ones (resizing `param.data` would break autograd), gradients are cut
    alike; hooks on the old parameters are lost. `model.config` remembers what is left (see `kept_units`). On an error
    nothing is removed.

    Args:
        model: A transformers model of a known type; changed in place.
        heads: Attention number -> current positions of query heads to remove. With grouped queries, whole groups or
            the same number in each remaining group.
        neurons: MLP number -> current positions of neurons to remove.
        optimizer: If given, its parameter groups get the new parameters and its state tensors are cut the same way.
            Accelerate's wrapper is looked into.

    Raises:
        UserError: If a layer or position does not exist, a layer would lose its last head or neuron, the numbers of
            heads that remain differ between groups, the model is quantized, the optimizer does not hold what is cut and
            trained, or its state can't be cut.
    """
    blocks, kept, optimizer = find_blocks(model), kept_units(model), _unwrap(optimizer)
    head_keeps = _positions_left("attention", "head", blocks.attentions, [a.heads for a in blocks.attentions], heads)
    neuron_keeps = _positions_left("MLP", "neuron", blocks.mlps, [m.width for m in blocks.mlps], neurons)
    cuts = [cut for i, keep in head_keeps.items() for cut in _attention_cuts(blocks.attentions[i], keep)]
    cuts += [cut for i, keep in neuron_keeps.items() for cut in _mlp_cuts(blocks.mlps[i], keep)]
    _check_held(optimizer, cuts)
    _check_state(optimizer, cuts)
    _apply(cuts, optimizer)
    for i, keep in head_keeps.items():
        kept.heads[i] = [kept.heads[i][position] for position in keep.tolist()]
    for i, keep in neuron_keeps.items():
        kept.neurons[i] = kept.neurons[i][keep]
    write_record(model, blocks, kept)
    settle(blocks, kept)


@torch.no_grad()
def remove_zero_units(model: nn.Module, optimizer: Any = None) -> Removed:
    """Remove every head and neuron that contributes nothing, so that the model computes what it did before.

    A unit contributes nothing if its outgoing weights are all zero, or if its output is zero whatever the input. A unit
    whose output is another constant (its incoming weights are all zero, its bias is not) is folded into the bias of the
    next matrix, where there is one. Every layer keeps at least one head and one neuron.

    Args:
        model: A transformers model of a known type; changed in place.
        optimizer: As in `remove`.

    Returns:
        How many heads and neurons were removed.
    """
    blocks = find_blocks(model)
    heads = {a.index: dead_units.idle_heads(a) for a in blocks.attentions}
    neurons = {m.index: dead_units.idle_neurons(m) for m in blocks.mlps}
    shifts = [_shift(a.o, dead_units.constant_context(a), heads[a.index], a.head_dim) for a in blocks.attentions]
    shifts += [_shift(m.out, dead_units.constant_activation(m), neurons[m.index], 1) for m in blocks.mlps]
    remove(model, heads, neurons, optimizer)
    for bias, shift in filter(None, shifts):
        bias += shift
    return Removed(sum(map(len, heads.values())), sum(map(len, neurons.values())))


def kept_slices(model: nn.Module, blocks: Blocks, kept: Kept) -> list[tuple[str, int, Tensor]]:
    """Tell where what is left in a cut model lies in the dense one.

    Args:
        model: A dense model.
        blocks: Its blocks.
        kept: What a cut copy of it still has.

    Returns:
        For each parameter that is smaller in the cut model: its name, the dimension, and the positions in the dense
        model's parameter that the cut one's have, int64. No parameter is there twice.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    heads = [torch.tensor(positions) for positions in kept.heads]
    cuts = [cut for a, keep in zip(blocks.attentions, heads, strict=True) for cut in _attention_cuts(a, keep)]
    cuts += [cut for mlp, keep in zip(blocks.mlps, kept.neurons, strict=True) for cut in _mlp_cuts(mlp, keep)]
    return [(names[parameter], dim, cut.index) for cut in cuts for _, parameter, dim in cut.parameters()]


def settle(blocks: Blocks, kept: Kept) -> None:
    """Set what else depends on the numbers of heads and neurons, as the table of architectures says.

    Args:
        blocks: A model's blocks after a cut; attributes of their modules are changed.
        kept: What the model still has.
    """
    for attention, heads, dense in zip(blocks.attentions, kept.heads, kept.dense_heads, strict=True):
        width = attention.heads * attention.head_dim
        numbers = {"heads": attention.heads, "groups": attention.groups, "width": width, "one": 1}
        for name, what in attention.row.counts.items():
            setattr(attention.module, name, numbers[what])
        if attention.row.cut_class and len(heads) < dense:
            _become(attention.module, attention.row.cut_class, heads)
    for mlp in blocks.mlps:
        if mlp.row.width:
            setattr(mlp.module, mlp.row.width, mlp.width)


def _become(module: nn.Module, cut_class: str, heads: list[int]) -> None:
    """Turn a module into one of the class for cut attentions."""
    path, name = cut_class.split(":")
    module.__class__ = getattr(import_module(path), name)
    device = next(module.parameters()).device
    module.register_buffer("kept_heads", torch.tensor(heads, device=device), persistent=False)


def _shift(out: Projection, constant: Tensor, units: list[int], size: int) -> tuple[Tensor, Tensor] | None:
    """Return a bias and what to add to it for units that are always the same, or None where there is no bias."""
    if out.bias is None:
        return None
    return out.bias, dead_units.constant_effect(out, constant, _channels(torch.tensor(units, dtype=torch.long), size))


# ---- positions


def _positions_left(
    layer: str, unit: str, layers: list[Any], sizes: list[int], gone: Positions | None
) -> dict[int, Tensor]:
    """Return the positions that stay in each layer that loses some, int64."""
    sets = {i: set(_integers(positions)) for i, positions in (gone or {}).items()}
    for i, positions in sets.items():
        if i not in range(len(layers)):
            raise UserError(f"there is no {layer} {i}; the model's are numbered 0 to {len(layers) - 1}.")
        where = f"{layer} {i} ({layers[i].name})"
        if strange := sorted(positions - set(range(sizes[i]))):
            raise UserError(f"{where} has no {unit} {strange[0]}; its {sizes[i]} are numbered 0 to {sizes[i] - 1}.")
        if len(positions) == sizes[i]:
            raise UserError(f"can't remove all {sizes[i]} {unit}s of {where}; leave at least one.")
    return {i: torch.tensor([p for p in range(sizes[i]) if p not in sets[i]]) for i in sets if sets[i]}


def _integers(positions: Iterable[int]) -> list[int]:
    """Return plain integers; refuse masks."""
    numbers = positions.tolist() if isinstance(positions, Tensor) else list(positions)
    if any(isinstance(number, bool) for number in numbers):
        raise UserError("positions are wanted, not a mask of booleans; pass mask.nonzero().flatten().")
    return [as_index(number) for number in numbers]


def _kept_key_heads(attention: Attention, keep: Tensor) -> Tensor:
    """Return the key/value heads that these query heads need; refuse groups of different sizes."""
    counts = torch.bincount(keep // attention.groups, minlength=attention.heads // attention.groups)
    kept = counts.nonzero().flatten()
    if counts[kept].unique().numel() > 1:
        raise UserError(
            f"can't keep heads {keep.tolist()} of attention {attention.index} ({attention.name}): every "
            f"{attention.groups} query heads share a key/value head; remove whole groups, or the same number in each."
        )
    return kept


def _channels(units: Tensor, size: int) -> Tensor:
    """Return the channels that units of `size` channels own."""
    return (units[:, None] * size + torch.arange(size)).flatten()


# ---- parameters


@dataclass(frozen=True, eq=False)
class Cut:
    """What stays of a linear layer's, embedding's or norm's output or input features.

    Args:
        module: The layer.
        side: Which features; the features of a norm are output, those of an embedding input (its second dimension).
        index: Positions that stay, int64.
    """

    module: nn.Module
    side: Literal["out", "in"]
    index: Tensor

    def parameters(self) -> list[tuple[str, nn.Parameter, int]]:
        """Return name, parameter and dimension of what is cut."""
        module: Any = self.module
        weight = ("weight", module.weight, int((self.side == "in") != Projection(module).transposed))
        if self.side == "in" or getattr(module, "bias", None) is None:
            return [weight]
        return [weight, ("bias", module.bias, 0)]


def _attention_cuts(attention: Attention, keep: Tensor) -> list[Cut]:
    """List the cuts that keep these query heads and the key/value heads that they need."""
    q = _channels(keep, attention.head_dim)
    kv = _channels(_kept_key_heads(attention, keep), attention.head_dim)
    rows: dict[nn.Module, list[Tensor]] = {}
    for projection, index in ((attention.q, q), (attention.k, kv), (attention.v, kv)):
        rows.setdefault(projection.module, []).append(index + projection.part * len(projection.weight))
    return [Cut(module, "out", torch.cat(indices)) for module, indices in rows.items()] + [
        Cut(attention.o.module, "in", q)
    ]


def _mlp_cuts(mlp: Mlp, keep: Tensor) -> list[Cut]:
    """List the cuts that keep these neurons."""
    return [Cut(projection.module, "out", keep) for projection in mlp.ins] + [Cut(mlp.out.module, "in", keep)]


def cut_parameters(cuts: list[Cut], optimizer: Any = None) -> None:
    """Replace the parameters of all cuts by smaller ones, in the modules and in the optimizer.

    Args:
        cuts: What stays; each side of a module once.
        optimizer: As in `remove`.

    Raises:
        UserError: If the optimizer does not hold what is cut and trained, or its state can't be cut.
    """
    optimizer = _unwrap(optimizer)
    _check_held(optimizer, cuts)
    _check_state(optimizer, cuts)
    _apply(cuts, optimizer)


@torch.no_grad()
def _apply(cuts: list[Cut], optimizer: Optimizer | None) -> None:
    """Replace the parameters of all cuts, in the modules and in the optimizer."""
    new: dict[nn.Parameter, nn.Parameter] = {}
    for cut in cuts:
        for name, old, dim in cut.parameters():
            index = cut.index.to(old.device)
            if old not in new:  # weights may be shared
                new[old] = _smaller(old, dim, index)
            setattr(cut.module, name, new[old])
            if optimizer is not None and old in optimizer.state:
                optimizer.state[new[old]] = _smaller_state(optimizer.state.pop(old), old, dim, index)
        _set_sizes(cut.module)
    for group in [] if optimizer is None else optimizer.param_groups:
        group["params"] = [new.get(parameter, parameter) for parameter in group["params"]]


def _smaller(old: nn.Parameter, dim: int, index: Tensor) -> nn.Parameter:
    """Return a parameter that holds the selected slices, and their gradient if there is one."""
    new = nn.Parameter(old.index_select(dim, index), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = old.grad.index_select(dim, index)
    return new


def _smaller_state(state: dict[str, Any], old: nn.Parameter, dim: int, index: Tensor) -> dict[str, Any]:
    """Select the same slices from the tensors of an optimizer's state.

    Adafactor's factors are means over rows or columns: those over what is cut stay as they are, and fade.
    """
    dims = {key: _dimensions(key, value, old) for key, value in state.items()}
    return {
        key: value.index_select(found.index(dim), index.to(value.device)) if found and dim in found else value
        for (key, value), found in zip(state.items(), dims.values(), strict=True)
    }


def _dimensions(key: str, value: object, parameter: nn.Parameter) -> tuple[int, ...] | None:
    """Return which dimensions of its parameter a state tensor has, () if it is a number, None if that is not known."""
    if not isinstance(value, Tensor) or not value.dim():
        return ()
    whole = tuple(range(parameter.dim()))
    factors = {"_row": whole[:-1], "_col": (*whole[:-2], *whole[-1:])}  # of transformers' Adafactor
    found = next((dims for suffix, dims in factors.items() if key.endswith(suffix)), whole)
    return found if value.shape == tuple(parameter.shape[dim] for dim in found) else None


def _check_held(optimizer: Optimizer | None, cuts: list[Cut]) -> None:
    """Refuse an optimizer that does not hold what is cut: the smaller parameters would be trained by none."""
    if optimizer is None:
        return
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter, _ in [entry for cut in cuts for entry in cut.parameters()]:
        if parameter.requires_grad and parameter not in held:
            raise UserError(
                f"the optimizer ({type(optimizer).__name__}) does not hold a {name} of shape {tuple(parameter.shape)} "
                "that is cut and has requires_grad; make the optimizer from this model's parameters, after the model "
                "is on its device, or freeze what it is not to train."
            )


def _check_state(optimizer: Optimizer | None, cuts: list[Cut]) -> None:
    """Refuse an optimizer whose state has tensors of shapes that are not understood."""
    if optimizer is None:
        return
    for name, parameter, _ in [entry for cut in cuts for entry in cut.parameters()]:
        for key, value in optimizer.state.get(parameter, {}).items():
            if _dimensions(key, value, parameter) is None:
                raise UserError(
                    f"can't cut the state of {type(optimizer).__name__}: {key!r} of a {name} has shape "
                    f"{tuple(value.shape)}, the {name} itself {tuple(parameter.shape)}; use AdamW, for example."
                )


def _unwrap(optimizer: Any) -> Optimizer | None:
    """Return the plain optimizer inside accelerate's."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _set_sizes(module: nn.Module) -> None:
    """Make a layer's size attributes agree with its weight."""
    shape: torch.Size = module.weight.shape  # type: ignore[assignment]
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(shape)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = shape[1]
    elif len(shape) == 2:
        names = ("nx", "nf") if Projection(module).transposed else ("out_features", "in_features")
        for name, size in zip(names, shape, strict=True):
            setattr(module, name, size)
