"""Attentions and MLPs of a model, in the same form for every architecture: methods see nothing else of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import transformers  # still being imported when this module is, see `models.import_hook`
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuroprune.errors import UserError
from neuroprune.pruning.architectures import ARCHITECTURES, Architecture, AttentionRow, MlpRow, Part, find_architecture
from neuroprune.pruning.plain_weights import check_plain


@dataclass(frozen=True, eq=False)
class Projection:
    """One linear map, seen as an `nn.Linear`: hides fused and transposed storage.

    Args:
        module: The layer that holds the matrix (`nn.Linear`, or GPT-2's `Conv1D`); hooks on its input belong here.
        part: Which of `parts` equal parts of the layer's output features this is.
        parts: Into how many maps the layer's output is split (3 for GPT-2's fused Q, K, V).
    """

    module: nn.Module
    part: int = 0
    parts: int = 1

    @property
    def transposed(self) -> bool:
        """Whether the layer stores `[in, out]`."""
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """The matrix, `[out, in]`: a view on the parameter, for autograd and for edits in place under `no_grad`."""
        return self._matrix(self.module.weight)  # type: ignore[arg-type]

    @property
    def grad(self) -> Tensor | None:
        """The gradient of `weight`, `[out, in]`: a view, or None where there is no gradient."""
        grad = self.module.weight.grad
        return None if grad is None else self._matrix(grad)  # type: ignore[arg-type]

    @property
    def bias(self) -> Tensor | None:
        """The bias, `[out]`: a view on the parameter, or None."""
        bias = self.module.bias
        return None if bias is None else bias.chunk(self.parts)[self.part]  # type: ignore[operator]

    def _matrix(self, stored: Tensor) -> Tensor:
        matrix = stored.t() if self.transposed else stored
        return matrix if self.parts == 1 else matrix.chunk(self.parts)[self.part]


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention; head h owns rows `h * head_dim … (h + 1) * head_dim` of Q, and the same columns of O.

    K and V have a head for every `groups` query heads: query head h reads key/value head `h // groups`.

    Args:
        index: Its number among the model's attentions.
        name: Dotted path of `module` in the model.
        module: The module that splits into heads.
        q: Query projection, `[heads * head_dim, d]`.
        k: Key projection, `[heads / groups * head_dim, d]`.
        v: Value projection, like `k`.
        o: Output projection, `[d, heads * head_dim]`.
        head_dim: Size of a head; no cut changes it.
        row: The row of the table that it was made from.
    """

    index: int
    name: str
    module: nn.Module
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    head_dim: int
    row: AttentionRow = field(repr=False)

    @property
    def heads(self) -> int:
        """Current number of query heads."""
        return self.q.weight.shape[0] // self.head_dim

    @property
    def groups(self) -> int:
        """Query heads for each key/value head: 1 except for grouped-query attention."""
        return self.q.weight.shape[0] // self.k.weight.shape[0]

    @property
    def inputs(self) -> tuple[Projection, ...]:
        """The projections whose rows belong to heads: Q, K and V."""
        return self.q, self.k, self.v

    @property
    def output(self) -> Projection:
        """The projection whose columns belong to heads: O."""
        return self.o

    @property
    def units(self) -> int:
        """Current number of removable units: key/value heads, each with the query heads that read it."""
        return self.heads // self.groups

    @property
    def cross(self) -> bool:
        """Whether keys and values come from another sequence."""
        return self.row.cross


@dataclass(frozen=True, eq=False)
class Mlp:
    """One MLP; neuron j is row j of every matrix in `ins` and column j of `out`.

    Args:
        index: Its number among the model's MLPs.
        name: Dotted path of `module` in the model.
        module: The module that holds it (the whole layer in BART and OPT).
        ins: Expanding matrices `[width, d]`: one, or the activated gate and the one that it multiplies.
        out: Contracting matrix `[d, width]`.
        activation: Applied to the output of `ins[0]`.
        row: The row of the table that it was made from.
    """

    index: int
    name: str
    module: nn.Module
    ins: tuple[Projection, ...]
    out: Projection
    activation: Callable[[Tensor], Tensor]
    row: MlpRow = field(repr=False)

    @property
    def width(self) -> int:
        """Current number of neurons."""
        return self.out.weight.shape[1]

    @property
    def inputs(self) -> tuple[Projection, ...]:
        """The projections whose rows belong to neurons."""
        return self.ins

    @property
    def output(self) -> Projection:
        """The projection whose columns belong to neurons."""
        return self.out

    @property
    def units(self) -> int:
        """Current number of removable units: neurons."""
        return self.width


