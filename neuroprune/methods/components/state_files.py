"""Files with a method's state next to a checkpoint: tensors as safetensors, other values as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from neuroprune.errors import UserError
from neuroprune.files.atomic import whole_file
from neuroprune.methods.hooks import State
from neuroprune.models.resumption import STATE

TENSORS, VALUES = "method.safetensors", STATE


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Return the Trainer's checkpoint folder for the current step, from its arguments and state."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state. The JSON file is written last, so its existence implies a complete state.

    Args:
        folder: An existing folder.
        state: Tensors and JSON-serializable values by name.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    with whole_file(folder / TENSORS, synced=False) as temporary:
        save_file(tensors, temporary)
    with whole_file(folder / VALUES, synced=False) as temporary:
        temporary.write_text(json.dumps(values), encoding="utf-8")


def load_state(folder: Path) -> State | None:
    """Read a state written by `save_state`.

    Args:
        folder: The folder.

    Returns:
        The state, its tensors on the CPU; None if there is none.

    Raises:
        UserError: If its files are damaged.
    """
    if not (folder / VALUES).exists():
        return None
    try:
        values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        return values | load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: the method's state can't be read ({error}); delete the folder.") from error


def nest(prefix: str, state: Mapping[str, Any]) -> State:
    """Add a prefix to the names in a state: `a` becomes `prefix.a`."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def unnest(prefix: str, state: Mapping[str, Any]) -> State:
    """Return the part of a state with a prefix, without the prefix; empty if there is none."""
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
