"""Validation of `*.safetensors.index.json`, which lists the parts of large weights.

transformers would open any listed file, including pickles and files outside the folder.
"""

from __future__ import annotations

import json
from pathlib import Path

from neuroprune.errors import UserError

PATTERN = "*.safetensors.index.json"


def check_indices(folder: Path) -> None:
    """Check every index in a model's folder; see `check_index`."""
    for path in sorted(folder.glob(PATTERN)):
        check_index(path)


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
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise UserError(
                f"{path} lists {name!r}; only *.safetensors files in the same folder are allowed; convert the weights "
                "first"
            )
