"""Checkpoints that are loaded by transformers, as several formats write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroprune.models import card
from neuroprune.models.export.tokenizers import copy_tokenizer
from neuroprune.models.pretrained import save_pretrained


def save_copy(model: Any, folder: Path, out: Path) -> None:
    """Save a model with the tokenizer, the name and the facts of the card of the folder that it comes from.

    Args:
        model: The model to write.
        folder: The saved model that it comes from.
        out: The folder to write to; created if necessary.
    """
    copy_tokenizer(folder, out)
    save_pretrained(model, out, name=folder.resolve().name, **vars(card.read_facts(folder)))
