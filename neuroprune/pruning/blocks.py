"""Architecture-independent views of a model's attentions and MLPs, through which methods access the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import transformers  # transformers may still be importing when this module loads, see `models.import_hook`
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuroprune.errors import UserError
from neuroprune.pruning.architectures import ARCHITECTURES, Architecture, AttentionRow, MlpRow, Part, find_architecture
from neuroprune.pruning.plain_weights import check_plain


@dataclass(frozen=True, eq=False)
class Projection:
    """View of one linear map in the layout of `nn.Linear`, independent of fused or transposed storage.

    Args:
        module: The layer that contains the matrix (`nn.Linear`, or GPT-2's `Conv1D`); register hooks on its input here.
        part: Index of this map among `parts` equal parts of the layer's output features.
        parts: Number of maps into which the layer's output is split (3 for GPT-2's fused Q, K, V).
    """

    module: nn.Module
    part: int = 0
    parts: int = 1

    @property
    def parameter(self) -> nn.Parameter:
        """The stored parameter, which may contain further maps; as a key for learning rates and optimizer states."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def transposed(self) -> bool:
        """Whether the layer stores `[in, out]`."""
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """The matrix, `[out, in]`: a view of the parameter, for autograd and for in-place changes under `no_grad`."""
        return self._matrix(self.module.weight)  # type: ignore[arg-type]

    @property
    def grad(self) -> Tensor | None:
        """The gradient of `weight`, `[out, in]`: a view, or None if there is no gradient."""
        grad = self.module.weight.grad
        return None if grad is None else self._matrix(grad)  # type: ignore[arg-type]

    @property
    def bias(self) -> Tensor | None:
        """The bias, `[out]`: a view of the parameter, or None."""
        bias = self.module.bias
        return None if bias is None else bias.chunk(self.parts)[self.part]  # type: ignore[operator]

    def _matrix(self, stored: Tensor) -> Tensor:
        matrix = stored.t() if self.transposed else stored
        return matrix if self.parts == 1 else matrix.chunk(self.parts)[self.part]


@dataclass(frozen=True, eq=False)
class Attention:
    """View of one attention. Head h owns rows `h * head_dim … (h + 1) * head_dim` of Q and the same columns of O.

    K and V have one head per `groups` query heads: query head h uses key/value head `h // groups`.

    Args:
        index: Index among the model's attentions.
        name: Dotted path of `module` in the model.
        module: The module that splits its features into heads.
        q: Query projection, `[heads * head_dim, d]`.
        k: Key projection, `[heads / groups * head_dim, d]`.
        v: Value projection, like `k`.
        o: Output projection, `[d, heads * head_dim]`.
        head_dim: Size of a head, unchanged by cuts.
        row: Its row in the table of architectures.
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
        """Query heads per key/value head: 1 except for grouped-query attention, or if no head is left."""
        return self.q.weight.shape[0] // (self.k.weight.shape[0] or 1) or 1

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
        """Current number of removable units: key/value heads, each with the query heads that use it."""
        return self.heads // self.groups

    @property
    def cross(self) -> bool:
        """Whether keys and values come from another sequence."""
        return self.row.cross


@dataclass(frozen=True, eq=False)
class Mlp:
    """View of one MLP. Neuron j is row j of every matrix in `ins` and column j of `out`.

    Args:
        index: Index among the model's MLPs.
        name: Dotted path of `module` in the model.
        module: The module that contains it (the whole layer in BART and OPT).
        ins: Expanding matrices `[width, d]`: one, or the activated gate and the one that it multiplies.
        out: Contracting matrix `[d, width]`.
        activation: Applied to the output of `ins[0]`.
        row: Its row in the table of architectures.
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
    """All attentions and MLPs of a model. Layer numbers in public functions are positions in these lists.

    The views stay valid when heads and neurons are removed.
    """

    attentions: list[Attention]
    mlps: list[Mlp]

    @property
    def all(self) -> list[Block]:
        """The attentions, followed by the MLPs."""
        return [*self.attentions, *self.mlps]

    @property
    def present(self) -> Blocks:
        """The attentions and MLPs with remaining units."""
        return Blocks([a for a in self.attentions if a.units], [m for m in self.mlps if m.units])

    @property
    def groups(self) -> int:
        """Query heads for each key/value head in the attentions that have heads left."""
        return max(attention.groups for attention in self.attentions)


