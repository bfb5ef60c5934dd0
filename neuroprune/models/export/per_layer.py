"""Export of a cut model with the sizes of its layers in transformers' notation, `per_layer_config`.

The notation is written beside the record, by which the model is cut when it is loaded (see `models.quantizer`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neuroprune.errors import UserError
from neuroprune.files.atomic import write_text
from neuroprune.models.export.checkpoint import save_copy
from neuroprune.models.pretrained import from_pretrained
from neuroprune.pruning.per_layer_config import KEY, per_layer_entries
from neuroprune.pruning.plain_config import is_plain, objection_to


def export(folder: Path, out: Path) -> list[str]:
    """Write a checkpoint with `per_layer_config`, card and tokenizer.

    Args:
        folder: A saved model.
        out: The folder to write to; created if necessary.

    Returns:
        A description of the result.

    Raises:
        UserError: If the notation can't describe the model, or isn't needed.
    """
    model: Any = from_pretrained(folder)
    entries = {} if is_plain(model) else per_layer_entries(model)
    if not entries:
        raise UserError(f"{folder} needs no {KEY}: its configuration gives all sizes, and plain transformers loads it.")
    save_copy(model, folder, out)
    file = out / "config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | entries
    write_text(file, json.dumps(values, indent=2, sort_keys=True) + "\n")
    return [
        f"{out}: {type(model).__name__} with the sizes of {len(entries[KEY])} layers in {KEY}.",
        "transformers up to 5.24 builds no layers by it: load the folder after `import neuroprune`.",
        *_invalid(model, entries[KEY]),
    ]


def _invalid(model: Any, layers: dict[str, dict[str, int]]) -> list[str]:
    """Return a sentence if the configuration's class would reject the values of a single layer as a model's."""
    found = {layer: objection for layer, values in layers.items() if (objection := objection_to(model, values))}
    return [
        f"{type(model.config).__name__} would reject layer {layer} as a model ({objection.rstrip('.')}); a later "
        "transformers may apply this check to layers."
        for layer, objection in list(found.items())[:1]
    ]
