"""Vocabulary trimming: restriction of a model and its tokenizer to the tokens of given texts.

At high sparsity, most parameters of a small model are embeddings of tokens that its task never uses.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import nn

from neuroprune.errors import UserError
from neuroprune.pruning.blocks import unwrapped

TEXTS = 1000  # texts per tokenizer call
SPELLED = 3  # longest piece for a single character: `a`, `▁a`, `##a`


@torch.no_grad()
def trim_vocabulary(model: nn.Module, tokenizer: Any, texts: Iterable[str]) -> Any:
    """Restrict a model and its tokenizer to the tokens of given texts, without changing results on these.

    Special tokens, single ASCII characters and bytes are kept as well, so that new words can be spelled out. The tokens
    keep their order. Embeddings and output layers with a row per token are cut in place.

    Args:
        model: A transformers model; changed in place. Create its optimizer afterwards.
        tokenizer: Its fast tokenizer; not changed.
        texts: All texts of the training data, including prompts and prefixes.

    Returns:
        The tokenizer of the trimmed model; it splits each of the texts into the same tokens. Save it with the model.

    Raises:
        UserError: If `texts` is not a collection of texts, the tokenizer has an unknown form or would split a text
            differently, or the model has a vocabulary of a different size or several vocabularies. The model is then
            not changed.
    """
    network: Any = unwrapped(model)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"trim_vocabulary: {type(tokenizer).__name__} is not a fast tokenizer; load one with AutoTokenizer."
        )
    _check_model(network, len(tokenizer))
    rows = _rows(texts)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = _kept(description, _used(tokenizer, rows), _fixed(network, tokenizer))
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(_trimmed(description, kept)))
    number = {old: new for new, old in enumerate(kept)}
    _check_same(tokenizer, trimmed, rows, number)
    _cut_rows(network, kept)
    _renumber(network, number)
    return trimmed


def _rows(texts: Iterable[str]) -> list[str]:
    """Return the texts without duplicates; reject a single text and other values."""
    if isinstance(texts, str | Mapping):
        what = "a single text" if isinstance(texts, str) else "a mapping"
        raise UserError(f"trim_vocabulary: texts is {what}; give a list of all texts of the training data.")
    rows = list(texts)
    for number, text in enumerate(rows):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"trim_vocabulary: texts[{number}] is no text but of the type {kind}; give texts only.")
    return list(dict.fromkeys(rows))


def _check_model(network: Any, tokens: int) -> None:
    """Reject models without a single vocabulary for input and output."""
    size = network.get_input_embeddings().weight.shape[0]
    other = getattr(network.config, "decoder_vocab_size", None)
    if other not in (None, size) or getattr(network.config, "share_encoder_decoder_embeddings", True) is False:
        raise UserError("trim_vocabulary: separate vocabularies of encoder and decoder are not supported.")
    if size < tokens:
        raise UserError(
            f"trim_vocabulary: the model has embeddings for {size} tokens and the tokenizer has {tokens}; use the "
            "model's own tokenizer."
        )


# ---- tokens to keep


def _used(tokenizer: Any, rows: list[str]) -> set[int]:
    """Return the tokens of texts, including special tokens of single texts and pairs."""
    found = set(tokenizer("a", "a")["input_ids"])
    for some in _parts_of(rows):
        for ids in tokenizer(some, truncation=False, verbose=False)["input_ids"]:
            found.update(ids)
    return found


def _parts_of(rows: list[str]) -> Iterator[list[str]]:
    return (rows[first : first + TEXTS] for first in range(0, len(rows), TEXTS))


def _fixed(network: Any, tokenizer: Any) -> set[int]:
    """Return the tokens in configurations and all up to the padding token, from which some models count positions."""
    named = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for key, value in (item for config in _configs(network) for item in config.to_dict().items()):
        if key.endswith("token_id") and value is not None:
            named.update(value if isinstance(value, list) else [value])
    padding = tokenizer.pad_token_id
    return named | set(range((-1 if padding is None or padding > TEXTS else padding) + 1))


def _kept(description: Mapping[str, Any], used: set[int], fixed: set[int]) -> list[int]:
    """Return the tokens to keep, ascending, including parts of merges, bytes, and single ASCII characters."""
    vocabulary, model = _vocabulary(description), description["model"]
    spelled = {number for token, number in vocabulary.items() if _spells(token)}
    wanted = used | fixed | spelled
    if model["type"] == "BPE":
        wanted |= _parts(vocabulary, _merges(model), wanted)
    if isinstance(model.get("unk_id"), int):
        wanted.add(model["unk_id"])
    if isinstance(model.get("unk_token"), str) and model["unk_token"] in vocabulary:
        wanted.add(vocabulary[model["unk_token"]])
    return sorted(wanted)


def _spells(token: str) -> bool:
    """Return whether a token is a byte or a single ASCII character, possibly with a word-position marker."""
    plain = token.removeprefix("##").removeprefix("▁").removesuffix("</w>")
    is_byte = token.startswith("<0x") or (len(token) == 1 and token in BYTES)
    return is_byte or (len(plain) == 1 and len(token) <= SPELLED + len("</w>") and plain.isascii())


BYTES = frozenset(pre_tokenizers.ByteLevel.alphabet())


def _parts(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], wanted: set[int]) -> set[int]:
    """Return the tokens that are merged to form the wanted ones."""
    makes: dict[int, list[tuple[int, int]]] = {}
    for left, right in merges:
        makes.setdefault(vocabulary[left + right], []).append((vocabulary[left], vocabulary[right]))
    found: set[int] = set()
    waiting = list(wanted)
    while waiting:
        for pair in makes.get(waiting.pop(), ()):
            new = {*pair} - found - wanted
            found |= new
            waiting += new
    return found


# ---- the tokenizer


def _vocabulary(description: Mapping[str, Any]) -> dict[str, int]:
    """Return the vocabulary of a tokenizer's model as token -> number, without added tokens."""
    model = description["model"]
    if model["type"] == "Unigram":
        return {token: number for number, (token, _) in enumerate(model["vocab"])}
    if model["type"] in ("BPE", "WordPiece", "WordLevel"):
        return dict(model["vocab"])
    raise UserError(f"trim_vocabulary: a tokenizer of the form {model['type']} is not supported.")


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _trimmed(description: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """Return the description of a tokenizer restricted to these tokens, numbered in their order."""
    number, model = {old: new for new, old in enumerate(kept)}, dict(description["model"])
    vocabulary = _vocabulary(description)
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(vocabulary)]
        model["unk_id"] = number.get(model.get("unk_id", -1))
    else:
        model["vocab"] = {token: number[old] for token, old in vocabulary.items() if old in number}
    if model["type"] == "BPE":
        merges = [(one, two) for one, two in _merges(model) if {one, two, one + two} <= set(model["vocab"])]
        model["merges"] = [list(merge) for merge in merges]
    added = [{**token, "id": number[token["id"]]} for token in description["added_tokens"] if token["id"] in number]
    rest = {
        key: _renumbered(value, number) for key, value in description.items() if key not in ("model", "added_tokens")
    }
    return {**rest, "model": model, "added_tokens": added}