def find_blocks(model: nn.Module, unused: bool = False) -> Blocks:
    """List the attentions and MLPs of a transformers model.

    Encoder layers come before decoder layers, and a layer's self-attention before its cross-attention.

    Args:
        model: A transformers model, with or without a head; compiled models are unwrapped.
        unused: Whether to include the cross-attentions of a decoder without an encoder (as in BartForCausalLM). They
            are never executed, so that pruning them does not make the model faster.

    Returns:
        Views of the model's layers; nothing is copied.

    Raises:
        UserError: If the model's type is not in the table of architectures, its layers are not at the listed paths, or
            a weight is not a plain parameter (see `plain_weights`).
    """
    model = getattr(model, "_orig_mod", model)  # module names as in the uncompiled model
    architecture = _architecture(model)
    blocks = _blocks(model, architecture, unused or _runs_cross_attention(model))
    if not blocks.attentions or not blocks.mlps:
        raise UserError(
            f"no {'attention' if not blocks.attentions else 'MLP'} found in {type(model).__name__}: its layers are not "
            f"at {' or '.join(architecture.layers)} of its base model. If it wraps several transformers models, set "
            "base_model_prefix in its class to the attribute with the one to prune (such as 'bert'). If it has PEFT "
            "adapters, merge them first (merge_and_unload()). Otherwise correct its row in "
            "neuroprune/pruning/architectures.py."
        )
    return blocks


def _blocks(model: nn.Module, architecture: Architecture, cross: bool) -> Blocks:
    """List a model's blocks according to a row of the table."""
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
    """Return the first known model type whose row fits every layer of a model, if there is one."""
    for name, architecture in ARCHITECTURES.items():
        with suppress(UserError, AttributeError, TypeError):
            layers, blocks = list(_layers(model, architecture)), _blocks(model, architecture, cross=True)
            attentions = sum(not attention.cross for attention in blocks.attentions)
            if layers and attentions == len(blocks.mlps) == len(layers):
                return name
    return None


def _architecture(model: nn.Module) -> Architecture:
    """Return the row for the `model_type` in the model's configuration."""
    name = _model_type(model) or _model_type(base_of(model))
    if name is None:
        raise UserError(f"{type(model).__name__} {_why_unknown(model)}.")
    parts = {f"model.{path}": _model_type(part) for path, part in model.named_children()}
    known = [f"{path} ({kind})" for path, kind in parts.items() if kind in ARCHITECTURES]
    if name not in ARCHITECTURES and known:
        raise UserError(f"{type(model).__name__} is composed of other models; prune its parts: {', '.join(known)}.")
    return find_architecture(name, None if name in ARCHITECTURES else _looks_like(model))


def _why_unknown(model: nn.Module) -> str:
    """Return why a module has no `model_type`, as the predicate of a sentence."""
    if type(model).__module__.startswith(PARALLEL):
        return "can't follow when weights change their shapes; train the model inside (its attribute module) without it"
    inside = _outermost_models(model)
    names = [name for name, module in model.named_modules() if module in inside]
    if names:
        return (
            f"contains several transformers models ({', '.join(names)}); set base_model_prefix in its class to the "
            "attribute with the one to prune"
        )
    return "is not a transformers model: it has no config with a model_type"


def _model_type(model: nn.Module) -> str | None:
    """Return the `model_type` in a module's configuration, or None if it is not a transformers model."""
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


