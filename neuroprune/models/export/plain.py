"""Export of a cut model with a plain configuration, for plain transformers at the cut size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroprune.models.export.checkpoint import save_copy
from neuroprune.models.pretrained import from_pretrained
from neuroprune.pruning.plain_config import to_plain


def export(folder: Path, out: Path) -> list[str]:
    """Write a checkpoint with a plain configuration, card and tokenizer.

    Args:
        folder: A saved model.
        out: The folder to write to; created if necessary.

    Returns:
        A description of the result.

    Raises:
        UserError: If layers have different shapes, or the configuration has no values for these shapes.
    """
    model: Any = from_pretrained(folder)
    to_plain(model)
    save_copy(model, folder, out)
    return [f"{out}: a {type(model).__name__} at the cut size, which plain transformers can load."]