Block = Attention | Mlp


@dataclass(frozen=True)
class Blocks:
    """All attentions and MLPs of a model; the layer numbers of every public function are positions in these lists.

    The views stay valid when heads and neurons are removed.
    """

    attentions: list[Attention]
    mlps: list[Mlp]

    @property
    def all(self) -> list[Block]:
        """The attentions, followed by the MLPs."""
        return [*self.attentions, *self.mlps]


def find_blocks(model: nn.Module, unused: bool = False) -> Blocks:
    """List the attentions and MLPs of a transformers model.

    Encoder layers come before decoder layers, and a layer's self-attention before its cross-attention.

    Args:
        model: A transformers model, with or without a head; of a compiled one, the model inside.
        unused: Whether to list the cross-attentions of a decoder without an encoder too (as in BartForCausalLM). No
            forward pass of the model runs them, so nothing they lose makes the model smaller or faster.

    Returns:
        Views on the model's layers; nothing is copied.

    Raises:
        UserError: If the model's type is not in the table of architectures, its layers are not where the table says, or
            a weight is not a plain parameter (see `plain_weights`).
    """
    model = getattr(model, "_orig_mod", model)  # so that names, and the record made of them, are the plain model's
    architecture = _architecture(model)
    blocks = _blocks(model, architecture, unused or _runs_cross_attention(model))
    if not blocks.attentions or not blocks.mlps:
        raise UserError(
            f"no {'attention' if not blocks.attentions else 'MLP'} found in {type(model).__name__}: its layers are not "
            f"at {' or '.join(architecture.layers)} of its base model. If it wraps several transformers models, name "
            "the attribute that holds the one to prune in its class (base_model_prefix = 'bert'); if it has PEFT's "
            "adapters, merge them first (merge_and_unload()); else correct its row in "
            "neuroprune/pruning/architectures.py."
        )
    return blocks


def _blocks(model: nn.Module, architecture: Architecture, cross: bool) -> Blocks:
    """List the blocks that a row finds in a model."""
    names = {module: name for name, module in model.named_modules()}
    blocks = Blocks([], [])
    for layer in _layers(model, architecture):
        for row in architecture.attentions:
            if _has(layer, row.module) and (cross or not row.cross):
                blocks.attentions.append(_attention(layer, row, len(blocks.attentions), names))
        for mlp_row in [row for row in architecture.mlps if _has(layer, row.out.path, *(i.path for i in row.ins))][:1]:
            blocks.mlps.append(_mlp(layer, mlp_row, len(blocks.mlps), names))
    return blocks


def _looks_like(model: nn.Module) -> str | None:
    """Return the first known model type whose row describes every layer of a model, if there is one."""
    for name, architecture in ARCHITECTURES.items():
        with suppress(UserError, AttributeError, TypeError):
            layers, blocks = list(_layers(model, architecture)), _blocks(model, architecture, cross=True)
            attentions = sum(not attention.cross for attention in blocks.attentions)
            if layers and attentions == len(blocks.mlps) == len(layers):
                return name
    return None


def _architecture(model: nn.Module) -> Architecture:
    """Return the row of the model type that the model's configuration names."""
    name = _model_type(model) or _model_type(base_of(model))
    if name is None:
        raise UserError(f"{type(model).__name__} is not a transformers model: it has no config with a model_type.")
    parts = {f"model.{path}": _model_type(part) for path, part in model.named_children()}
    known = [f"{path} ({kind})" for path, kind in parts.items() if kind in ARCHITECTURES]
    if name not in ARCHITECTURES and known:
        raise UserError(f"{type(model).__name__} is composed of other models; prune its parts: {', '.join(known)}.")
    return find_architecture(name, None if name in ARCHITECTURES else _looks_like(model))


def _model_type(model: nn.Module) -> str | None:
    """Return the model type that a module's configuration names, None if it is no transformers model."""
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


