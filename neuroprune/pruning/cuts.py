"""Replacement of parameters by smaller ones, including gradients and optimizer state.

This module is independent of heads, neurons and hidden dimensions: a `Cut` consists of a module, a side and the
positions to keep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuroprune.errors import UserError
from neuroprune.pruning.blocks import Projection
from neuroprune.pruning.transaction import Transaction


@dataclass(frozen=True, eq=False)
class Cut:
    """Features to keep at the output or input of a linear layer, embedding or norm.

    Args:
        module: The layer.
        side: Output or input features. A norm has only output features; an embedding has only input features (its
            dimension 1).
        index: Positions to keep, int64, ascending.
    """

    module: nn.Module
    side: Literal["out", "in"]
    index: Tensor

    def parameters(self) -> list[tuple[str, nn.Parameter, int]]:
        """Return name, parameter and dimension of each parameter that shrinks."""
        module: Any = self.module
        weight = ("weight", module.weight, int((self.side == "in") != Projection(module).transposed))
        if self.side == "in" or getattr(module, "bias", None) is None:
            return [weight]
        return [weight, ("bias", module.bias, 0)]


@dataclass(frozen=True, eq=False)
class Use:
    """Occurrence of a parameter to be cut.

    Args:
        module: The module that contains it.
        name: Its name in that module.
        dim: The dimension that is cut.
        index: Positions to keep, int64.
    """

    module: nn.Module
    name: str
    dim: int
    index: Tensor

    def agrees(self, other: Use) -> bool:
        """Return whether both uses keep the same slices of the parameter."""
        return self.dim == other.dim and self.index.equal(other.index)


@torch.no_grad()
def stage_cuts(changes: Transaction, model: nn.Module, cuts: Iterable[Cut], optimizer: Any = None) -> None:
    """Create the smaller parameters and optimizer states and stage their assignment.

    Args:
        changes: Where the assignments are staged.
        model: The model that the cut modules belong to.
        cuts: The cuts. If modules share a parameter, all of them must be listed, even those that lose nothing.
        optimizer: If given, its parameter groups and state are updated as well. Accelerate's wrapper is removed.

    Raises:
        UserError: If a parameter is shared by modules that keep different positions, a trainable parameter to be cut is
            missing from the optimizer, or the optimizer's state cannot be cut.
    """
    optimizer = unwrap(optimizer)
    uses = _uses(model, cuts)
    _check_held(optimizer, uses)
    _check_state(optimizer, uses)
    new = {parameter: _smaller(parameter, places[0]) for parameter, places in uses.items()}
    for parameter, places in uses.items():
        for use in places:
            changes.set(use.module, use.name, new[parameter])
            for name, size in _sizes(use.module, new[parameter]).items():
                changes.set(use.module, name, size)
    if optimizer is not None:
        _stage_optimizer(changes, optimizer, uses, new)


def check_can_follow(optimizer: Any, cuts: Iterable[Cut]) -> None:
    """Reject an optimizer that does not support cuts of these layers, regardless of the positions.

    Args:
        optimizer: As in `stage_cuts`.
        cuts: The layers and sides; their positions are not read.

    Raises:
        UserError: As in `stage_cuts`.
    """
    optimizer = unwrap(optimizer)
    uses: dict[Tensor, list[Use]] = {}
    for cut in cuts:
        uses |= {parameter: [Use(cut.module, name, dim, cut.index)] for name, parameter, dim in cut.parameters()}
    _check_held(optimizer, uses)
    _check_state(optimizer, uses)


def unwrap(optimizer: Any) -> Optimizer | None:
    """Return the optimizer inside accelerate's wrapper."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _uses(model: nn.Module, cuts: Iterable[Cut]) -> dict[Tensor, list[Use]]:
    """Collect the occurrences of each parameter that shrinks; reject conflicting cuts."""
    uses: dict[Tensor, list[Use]] = defaultdict(list)
    for cut in cuts:
        for name, parameter, dim in cut.parameters():
            uses[parameter].append(Use(cut.module, name, dim, cut.index))
    smaller = {p: places for p, places in uses.items() if any(len(use.index) < p.shape[use.dim] for use in places)}
    _check_shared(model, smaller)
    return smaller


def _check_shared(model: nn.Module, uses: dict[Tensor, list[Use]]) -> None:
    """Reject a parameter that is used differently elsewhere in the model."""
    names = {module: name for name, module in model.named_modules()}
    for first, *others in uses.values():
        for other in others:
            if not other.agrees(first):
                refuse_shared(names, first.module, first.name, other.module)
    cut = {parameter: {use.module for use in places} for parameter, places in uses.items()}
    for module in names:
        for held in module._parameters.values():
            if held in cut and module not in cut[held]:
                refuse_shared(names, uses[held][0].module, uses[held][0].name, module)


def refuse_shared(names: dict[nn.Module, str], one: nn.Module, parameter: str, other: nn.Module) -> None:
    """Raise UserError because two modules (or two layers that are the same module) share a parameter."""
    first, second = names.get(one, "a module"), names.get(other, "another module")
    what = f"{first} is used by two layers" if first == second else f"{first} and {second} share their {parameter}"
    raise UserError(
        f"{what}, which can only lose the same positions everywhere; pass the same positions for each layer, or give "
        "each layer separate weights (copy.deepcopy of the module) before pruning."
    )


