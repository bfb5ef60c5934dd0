"""Demo task `home_messages`: translate messages of Home Assistant from German to English, like IWSLT14.

The texts are labels, explanations and errors of about 900 integrations, written in English and translated to German.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroprune.errors import UserError
from neuroprune.tasks.text import key, rank, squash, words

WORDS = {"en": range(4, 46), "de": range(3, 46)}
RATIO = (0.4, 2.5)  # allowed ratios of word counts, German to English
FILE = re.compile(r"homeassistant/components/(\w+)/translations/en\.json")
UNUSABLE = re.compile(r"https?:|\[%|\]\(|<\w|\n")  # links, references to other messages, markup
VALIDATION_SHARE, VALIDATION_ROWS = 0.12, 600


def build(wheel: Path) -> dict[str, list[dict[str, Any]]]:
    """Extract the task's rows from Home Assistant's wheel, which is read as an archive and never installed.

    Args:
        wheel: `homeassistant-2026.2.3-py3-none-any.whl`.

    Returns:
        Rows with `de` and `en` for the splits `train` and `validation`, ordered by rank. Messages with the same first
        four English words are in the same split. Of messages that differ only in punctuation or case, in either
        language, only the first is kept.

    Raises:
        UserError: If the wheel does not contain the messages.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row in _pairs(wheel):
        keys = {f"{language} {key(text)}" for language, text in row.items()}
        if _usable(row) and not keys & seen:
            seen |= keys
            rows.append(row)
    rows.sort(key=lambda row: rank("home_messages", row["en"]))
    splits = {split: [row for row in rows if _split(row["en"]) == split] for split in ("train", "validation")}
    return {**splits, "validation": splits["validation"][:VALIDATION_ROWS]}


def _pairs(wheel: Path) -> Iterator[dict[str, Any]]:
    """Yield pairs of messages with the same key in both languages."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            english = [name for name in sorted(names) if FILE.fullmatch(name)]
            for name in english:
                german = name.replace("/en.json", "/de.json")
                if german in names:
                    en, de = (dict(_messages(json.loads(archive.read(file)))) for file in (name, german))
                    yield from ({"de": squash(de[path]), "en": squash(en[path])} for path in en if path in de)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} is not a wheel that can be read: delete it and run again") from error
    if not english:
        raise UserError(f"{wheel} does not contain Home Assistant's translations: delete it and run again")


def _messages(tree: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield path and text of every message without markup in a file."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _messages(value, (*above, name))
        elif isinstance(value, str) and not UNUSABLE.search(value.strip()):
            yield (*above, name), value


def _usable(row: dict[str, str]) -> bool:
    """Return whether both texts have medium, similar lengths and are not identical."""
    size = {language: len(text.split()) for language, text in row.items()}
    fits = all(size[language] in lengths for language, lengths in WORDS.items())
    return fits and RATIO[0] <= size["de"] / size["en"] <= RATIO[1] and row["de"] != row["en"]


def _split(english: str) -> str:
    return "validation" if rank("home_messages-split", *words(english)[:4]) < VALIDATION_SHARE else "train"