def _renumbered(part: Any, number: Mapping[int, int]) -> Any:
    """Return part of a description with renumbered special tokens in `ids`, `pad_id`, `sep` and `cls`."""
    if isinstance(part, list):
        return [_renumbered(each, number) for each in part]
    if not isinstance(part, dict):
        return part
    new: dict[str, Any] = {}
    for key, value in part.items():
        if key == "ids":
            new[key] = [number[old] for old in value]
        elif key == "pad_id":
            new[key] = number.get(value, 0)
        elif key in ("sep", "cls") and isinstance(value, list):
            new[key] = [value[0], number[value[1]]]
        else:
            new[key] = _renumbered(value, number)
    return new


def _check_same(tokenizer: Any, trimmed: Any, rows: list[str], number: Mapping[int, int]) -> None:
    """Reject a tokenizer that splits a text differently from the original."""
    for some in _parts_of(rows):
        before, after = (each(some, truncation=False, verbose=False)["input_ids"] for each in (tokenizer, trimmed))
        for text, old, new in zip(some, before, after, strict=True):
            if [number[token] for token in old] != new:
                raise UserError(
                    f"trim_vocabulary: {type(tokenizer).__name__} would split {text[:60]!r} differently once it is "
                    "trimmed; keep its whole vocabulary."
                )


# ---- the model


def _cut_rows(network: Any, kept: list[int]) -> None:
    """Move the kept tokens' rows to the front of every layer with a row per token, and cut the others."""
    table, index = network.get_input_embeddings(), torch.tensor(kept)
    size, padding = table.weight.shape[0], getattr(table, "padding_idx", None)
    for tensor in _by_token(network, size):
        moved = tensor.index_select(tensor.shape.index(size), index.to(tensor.device))
        tensor.narrow(tensor.shape.index(size), 0, len(kept)).copy_(moved)
    network.resize_token_embeddings(len(kept), mean_resizing=False)
    if padding is not None:
        network.get_input_embeddings().padding_idx = kept.index(padding) if padding in kept else None


def _by_token(network: Any, size: int) -> list[torch.Tensor]:
    """Return weights of embeddings and output layers with a row per token, without duplicates."""
    output = network.get_output_embeddings()
    modules = [network.get_input_embeddings(), *([] if output is None else [output])]
    tensors = [
        part for module in modules for part in (module.weight, getattr(module, "bias", None)) if part is not None
    ]
    tensors += [buffer for name, buffer in network.named_buffers() if name.endswith("final_logits_bias")]
    return list({part.data_ptr(): part for part in tensors if size in part.shape}.values())


def _configs(network: Any) -> list[Any]:
    """Return the configurations of a model and of its generation, if it generates."""
    return [config for config in (network.config, getattr(network, "generation_config", None)) if config is not None]


def _renumber(network: Any, number: Mapping[int, int]) -> None:
    """Update the numbers of special tokens in the configurations, and of tokens that generation avoids or prefers."""
    for config in _configs(network):
        for key, value in list(vars(config).items()):
            if key.endswith("token_id") and value is not None:
                setattr(config, key, [number[old] for old in value] if isinstance(value, list) else number[value])
            elif key in ("suppress_tokens", "begin_suppress_tokens") and value:
                setattr(config, key, [number[old] for old in value if old in number] or None)
            elif key == "bad_words_ids" and value:
                setattr(config, key, [list(new) for old in value if (new := _sequence(old, number))] or None)
            elif key == "sequence_bias" and value:
                pairs = value.items() if isinstance(value, Mapping) else value
                biases = {new: bias for old, bias in pairs if (new := _sequence(old, number))}
                setattr(config, key, biases or None)


def _sequence(tokens: Iterable[int], number: Mapping[int, int]) -> tuple[int, ...]:
    """Return a sequence of tokens with their new numbers; empty if one of them was removed, so that it can't occur."""
    return tuple(number[token] for token in tokens) if number.keys() >= {*tokens} else ()
