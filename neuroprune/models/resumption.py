"""Resuming training from the checkpoint of a cut model with a newly built dense model.

`trainer.train(resume_from_checkpoint=True)` loads the weights of a checkpoint into the Trainer's model. A newly built
model is dense, so its shapes do not match. The Trainer has no event between the choice of a checkpoint and its loading,
so this module wraps the loading method.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from neuroprune.errors import UserError
from neuroprune.models.quantizer import cut_to_record, has_record
from neuroprune.pruning.blocks import unwrapped
from neuroprune.pruning.kept_units import CUT, RECORD, configs_of, is_cut, names_record, read_record
from neuroprune.pruning.plain_config import is_plain, to_plain

STATE = "method.json"
"""File with the state of a method in a checkpoint. Its entry `record` is that of the model (see
`kept_units.read_record`), because checkpoints of a module around the model have no configuration."""


def teach_trainer() -> None:
    """Make transformers' Trainer cut its model according to a checkpoint's record before loading the checkpoint.

    Imported subclasses with their own loading method, such as those of sentence-transformers, are wrapped as well.
    """
    from transformers import Trainer

    for trainer_class in [Trainer, *_subclasses(Trainer)]:
        own = vars(trainer_class).get("_load_from_checkpoint")
        if own is not None and not hasattr(own, "__wrapped__"):
            trainer_class._load_from_checkpoint = _cutting(own)


def _subclasses(kind: Any) -> Iterator[Any]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _cutting(original: Callable[..., None]) -> Callable[..., None]:
    """Return a method that cuts the Trainer's model and then calls the original loading method."""

    @wraps(original)
    def load(self: Any, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        given = args[0] if args else kwargs.get("model")
        cut_as_saved(self.model if given is None else given, Path(resume_from_checkpoint), self.optimizer)
        original(self, resume_from_checkpoint, *args, **kwargs)

    return load


def cut_as_saved(model: Any, checkpoint: Path, optimizer: Any = None) -> None:
    """Cut a dense model to the shapes of a checkpoint; do nothing if it has them already.

    Args:
        model: The model into which the checkpoint is to be loaded; changed in place.
        checkpoint: The folder of the checkpoint.
        optimizer: The model's optimizer, if it exists already.

    Raises:
        UserError: If the model is cut differently.
    """
    saved = _saved_record(checkpoint)
    if saved is None:
        return
    network: Any = unwrapped(model)
    if not (is_cut(saved) or is_plain(network) or any(map(has_record, configs_of(network)))):
        return
    own = read_record(network)
    if all(own.get(key) == saved.get(key) for key in CUT):
        return
    if is_cut(own):
        raise UserError(
            f"{checkpoint}: the saved model has other heads and neurons than the model to be trained; give the Trainer "
            f'a dense model, or neuroprune.from_pretrained("{checkpoint}").'
        )
    cut_to_record(network, saved, optimizer)
    if "config" in saved:
        to_plain(network, optimizer)


def _saved_record(checkpoint: Path) -> dict[str, Any] | None:
    """Return the record of a checkpoint's model; None if the model is unknown or quantized by another library."""
    try:
        config = _read(checkpoint / "config.json")
        record = config.get("quantization_config") or {}
        if record:
            return record if names_record(record.get("quant_method")) else None
        found = config.get(RECORD) or _read(checkpoint / STATE).get("record")
        return found or ({"heads": {}, "neurons": {}} if config else None)
    except (OSError, ValueError, AttributeError):  # the Trainer reports damaged files
        return None


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, empty if it is missing."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
