"""Export of saved models to other formats, mostly ones that do not require this package; one module per format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from neuroprune.errors import UserError, did_you_mean

FORMATS = {
    "full": "neuroprune.models.export.full:export",
    "gguf": "neuroprune.models.export.gguf:export",
    "onnx": "neuroprune.models.export.onnx:export",
    "per-layer": "neuroprune.models.export.per_layer:export",
    "plain": "neuroprune.models.export.plain:export",
    "vllm": "neuroprune.models.export.vllm:export",
}


def export(folder: Path, form: str, out: Path, int8: bool = False) -> list[str]:
    """Export a saved model to another format.

    Args:
        folder: A folder written by `save_pretrained`, with or without a tokenizer.
        form: One of `FORMATS`.
        out: The new or empty folder to write to.
        int8: Whether to write a second file with 8-bit weights; only for `onnx`.

    Returns:
        Sentences about what was written and how to use it.

    Raises:
        UserError: If the format is unknown, `folder` does not exist, the model can't be loaded or exported, or `out` is
            not empty.
    """
    if form not in FORMATS:
        raise UserError(f"format {form!r}: unknown{did_you_mean(form, FORMATS)}; known: {', '.join(FORMATS)}")
    if int8 and form != "onnx":
        raise UserError(f"format {form}: only onnx supports 8-bit files; leave --int8 out, or give --format onnx.")
    if not folder.exists():
        raise UserError(
            f"{folder} contains no saved model: there is no such folder; download a model of the hub first: "
            f"hf download {folder} --local-dir model."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; give a new folder for the export.")
    module, name = FORMATS[form].split(":")
    options = {"int8": True} if int8 else {}
    try:
        with _no_empty_folder(out):
            sentences: list[str] = getattr(import_module(module), name)(folder, out, **options)
    except OSError as error:
        raise UserError(f"{out} can't be written ({error.strerror or error}); give another folder.") from error
    return sentences


@contextmanager
def _no_empty_folder(out: Path) -> Iterator[None]:
    """Delete a folder that was created by a failed export, if it is still empty."""
    existing = out.exists()
    try:
        yield
    except BaseException:
        if not existing:
            with suppress(OSError):  # it contains files
                out.rmdir()
        raise
