"""Tokenizer files in a model's folder: their names, loading, and checks that the tokenizer fits the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from neuroprune.errors import UserError
from neuroprune.files.packages import cause

WORDS = ("tokenizer.json", "merges.txt", "*vocab*", "*.codes", "*.model", "*.spm", "*.tiktoken")
"""Patterns of the files with a tokenizer's vocabulary."""
TOKENIZER_FILES = (
    *WORDS,
    *("added_tokens.json", "additional_chat_templates/*", "chat_template*", "special_tokens_map.json"),
    *("tokenizer*.json", "*.jinja"),
)
"""Patterns of all files that transformers reads for a tokenizer."""
MARKERS = frozenset(("", "▁", "##"))
"""Tokens of an empty vocabulary that are not special: markers of a word's start or continuation."""


def files_of(folder: Path, patterns: tuple[str, ...] = TOKENIZER_FILES) -> Iterator[Path]:
    """Yield the files in a folder that match one of these patterns, sorted."""
    yield from sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def load_tokenizer(folder: Path, name: str, **options: Any) -> Any:
    """Load the tokenizer in a model's folder.

    Without vocabulary files, transformers raises various errors, or returns a tokenizer of special tokens only, for
    which every word is unknown. Tokenizers of characters or bytes need no vocabulary file.

    Args:
        folder: The model's folder.
        name: Beginning of error messages, such as `model bert`.
        **options: Options of transformers' `from_pretrained`.

    Returns:
        The tokenizer.

    Raises:
        UserError: If the folder contains no tokenizer, or one that can't be read.
    """
    missing = UserError(
        f"{name}: {folder} has no tokenizer; save it with the model: save_pretrained(model, folder, tokenizer)"
    )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # transformers and tokenizers raise their own exceptions
        if not any(files_of(folder, WORDS)):
            raise missing from error
        raise UserError(f"{name}: the tokenizer in {folder} can't be loaded: {cause(error)}") from error
    if _is_empty(tokenizer, folder):
        raise missing
    return tokenizer


def _is_empty(tokenizer: Any, folder: Path) -> bool:
    """Return whether a tokenizer has no tokens for text; tokens that were added count if its vocabulary is saved."""
    added = () if any(files_of(folder, WORDS)) else tokenizer.get_added_vocab()
    return {*tokenizer.get_vocab()} <= {*tokenizer.all_special_tokens, *added, *MARKERS}


def check_embeddings(model: Any, tokenizer: Any, texts: Iterable[str], name: str) -> None:
    """Reject a tokenizer with tokens for which the model has no embedding.

    Special tokens that do not occur in encoded texts may lack one, such as the mask token of BART's checkpoints for
    summarization, or `<|endoftext|>` in a tokenizer converted from GGUF that ends texts with another token.

    Args:
        model: A transformers model; one without `vocab_size`, which hashes characters, is accepted.
        tokenizer: Its tokenizer; it may have fewer tokens than the model has embeddings.
        texts: Texts in which these special tokens are searched.
        name: Beginning of error messages, such as `model bert`.

    Raises:
        UserError: If the id of a token is not less than the number of embeddings.
    """
    if getattr(model.config, "vocab_size", None) is None:
        return
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    unused = _unused(tokenizer) & beyond.keys()
    if unused:
        unused -= {number for text in texts for number in unused if beyond[number] in text}
    if wrong := beyond.keys() - unused:
        largest = max(wrong)
        raise UserError(
            f"{name}: token {beyond[largest]!r} of the tokenizer has the id {largest}, but the model has only {rows} "
            "embeddings; call model.resize_token_embeddings(len(tokenizer)) and save both again"
        )


def _unused(tokenizer: Any) -> set[int]:
    """Return the special tokens that are neither put around texts, nor for unknown characters, nor extra ones."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    roles = {getattr(tokenizer, f"{role}_token_id") for role in ("bos", "cls", "mask", "sep", "unk")}
    used = {*tokenizer("a \ue000", "a")["input_ids"], tokenizer.pad_token_id, tokenizer.eos_token_id}
    return (added - {*tokenizer.all_special_ids} | roles) - used
