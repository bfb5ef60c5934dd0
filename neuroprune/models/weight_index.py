"""Validation of `*.safetensors.index.json`, the file that lists the parts of large weights.

transformers opens whatever the index names, pickles and files outside the folder included.
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
    """Reject an index that names anything but safetensors files beside it.

    Args:
        path: The index.

    Raises:
        UserError: If it names another file or cannot be read.
    """
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as an index of weights ({error}); download the model again") from error
    for name in sorted(map(str, names)):
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise UserError(
                f"{path} names {name!r}; only *.safetensors files beside it are read: convert the weights first"
            )
