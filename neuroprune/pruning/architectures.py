"""Table of architectures: locations of a model type's matrices, and attributes to update after a cut.

Support for a model type is defined only here. To add one, add a row, here or with `register_architecture`. Paths are
attribute paths inside a layer; `layers` are paths of layer lists below the base model (`model.base_model`). Attentions
or lists that a particular model does not have (such as the cross-attention of an encoder) are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from neuroprune.errors import UserError, did_you_mean

Counted = Literal["heads", "groups", "width", "one"]
"""Quantity in an attribute: query heads, query heads per key/value head, output features of Q; `one` is 1."""


@dataclass(frozen=True)
class Part:
    """One matrix inside a layer.

    Args:
        path: Attribute path of the linear map, from the layer.
        index: Index of the part among `of` equal parts of the output features, for fused projections.
        of: Number of such parts.
    """

    path: str
    index: int = 0
    of: int = 1


@dataclass(frozen=True)
class AttentionRow:
    """Attention of a layer.

    Args:
        module: Path of the module that splits its features into heads.
        q: Query projection.
        k: Key projection.
        v: Value projection.
        o: Output projection.
        head_dim: Attribute of `module` with the size of a head.
        counts: Attributes of `module` to update after a cut, each with the quantity that it stores.
        cross: Whether keys and values come from another sequence.
        cut_class: `module:Class` to which `module` is converted when heads are cut, if the original class cannot handle
            the cut; it has a buffer `kept_heads`.
        skipped: `module:Class` that replaces the module's forward pass when no head is left.
    """

    module: str
    q: Part
    k: Part
    v: Part
    o: Part
    head_dim: str
    counts: Mapping[str, Counted] = field(default_factory=dict)
    cross: bool = False
    cut_class: str = ""
    skipped: str = "neuroprune.pruning.empty_blocks:SkippedAttention"


@dataclass(frozen=True)
class MlpRow:
    """Variant of a layer's MLP; the first variant whose matrices all exist is used.

    Args:
        ins: Expanding matrices: one, or the activated gate and the one it multiplies.
        out: Contracting matrix.
        activation: Path of the activation function.
        module: Path of the module that contains the MLP; empty for the layer itself.
        width: Attribute of that module with the number of neurons, if there is one.
    """

    ins: tuple[Part, ...]
    out: Part
    activation: str
    module: str = ""
    width: str = ""


@dataclass(frozen=True)
class ConfigNames:
    """Configuration values that set the numbers of heads and neurons of all layers.

    Args:
        neurons: Name of the MLP width for each list of layers; lists with the same name share the value.
        heads: Name of the number of query heads; empty if the size of a head is derived from it, because it then can't
            be changed.
        key_heads: Name of the number of key/value heads, if there is one.
        head_dim: Name of the size of a head.
        position_bias: Attribute of an attention's module in the first layer of a list: an embedding with one column per
            head, used by all layers of the list. These must keep heads at the same positions.
    """

    neurons: tuple[str, ...]
    heads: str = ""
    key_heads: str = ""
    head_dim: str = ""
    position_bias: str = ""


@dataclass(frozen=True)
class Architecture:
    """Row of the table: the lists of layers below the base model, in order, and the parts of a layer.

    Args:
        layers: Paths of the lists.
        attentions: The attentions of a layer.
        mlps: The possible variants of a layer's MLP.
        text_to_text: Whether models of the type classify by generating the class name instead of using a classification
            head.
        config: Configuration values for the numbers of heads and neurons; None if there are none.
        causal: Whether models of the type are decoder-only, with causal attention.
    """

    layers: tuple[str, ...]
    attentions: tuple[AttentionRow, ...]
    mlps: tuple[MlpRow, ...]
    text_to_text: bool = False
    config: ConfigNames | None = None
    causal: bool = False

    @property
    def encoder_decoder(self) -> bool:
        """Whether models of the type have both encoder and decoder layers."""
        return {"encoder", "decoder"} <= {path.partition(".")[0] for path in self.layers}


def find_architecture(model_type: str, like: str | None = None) -> Architecture:
    """Look a model type up in the table.

    Args:
        model_type: The `model_type` of a transformers configuration.
        like: A known type with the same module names, mentioned in the error message.

    Returns:
        Its row.

    Raises:
        UserError: If the type is not in the table.
    """
    if model_type in _REASONS:
        raise UserError(f"model type {model_type!r} is not supported: {_REASONS[model_type]}.")
    if model_type not in ARCHITECTURES and like is not None:
        raise UserError(
            f"model type {model_type!r} is not in the table of architectures, but looks like {like}: call "
            f"neuroprune.register_architecture({model_type!r}, {like!r}), here and in each program that loads "
            "pruned models, and compare outputs before and after a first removal."
        )
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"model type {model_type!r} is not supported{did_you_mean(model_type, ARCHITECTURES)}; known types are "
            f"{', '.join(sorted(ARCHITECTURES))}; add a row with neuroprune.register_architecture (see "
            "neuroprune/pruning/architectures.py)."
        )
    return ARCHITECTURES[model_type]


def _linears(module: str, names: tuple[str, str, str, str], head_dim: str, **kwargs: object) -> AttentionRow:
    """Return the row of an attention whose four projections are linear layers inside `module`."""
    q, k, v, o = (Part(f"{module}.{name}") for name in names)
    return AttentionRow(module, q, k, v, o, head_dim, **kwargs)  # type: ignore[arg-type]


def _bert_attention(path: str, cross: bool = False) -> AttentionRow:
    q, k, v = (Part(f"{path}.self.{name}") for name in ("query", "key", "value"))
    counts: dict[str, Counted] = {"num_attention_heads": "heads", "all_head_size": "width"}
    return AttentionRow(f"{path}.self", q, k, v, Part(f"{path}.output.dense"), "attention_head_size", counts, cross)


def _gpt2_attention(path: str, cross: bool = False) -> AttentionRow:
    fused = f"{path}.c_attn"
    q = Part(f"{path}.q_attn") if cross else Part(fused, 0, 3)
    k, v = (Part(fused, 0, 2), Part(fused, 1, 2)) if cross else (Part(fused, 1, 3), Part(fused, 2, 3))
    counts: dict[str, Counted] = {"num_heads": "heads", "split_size": "width"}
    return AttentionRow(path, q, k, v, Part(f"{path}.c_proj"), "head_dim", counts, cross)


_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")
_T5 = ("q", "k", "v", "o")
_FC = (MlpRow((Part("fc1"),), Part("fc2"), "activation_fn"),)

_BERT = Architecture(
    layers=("encoder.layer",),
    attentions=(_bert_attention("attention"), _bert_attention("crossattention", cross=True)),
    mlps=(
        MlpRow((Part("intermediate.dense"),), Part("output.dense"), "intermediate.intermediate_act_fn", "intermediate"),
    ),
    config=ConfigNames(("intermediate_size",)),
)
_DISTILBERT = Architecture(
    layers=("transformer.layer",),
    attentions=(
        _linears(
            "attention", ("q_lin", "k_lin", "v_lin", "out_lin"), "attention_head_size", counts={"n_heads": "heads"}
        ),
    ),
    mlps=(MlpRow((Part("ffn.lin1"),), Part("ffn.lin2"), "ffn.activation", "ffn"),),
    config=ConfigNames(("hidden_dim",)),
)
_T5_ARCHITECTURE = Architecture(
    layers=("encoder.block", "decoder.block"),
    attentions=(
        _linears(
            "layer.0.SelfAttention",
            _T5,
            "key_value_proj_dim",
            counts={"n_heads": "heads", "inner_dim": "width"},
            cut_class="neuroprune.pruning.t5:CutT5Attention",
            skipped="neuroprune.pruning.t5:SkippedT5Attention",
        ),
        # The first layer's zeros [1, n_heads, q, k] are the bias of all layers. With n_heads = 1 they broadcast to any
        # number.
        _linears(
            "layer.1.EncDecAttention",
            _T5,
            "key_value_proj_dim",
            counts={"n_heads": "one", "inner_dim": "width"},
            cross=True,
            skipped="neuroprune.pruning.t5:SkippedT5Attention",
        ),
    ),
    mlps=tuple(
        MlpRow(tuple(Part(f"{ff}.{name}") for name in ins), Part(f"{ff}.wo"), f"{ff}.act", ff)
        for ff in ("layer.1.DenseReluDense", "layer.2.DenseReluDense")
        for ins in (("wi",), ("wi_0", "wi_1"))
    ),
    config=ConfigNames(("d_ff", "d_ff"), heads="num_heads", head_dim="d_kv", position_bias="relative_attention_bias"),
    text_to_text=True,
)
_BART = Architecture(
    layers=("encoder.layers", "decoder.layers"),
    attentions=(
        _linears("self_attn", _PROJ, "head_dim", counts={"num_heads": "heads"}),
        _linears("encoder_attn", _PROJ, "head_dim", counts={"num_heads": "heads"}, cross=True),
    ),
    mlps=_FC,
    config=ConfigNames(("encoder_ffn_dim", "decoder_ffn_dim")),
)
_OPT = Architecture(
    layers=("decoder.layers",),
    attentions=(_linears("self_attn", _PROJ, "head_dim", counts={"num_heads": "heads"}),),
    mlps=_FC,
    config=ConfigNames(("ffn_dim",)),
    causal=True,
)
_GPT2 = Architecture(
    layers=("h",),
    attentions=(_gpt2_attention("attn"), _gpt2_attention("crossattention", cross=True)),
    mlps=(MlpRow((Part("mlp.c_fc"),), Part("mlp.c_proj"), "mlp.act", "mlp"),),
    config=ConfigNames(("n_inner",)),
    causal=True,
)
_LLAMA = Architecture(
    layers=("layers",),
    attentions=(
        _linears(
            "self_attn",
            ("q_proj", "k_proj", "v_proj", "o_proj"),
            "head_dim",
            counts={"num_key_value_groups": "groups"},
        ),
    ),
    mlps=(
        MlpRow(
            (Part("mlp.gate_proj"), Part("mlp.up_proj")),
            Part("mlp.down_proj"),
            "mlp.act_fn",
            "mlp",
            width="intermediate_size",
        ),
    ),
    config=ConfigNames(
        ("intermediate_size",), heads="num_attention_heads", key_heads="num_key_value_heads", head_dim="head_dim"
    ),
    causal=True,
)

_MODERNBERT = Architecture(
    layers=("layers",),
    attentions=(
        AttentionRow(
            "attn",
            q=Part("attn.Wqkv", 0, 3),
            k=Part("attn.Wqkv", 1, 3),
            v=Part("attn.Wqkv", 2, 3),
            o=Part("attn.Wo"),
            head_dim="head_dim",
        ),
    ),
    mlps=(MlpRow((Part("mlp.Wi", 0, 2), Part("mlp.Wi", 1, 2)), Part("mlp.Wo"), "mlp.act", "mlp"),),
    config=ConfigNames(("intermediate_size",)),
)
# Only with share_att_key, as in DeBERTa-v3: relative positions then use Q and K, so that nothing else has to be cut.
_DEBERTA = replace(
    _BERT,
    attentions=(
        AttentionRow(
            "attention.self",
            q=Part("attention.self.query_proj"),
            k=Part("attention.self.key_proj"),
            v=Part("attention.self.value_proj"),
            o=Part("attention.output.dense"),
            head_dim="attention_head_size",
            counts={"num_attention_heads": "heads", "all_head_size": "width"},
        ),
    ),
)
_MPNET = replace(
    _BERT,
    attentions=(
        _linears(
            "attention.attn",
            _T5,
            "attention_head_size",
            counts={"num_attention_heads": "heads", "all_head_size": "width"},
            cut_class="neuroprune.pruning.mpnet:CutMPNetAttention",
        ),
    ),
)

# If a type resembles several known ones, the message suggests the first.
_ROWS: dict[str, Architecture] = {
    "bart": _BART,
    "bert": _BERT,
    "distilbert": _DISTILBERT,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "t5": _T5_ARCHITECTURE,
    # types that share or vary these rows
    "deberta-v2": _DEBERTA,
    "electra": _BERT,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "marian": replace(_BART, text_to_text=True),  # Marian has no model with a classification head
    "mbart": _BART,
    "mistral": _LLAMA,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "opt": _OPT,
    "pegasus": replace(_BART, text_to_text=True),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(_ROWS)
_EXPERTS = "its MLPs are mixtures of experts, but the table describes one dense MLP per layer"
_REASONS = {
    "albert": "all its layers share one set of weights, so layers can't keep different units",
    "deepseek_v3": _EXPERTS,
    "gpt_oss": _EXPERTS,
    "mixtral": _EXPERTS,
    "olmoe": _EXPERTS,
    "phi3": "its attention reads the number of heads from the configuration, which has one value for all layers",
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}


def register_architecture(model_type: str, row: Architecture | str) -> None:
    """Add a model type to the table; required in each process that prunes such models or loads pruned ones.

    A row describes the locations of matrices, not the forward pass. Before relying on it, compare the outputs of a
    pruned model with those of the dense model with the same units masked.

    Args:
        model_type: The `model_type` of the configuration.
        row: A row, or a model type whose row is reused.

    Raises:
        UserError: If the other type has no row, or the type already has a different row.
    """
    found = find_architecture(row) if isinstance(row, str) else row
    if _ROWS.get(model_type, found) != found:
        raise UserError(f"model type {model_type!r} already has a different row; rows of the table can't be replaced.")
    _ROWS[model_type] = found