def _smaller(old: Tensor, use: Use) -> nn.Parameter:
    """Return a parameter with the selected slices and, if present, their gradient."""
    index = use.index.to(old.device)
    new = nn.Parameter(old.index_select(use.dim, index), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = old.grad.index_select(use.dim, index)
    return new


def _sizes(module: nn.Module, parameter: nn.Parameter) -> dict[str, Any]:
    """Return the attributes of a layer that store the sizes of this parameter."""
    shape = tuple(parameter.shape)
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": shape}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": shape[1]}
    if len(shape) != 2:
        return {}
    names = ("nx", "nf") if Projection(module).transposed else ("out_features", "in_features")
    return dict(zip(names, shape, strict=True))


# ---- the optimizer


def _stage_optimizer(
    changes: Transaction,
    optimizer: Optimizer,
    uses: dict[Tensor, list[Use]],
    new: dict[Tensor, nn.Parameter],
) -> None:
    """Stage an optimizer's new parameters and smaller states."""
    state: dict[Any, Any] = {}
    for parameter, entries in optimizer.state.items():
        places = uses.get(parameter)
        state[new.get(parameter, parameter)] = _smaller_state(entries, parameter, places[0]) if places else entries
    changes.replace(optimizer.state, state)
    for group in optimizer.param_groups:
        parameters = [new.get(parameter, parameter) for parameter in group["params"]]
        changes.replace(group, {**group, "params": parameters})


def _smaller_state(state: dict[str, Any], old: Tensor, use: Use) -> dict[str, Any]:
    """Select the same slices of the tensors in an optimizer's state.

    Adafactor's factors are means over rows or columns. Factors averaged over cut entries are kept and decay over time.
    """
    dims = {key: _dimensions(key, value, old) for key, value in state.items()}
    return {
        key: value.index_select(found.index(use.dim), use.index.to(value.device))
        if found and use.dim in found
        else value
        for (key, value), found in zip(state.items(), dims.values(), strict=True)
    }


def _dimensions(key: str, value: object, parameter: Tensor) -> tuple[int | None, ...] | None:
    """Match the dimensions of a state tensor with the parameter's.

    Args:
        key: The name of the state.
        value: The state.
        parameter: The parameter.

    Returns:
        The parameter's dimension for each of the tensor's, or None for one that was averaged to size 1; () for a scalar
        or other values; None for a tensor of unknown shape or kind.
    """
    if isinstance(value, list | tuple | dict):
        return None if any(isinstance(part, Tensor) for part in _parts(value)) else ()
    if not isinstance(value, Tensor) or not value.dim():
        return ()
    if type(value) not in (Tensor, nn.Parameter):
        return None  # quantized or sharded
    whole: tuple[int | None, ...] = tuple(range(parameter.dim()))
    rows, columns = whole[:-1], (*whole[:-2], *whole[-1:])
    factors = {"_row": rows, "_col": columns}  # factored state of transformers' Adafactor
    factors |= {"row_var": (*rows, None), "col_var": (*whole[:-2], None, *whole[-1:])}  # of torch's
    found = next((dims for suffix, dims in factors.items() if key.endswith(suffix)), whole)
    return found if value.shape == tuple(1 if dim is None else parameter.shape[dim] for dim in found) else None


def _parts(value: Any) -> Iterable[Any]:
    """Yield all elements of a nested container."""
    for part in value.values() if isinstance(value, dict) else value:
        yield from _parts(part) if isinstance(part, list | tuple | dict) else (part,)


def _check_held(optimizer: Optimizer | None, uses: dict[Tensor, list[Use]]) -> None:
    """Reject an optimizer without the parameters to be cut, because the smaller ones would not be trained."""
    if optimizer is None:
        return
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for parameter, (use, *_) in uses.items():
        if parameter.requires_grad and parameter not in held:
            raise UserError(
                f"the optimizer ({type(optimizer).__name__}) lacks a trainable {use.name} of shape "
                f"{tuple(parameter.shape)} that is to be cut; create the optimizer from this model's "
                "parameters after moving the model to its device, or freeze parameters that it should not train."
            )


def _check_state(optimizer: Optimizer | None, uses: dict[Tensor, list[Use]]) -> None:
    """Reject an optimizer whose state has tensors of unknown shapes."""
    if optimizer is None:
        return
    for parameter, (use, *_) in uses.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if _dimensions(key, value, parameter) is None:
                kind = f"has shape {tuple(value.shape)}" if type(value) is Tensor else f"is a {type(value).__name__}"
                raise UserError(
                    f"can't cut the state of {type(optimizer).__name__}: {key!r} of a {use.name} {kind}, the "
                    f"{use.name} itself has shape {tuple(parameter.shape)}; use an optimizer whose state has the "
                    "shapes of the weights (AdamW, Adafactor, SGD, Lion), not an 8-bit or low-rank one."
                )
