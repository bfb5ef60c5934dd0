"""Validation of what the files of a model's folder refer to: nothing outside the folder, and no code.

transformers would open any file listed in `*.safetensors.index.json`, including pickles and files outside the folder.
`config.json` may name an attention kernel of the hub, which is native code, or another file of weights, and
`adapter_config.json` another model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroprune.config.dimensions import stored_config
from neuroprune.errors import UserError

PATTERN, ADAPTER = "*.safetensors.index.json", "adapter_config.json"


def check_references(folder: Path) -> None:
    """Check what the files of a model's folder refer to.

    Args:
        folder: The folder.

    Raises:
        UserError: If an index lists other files than safetensors of the folder, the configuration names code or weights
            elsewhere, or the folder contains an adapter.
    """
    for path in sorted(folder.glob(PATTERN)):
        check_index(path)
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder / ADAPTER}: this is an adapter, whose model is elsewhere; merge it (peft's merge_and_unload) and "
            "save the model"
        )
    for key, value in _entries(stored_config(str(folder))):
        if problem := _problem(key, value):
            raise UserError(f"{folder / 'config.json'}: {key} names {value!r}; {problem}")


def _problem(key: str, value: str) -> str | None:
    """Return why a text of a configuration is refused; None if it is not."""
    if key.endswith("_implementation") and "/" in value:
        return "this is code of the hub, which is never run; delete the key"
    if key == "transformers_weights" and not _is_here(value.removesuffix(".index.json")):
        return "only *.safetensors files in the same folder are allowed"
    return None


def _entries(content: Any) -> Iterator[tuple[str, str]]:
    """Yield all keys of a configuration with their texts; those of a nested one have the outer key too."""
    for key, value in content.items():
        if isinstance(value, str):
            yield str(key), value
        elif isinstance(value, dict):
            yield from _entries(value)
            yield from ((str(key), text) for text in value.values() if isinstance(text, str))


def _is_here(name: str) -> bool:
    """Return whether a name is that of a safetensors file in the same folder."""
    return name.endswith(".safetensors") and Path(name).name == name


def check_index(path: Path) -> None:
    """Reject an index that lists anything but safetensors files in the same folder.

    Args:
        path: The index.

    Raises:
        UserError: If it lists another file or cannot be read.
    """
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as an index of weights ({error}); download the model again") from error
    for name in sorted(map(str, names)):
        if not _is_here(name):
            raise UserError(
                f"{path} lists {name!r}; only *.safetensors files in the same folder are allowed; convert the weights "
                "first"
            )
