"""Export of Llama-like decoders to GGUF files for llama.cpp, at the cut size.

Models with equal shapes in all layers use llama.cpp's architecture `llama`. Other models use `deci`, which has the same
computation with separate numbers of heads and neurons for each layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.files.atomic import open_to_umask
from neuroprune.files.temporary import temporary_folder
from neuroprune.models.pretrained import from_pretrained, move_files
from neuroprune.pruning.blocks import Attention, Blocks, Projection, find_blocks
from neuroprune.pruning.kept_units import read_record

FILE = "model.gguf"
TYPES = ("llama", "mistral", "qwen2")
"""Model types that llama.cpp's `llama` can compute: rotary positions, RMS norms, gated MLPs with SiLU."""
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""llama.cpp's token types."""
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    rf"{WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}": "llama-bpe",
    rf"{WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}": "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}": "tekken",
}
"""Regular expression by which a byte-level tokenizer splits text -> llama.cpp's name for it."""
UNUSED = 5


def export(folder: Path, out: Path) -> list[str]:
    """Write `model.gguf` in 32-bit floats, including the tokenizer if it is a byte-level BPE that llama.cpp knows.

    Args:
        folder: A saved model with its tokenizer.
        out: The folder to write to; created if necessary.

    Returns:
        A description of the result.

    Raises:
        UserError: If the package gguf is missing or llama.cpp does not support the model.
    """
    if find_spec("gguf") is None:
        raise UserError("GGUF export needs gguf; install with: pip install gguf.")
    from gguf import GGUFWriter

    model: Any = from_pretrained(folder).float()
    _check(model)
    blocks = find_blocks(model)
    shapes = _shapes(blocks)
    kind = "llama" if len(set(shapes)) == 1 else "deci"
    out.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".new-", out) as new:
        writer = GGUFWriter(new / FILE, kind)
        _add_values(writer, model)
        sentence = _add_tokenizer(writer, folder, model.config.vocab_size)
        for name, tensor in tensors(model):
            writer.add_tensor(name, np.ascontiguousarray(tensor.detach().numpy()))
        _write(writer)
        open_to_umask(new)
        move_files(new, out)
    return [f"{out / FILE}: llama.cpp's architecture {kind}, {len(blocks.mlps)} layers, 32-bit floats.", sentence]


def _write(writer: Any) -> None:
    """Write everything that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(model: Any) -> None:
    """Reject models that llama.cpp's `llama` and `deci` can't compute."""
    config, name = model.config, type(model).__name__
    if config.model_type not in TYPES or not name.endswith("ForCausalLM"):
        raise UserError(f"{name} can't be written as GGUF; supported are decoders of the types {', '.join(TYPES)}.")
    if read_record(model).get("hidden"):
        raise UserError("this model can't be written as GGUF: its hidden dimension was cut.")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < config.max_position_embeddings:
        raise UserError(f"{name} can't be written as GGUF: llama.cpp's llama lacks sliding windows ({window} tokens).")
    if config.hidden_act != "silu":
        raise UserError(f"{name} can't be written as GGUF: llama.cpp's llama supports SiLU, not {config.hidden_act}.")
    if (rope := config.rope_parameters["rope_type"]) != "default":
        raise UserError(f"{name} can't be written as GGUF: scaled rotary positions ({rope}) are not supported.")


def _add_values(writer: Any, model: Any) -> None:
    """Write the shapes and constants of the architecture."""
    config, blocks = model.config, find_blocks(model)
    size = blocks.attentions[0].head_dim
    writer.add_name(model.config.name_or_path or type(model).__name__)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(blocks.mlps))
    heads, key_heads, widths = (list(numbers) for numbers in zip(*_shapes(blocks), strict=True))
    writer.add_feed_forward_length(_one_or_all(widths))
    writer.add_head_count(_one_or_all(heads))
    writer.add_head_count_kv(_one_or_all(key_heads))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)  # file type: all 32-bit floats


def _shapes(blocks: Blocks) -> list[tuple[int, int, int]]:
    """Return the query heads, key/value heads and neurons of each layer, as they are written.

    A head or a neuron of zeros stands for a block without units: llama.cpp does not run all models with empty layers.
    """
    pairs = zip(blocks.attentions, blocks.mlps, strict=True)
    return [(attention.heads or 1, attention.units or 1, mlp.width or 1) for attention, mlp in pairs]


def _one_or_all(numbers: list[int]) -> int | list[int]:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by llama.cpp's names, with the channels of Q and K in its rotation order."""
    base, blocks = model.base_model, find_blocks(model)
    yield "token_embd.weight", base.embed_tokens.weight
    yield "output_norm.weight", base.norm.weight
    if model.lm_head.weight is not base.embed_tokens.weight:
        yield "output.weight", model.lm_head.weight
    for layer, attention, mlp in zip(base.layers, blocks.attentions, blocks.mlps, strict=True):
        prefix = f"blk.{attention.index}"
        yield f"{prefix}.attn_norm.weight", layer.input_layernorm.weight
        yield f"{prefix}.ffn_norm.weight", layer.post_attention_layernorm.weight
        yield from _attention_tensors(prefix, attention)
        for name, projection in {"ffn_gate": mlp.ins[0], "ffn_up": mlp.ins[1], "ffn_down": mlp.out}.items():
            yield from _projection_tensors(f"{prefix}.{name}", projection, 1)