def _runs_cross_attention(model: nn.Module) -> bool:
    """Return whether the model has an encoder, or its configuration announces one."""
    config = config_of(model)
    return any(getattr(config, name, False) for name in ("is_encoder_decoder", "add_cross_attention"))


def base_of(model: nn.Module) -> nn.Module:
    """Return the innermost base model: what is left of a model without heads and without wrappers around it.

    A module that wraps several transformers models names the attribute that holds the one to prune in
    `base_model_prefix`.
    """
    model = getattr(model, "_orig_mod", model)
    base = _named_base(model)
    base = unwrapped(model) if base is model else base
    return model if base is model else base_of(base)


def config_of(model: nn.Module) -> Any:
    """Return a model's configuration; that of its base model if it has none."""
    return getattr(model, "config", None) or base_of(model).config


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the only transformers model inside a module of another kind, such as a SentenceTransformer.

    Args:
        model: Any module.

    Returns:
        The model inside. The module itself if it is a transformers model or compiled, has PEFT's adapters, names its
        base model, trains in parallel, or holds none or several models.
    """
    apart = (
        isinstance(model, transformers.PreTrainedModel) or hasattr(model, "_orig_mod") or hasattr(model, "peft_config")
    )
    if apart or _named_base(model) is not model or type(model).__module__.startswith(PARALLEL):
        return model
    found = _outermost_models(model)
    return found[0] if len(found) == 1 else model


PARALLEL = ("torch.nn.parallel", "torch.distributed")


def _named_base(model: nn.Module) -> nn.Module:
    """Return what a module names as its base model; the module itself if it names none."""
    named = getattr(model, getattr(model, "base_model_prefix", ""), model)  # of a module that is no PreTrainedModel
    base: nn.Module = getattr(model, "base_model", named)
    return base


def _outermost_models(module: nn.Module) -> list[nn.Module]:
    """Return the transformers models below a module that are in no other one, each once."""
    found: dict[nn.Module, None] = {}
    for child in module.children():
        found |= dict.fromkeys([child] if isinstance(child, transformers.PreTrainedModel) else _outermost_models(child))
    return list(found)


def _layers(model: nn.Module, architecture: Architecture) -> Iterator[nn.Module]:
    """Yield the layers of all lists of layers that the model has."""
    base = base_of(model)
    for path in architecture.layers:
        if _has(base, path):
            yield from attrgetter(path)(base)


def _has(module: object, *paths: str) -> bool:
    """Return whether the module has a value at all these attribute paths."""
    try:
        return all(attrgetter(path)(module) is not None for path in paths)
    except AttributeError:
        return False


def _attention(layer: nn.Module, row: AttentionRow, index: int, names: dict[nn.Module, str]) -> Attention:
    """Make the view of one attention."""
    module = attrgetter(row.module)(layer)
    q, k, v, o = (_projection(layer, part, names) for part in (row.q, row.k, row.v, row.o))
    _check_known(module, {q.module, k.module, v.module, o.module}, names)
    return Attention(index, names[module], module, q, k, v, o, int(getattr(module, row.head_dim)), row)


def _mlp(layer: nn.Module, row: MlpRow, index: int, names: dict[nn.Module, str]) -> Mlp:
    """Make the view of one MLP."""
    module = attrgetter(row.module)(layer) if row.module else layer
    ins = tuple(_projection(layer, part, names) for part in row.ins)
    out = _projection(layer, row.out, names)
    if row.module:
        _check_known(module, {out.module, *(projection.module for projection in ins)}, names)
    return Mlp(index, names[module], module, ins, out, attrgetter(row.activation)(layer), row)


def _check_known(module: nn.Module, known: set[nn.Module], names: dict[nn.Module, str]) -> None:
    """Refuse an attention or MLP with a matrix that its row does not list: a cut would leave it as it is."""
    for part in module.modules():
        if isinstance(part, nn.Linear | Conv1D) and part not in known:
            raise UserError(
                f"{names[part]} is a matrix that the table of architectures does not list for {names[module]}, so a "
                "cut would leave it at its size; this variant of the model is not supported."
            )


def _projection(layer: nn.Module, part: Part, names: dict[nn.Module, str]) -> Projection:
    """Make the view of one matrix, after a check that its weight is a plain parameter."""
    module = attrgetter(part.path)(layer)
    check_plain(module, names[module])
    return Projection(module, part.index, part.of)