def _runs_cross_attention(model: nn.Module) -> bool:
    """Return whether the model or its configuration has an encoder."""
    config = config_of(model)
    return any(getattr(config, name, False) for name in ("is_encoder_decoder", "add_cross_attention"))


def base_of(model: nn.Module) -> nn.Module:
    """Return the innermost base model, without task heads and wrappers.

    A module that wraps several transformers models must set `base_model_prefix` to the attribute with the one to prune.
    """
    model = getattr(model, "_orig_mod", model)
    base = _named_base(model)
    base = unwrapped(model) if base is model else base
    return model if base is model else base_of(base)


def config_of(model: nn.Module) -> Any:
    """Return a model's configuration, or its base model's if it has none."""
    return getattr(model, "config", None) or base_of(model).config


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the only transformers model inside a module of another kind, such as a SentenceTransformer.

    Args:
        model: Any module.

    Returns:
        The wrapped model; or the module itself if it is a transformers model, is compiled, has PEFT adapters, sets
        `base_model_prefix`, is a data-parallel wrapper, or contains no or several transformers models.
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
    """Return the base model that a module designates, or the module itself if it designates none."""
    named = getattr(model, getattr(model, "base_model_prefix", ""), model)  # for modules that are not a PreTrainedModel
    base: nn.Module = getattr(model, "base_model", named)
    return base


def _outermost_models(module: nn.Module) -> list[nn.Module]:
    """Return the outermost transformers models inside a module, without duplicates."""
    found: dict[nn.Module, None] = {}
    for child in module.children():
        found |= dict.fromkeys([child] if isinstance(child, transformers.PreTrainedModel) else _outermost_models(child))
    return list(found)


def _layers(model: nn.Module, architecture: Architecture) -> Iterator[nn.Module]:
    """Yield the layers of all existing layer lists of a model."""
    base = base_of(model)
    for path in architecture.layers:
        if _has(base, path):
            yield from attrgetter(path)(base)


def _has(module: object, *paths: str) -> bool:
    """Return whether a module has a value at each of these attribute paths."""
    try:
        return all(attrgetter(path)(module) is not None for path in paths)
    except AttributeError:
        return False


def _attention(layer: nn.Module, row: AttentionRow, index: int, names: dict[nn.Module, str]) -> Attention:
    """Create the view of one attention."""
    module = attrgetter(row.module)(layer)
    q, k, v, o = (_projection(layer, part, names) for part in (row.q, row.k, row.v, row.o))
    _check_known(module, {q.module, k.module, v.module, o.module}, names)
    return Attention(index, names[module], module, q, k, v, o, int(getattr(module, row.head_dim)), row)


def _mlp(layer: nn.Module, row: MlpRow, index: int, names: dict[nn.Module, str]) -> Mlp:
    """Create the view of one MLP."""
    module = attrgetter(row.module)(layer) if row.module else layer
    ins = tuple(_projection(layer, part, names) for part in row.ins)
    out = _projection(layer, row.out, names)
    if row.module:
        _check_known(module, {out.module, *(projection.module for projection in ins)}, names)
    return Mlp(index, names[module], module, ins, out, attrgetter(row.activation)(layer), row)


def _check_known(module: nn.Module, known: set[nn.Module], names: dict[nn.Module, str]) -> None:
    """Reject an attention or MLP with a matrix that its row does not list, because a cut would not shrink it."""
    for part in module.modules():
        if isinstance(part, nn.Linear | Conv1D) and part not in known:
            raise UserError(
                f"the table of architectures does not list the matrix {names[part]} of {names[module]}, so that a "
                "cut would not shrink it; this variant of the model is not supported."
            )


def _projection(layer: nn.Module, part: Part, names: dict[nn.Module, str]) -> Projection:
    """Create the view of one matrix after checking that its weight is a plain parameter."""
    module = attrgetter(part.path)(layer)
    check_plain(module, names[module])
    return Projection(module, part.index, part.of)
