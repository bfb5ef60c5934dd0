"""Saving and loading of models, including cut ones.

Cut models are saved like any model, with the remaining units recorded in `config.json` and described in the card
(`README.md`). After `import neuroprune`, transformers can load such folders (see `quantizer.py`); `from_pretrained`
adds strict checks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from neuroprune.errors import UserError, did_you_mean
from neuroprune.files.atomic import open_to_umask
from neuroprune.files.temporary import OWNER, keep, temporary_folder
from neuroprune.models import quantizer  # noqa: F401  (registers)
from neuroprune.models.card import Facts, hub_id, is_ours, write_card
from neuroprune.models.weight_index import check_references
from neuroprune.pruning.architectures import ARCHITECTURES
from neuroprune.pruning.kept_units import names_record

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")
"""Options of transformers' `from_pretrained` that also determine where the hub's configuration is."""
LOADING_ERRORS = (
    *(UserError, ImportError, OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError),
    AssertionError,  # torch's for a device that it was not built for
)


def save_pretrained(
    model: Any,
    folder: str | Path,
    tokenizer: Any = None,
    *,
    metrics: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
    task: str | None = None,
    labels: Sequence[str] = (),
    name: str | None = None,
) -> None:
    """Save a model with a model card (`README.md`), so that `from_pretrained` restores it bit by bit.

    Files are first written under temporary names, and `config.json` comes last, so a folder with a `config.json` is
    complete. Other files in the folder, including a card written by someone else, are not changed.

    Args:
        model: A transformers model, cut or not, compiled or not; models of unknown types and quantized models get no
            card.
        folder: The folder to write to; created if necessary. A model in it is replaced.
        tokenizer: If given, saved with the model.
        metrics: For the card: for example the result of `Trainer.evaluate`; non-numbers are left out.
        base_model: For the card: the fine-tuned model; default: the hub id from which it was loaded.
        dataset: For the card: the dataset of the fine-tuning, a hub id or any text.
        task: For the card: the name of the task.
        labels: For the card: class names in order; default: those of the model's configuration.
        name: For the card: the title; default: the folder's name.

    Raises:
        UserError: If the files can't be moved to their final places; the message says where they are kept.
    """
    folder = Path(folder)
    facts = Facts(metrics or {}, base_model, dataset, task, labels)
    model = getattr(model, "_orig_mod", model)  # compiled by torch.compile
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".new-", folder) as new:
        for part in (model, tokenizer):
            if part is not None:
                part.save_pretrained(new)
        if _has_card(model) and is_ours(folder / "README.md"):
            write_card(model, new, name or folder.resolve().name, facts)
        open_to_umask(new)
        try:
            (folder / "config.json").unlink(missing_ok=True)
            for old in [*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*.bin*")]:
                old.unlink()
            move_files(new, folder)
        except OSError as error:  # part of the old model may already be replaced
            keep(new)
            raise UserError(
                f"{folder} can't be written ({error.strerror or error}); the missing files are kept in {new}."
            ) from error


def move_files(made: Path, folder: Path) -> None:
    """Move all files of a folder, except its owner's lock, to another on the same disk, `config.json` last.

    Args:
        made: The folder of a complete model, empty afterwards.
        folder: The destination; files of the same name are replaced.
    """
    for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
        if file.name != OWNER:
            _replace(file, folder / file.name)


def from_pretrained(folder: str | Path, auto_class: Any = None, **options: Any) -> nn.Module:
    """Load a model saved by `save_pretrained`, the Trainer or transformers, cut or not.

    Args:
        folder: The folder with `config.json` and the weights; or, as a string, the id of a model on the hub.
        auto_class: A transformers class for loading (such as `AutoModel`); default: the saved class.
        **options: Options of transformers' `from_pretrained`: `dtype`, `device_map`, `attn_implementation`,
            `quantization_config`, `revision`, `cache_dir`, `subfolder`, configuration values, ….

    Returns:
        The model in eval mode; without options, on the CPU and with bitwise the stored weights.

    Raises:
        UserError: If the folder is neither local nor on the hub or is damaged, configuration and weights do not match,
            or weights are missing; without `auto_class`, also if there are unused weights.
    """
    name = hub_id(folder)
    inside = options.get("subfolder") or ""
    config = Path(folder) / inside / "config.json" if name is None else _from_hub(name, options)
    check_references(config.parent)
    model_class = _saved_class(config, folder) if auto_class is None else auto_class
    remedy = f"check {', '.join(options)}, or save it again" if options else "save it again"
    defaults = {"local_files_only": name is None, "trust_remote_code": False, "use_safetensors": True}
    defaults["ignore_mismatched_sizes"] = True  # they are reported below
    try:
        model, info = model_class.from_pretrained(
            name or Path(folder), **{**defaults, **options}, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise UserError(f"can't load the model in {folder}: {_first_lines(error)}; {remedy}.") from error
    if info["mismatched_keys"] and not options.get("ignore_mismatched_sizes"):
        raise UserError(f"can't load the model in {folder}: {_mismatch(info['mismatched_keys'])}; {remedy}.")
    for what in ("missing_keys", "unexpected_keys") if auto_class is None else ("missing_keys",):
        if info[what]:
            raise UserError(
                f"the weights in {folder} do not match its config.json: {what.replace('_', ' ')} "
                f"{', '.join(sorted(info[what])[:3])}; save the model again."
            )
    align(model)
    return model


def _has_card(model: Any) -> bool:
    """Return whether a card can be written, which requires known layers and a readable record."""
    record = getattr(model.config, "quantization_config", None)
    quantized = record is not None and not names_record(getattr(record, "get", lambda _: None)("quant_method"))
    return model.config.model_type in ARCHITECTURES and not quantized


def align(model: nn.Module) -> None:
    """Copy every weight to separate, aligned memory, in place.

    The alignment of weights read from a file depends on the length of its header, and sums over unaligned memory are
    rounded differently. Without this copy, a training run would depend on the file of its initial weights.

    Args:
        model: Any model; its parameters stay the same objects.
    """
    for parameter in model.parameters():
        if not parameter.is_meta and type(parameter.data) is Tensor:  # neither offloaded nor quantized
            parameter.data = parameter.data.clone()


def _mismatch(entries: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> str:
    """Describe the first of the weights (name, stored shape, expected shape) that differ in shape."""
    (name, stored, expected), *others = sorted(entries)
    more = f" (and {len(others)} more)" if others else ""
    return f"{name} has the shape {list(stored)}, but its config.json requires {list(expected)}{more}"


def _from_hub(name: str, options: Mapping[str, Any]) -> Path:
    """Return the cached path of a hub model's configuration; an index of weights is cached in the same folder."""
    where: dict[str, Any] = {key: options[key] for key in HUB_OPTIONS if key in options}
    try:
        with suppress(EntryNotFoundError):
            hf_hub_download(name, SAFE_WEIGHTS_INDEX_NAME, **where)
        return Path(hf_hub_download(name, "config.json", **where))
    except Exception as error:  # the hub, the network and the cache raise their own exceptions
        raise UserError(
            f"{name} is neither a folder nor can it be had from the hub ({_first_lines(error)}); give the folder of a "
            "saved model, or check the name and the network."
        ) from error


def _saved_class(config: Path, folder: str | Path) -> Any:
    """Return the transformers class listed in a folder's `config.json`."""
    try:
        architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} contains no saved model: its config.json can't be read ({error}).") from error
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    found = getattr(transformers, str(name), None)
    if not hasattr(found, "from_pretrained"):
        raise UserError(
            f"config.json in {folder} names no class of transformers but {name!r} under architectures"
            f"{did_you_mean(str(name), dir(transformers))}; pass auto_class."
        )
    return found


def _replace(file: Path, target: Path) -> None:
    """Move a file or folder, replacing an existing one."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    file.replace(target)


def _first_lines(error: Exception) -> str:
    """Return the beginning of an error's message on one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