def _attention_tensors(prefix: str, attention: Attention) -> Iterator[tuple[str, Tensor]]:
    for name, projection in (("attn_q", attention.q), ("attn_k", attention.k)):
        for key, tensor in _projection_tensors(f"{prefix}.{name}", projection, attention.head_dim):
            yield key, interleaved(tensor, attention)
    yield from _projection_tensors(f"{prefix}.attn_v", attention.v, attention.head_dim)
    yield from _projection_tensors(f"{prefix}.attn_output", attention.o, attention.head_dim)


def _projection_tensors(name: str, projection: Projection, size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield a weight and, if there is one, a bias; those of a block without units become zeros for one of `size`."""
    for kind, tensor in (("weight", projection.weight), ("bias", projection.bias)):
        if tensor is not None:
            yield f"{name}.{kind}", tensor if tensor.numel() else tensor.new_zeros([n or size for n in tensor.shape])


def interleaved(tensor: Tensor, attention: Attention) -> Tensor:
    """Interleave a head's channels: transformers rotates channels i and i + half, llama.cpp 2i and 2i + 1."""
    halves = tensor.unflatten(0, (-1, 2, attention.head_dim // 2))
    return halves.transpose(1, 2).flatten(0, 2)


def _add_tokenizer(writer: Any, folder: Path, size: int) -> str:
    """Write a byte-level BPE tokenizer; return a sentence about it."""
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    name = _pretokenizer(found)
    if name is None:
        writer.add_tokenizer_model("none")
        return (
            "It has no tokenizer because only byte-level BPE with the splitting pattern of gpt-2, llama-bpe, qwen2, "
            "smollm or tekken is supported; pass token ids to llama.cpp."
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    names, special = {number: token for token, number in tokenizer.get_vocab().items()}, set(tokenizer.all_special_ids)
    added = set(tokenizer.added_tokens_decoder) - special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(size)])
    kinds = {**dict.fromkeys(names, NORMAL), **dict.fromkeys(added, USER_DEFINED), **dict.fromkeys(special, CONTROL)}
    writer.add_token_types([kinds.get(number, UNUSED) for number in range(size)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in found["model"]["merges"]])
    for kind in ("bos", "eos", "pad", "unk"):
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
    if templates := tokenizer.chat_template:
        several = isinstance(templates, dict)
        named = [{"name": key, "template": text} for key, text in templates.items()] if several else templates
        writer.add_chat_template(named)
    return f"It includes the tokenizer (byte-level BPE, {name})."


def _pretokenizer(tokenizer: dict[str, Any]) -> str | None:
    """Return llama.cpp's name of a pre-tokenizer; None unless it is a byte-level BPE of a known kind."""
    if tokenizer.get("model", {}).get("type") != "BPE":
        return None
    first = tokenizer.get("pre_tokenizer") or {}
    parts = [part for part in first.get("pretokenizers", [first]) if part]
    *before, last = parts or [{}]
    if last.get("type") != "ByteLevel" or len(before) > 1:
        return None
    return _split_name(before[0] if before else None, by_words=last.get("use_regex", True))


def _split_name(before: dict[str, Any] | None, by_words: bool) -> str | None:
    """Return llama.cpp's name of a pattern.

    Args:
        before: The step before the byte-level one, in the notation of `tokenizer.json`; None if there is none.
        by_words: Whether the byte-level step splits like GPT-2.

    Returns:
        The name; None if llama.cpp has none or it is not known here.
    """
    if before is None:
        return "gpt-2" if by_words else None
    if before["type"] == "Digits":
        return "smollm" if by_words and before.get("individual_digits") else None
    if before["type"] != "Split" or before["behavior"] != "Isolated" or before.get("invert") or by_words:
        return None
    return SPLITS.get(before["pattern"].get("Regex", ""))
