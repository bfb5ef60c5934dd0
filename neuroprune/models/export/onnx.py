"""Export of saved models to ONNX for onnxruntime: one forward pass with any batch size and length.

The exported pass computes all logits of the model (such as start and end of an answer) from token ids, or hidden states
for a model without a head. Generation with a cache is not included: a decoder's file reads the whole text each time.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.errors import UserError
from neuroprune.files.atomic import open_to_umask
from neuroprune.files.temporary import temporary_folder
from neuroprune.models import card
from neuroprune.models.export.engine import INT8_FILE, fuse, quantize
from neuroprune.models.export.tokenizers import copy_tokenizer
from neuroprune.models.pretrained import from_pretrained, move_files
from neuroprune.pruning.architectures import find_architecture

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FILE = "model.onnx"
TOLERANCE = 1e-4  # tolerance of outputs, absolute and relative
ONE_FILE = 2**30  # bytes; larger weights are stored in a separate file because an ONNX file can't exceed 2 GiB
LOAD = f'import onnxruntime; session = onnxruntime.InferenceSession("path/to/this/folder/{FILE}")'


def export(folder: Path, out: Path, int8: bool = False) -> list[str]:
    """Write `model.onnx`, tokenizer, configuration and card after checking the file's outputs.

    Args:
        folder: A saved model.
        out: The folder to write to; created if necessary.
        int8: Whether to write also `model.int8.onnx`, with 8-bit weights.

    Returns:
        A description of the files, their inputs, and the difference between their outputs and the model's.

    Raises:
        UserError: If a package is missing, the model can't be exported (such as those for multiple choice), or the
            outputs differ.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"ONNX export needs {', '.join(missing)}; install with: pip install {' '.join(missing)}.")
    model: Any = from_pretrained(folder).float()
    find_architecture(model.config.model_type)  # the card requires a known type
    _check_class(model)
    out.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".new-", out) as new:
        with temporary_folder(".fused-", out) as fused:
            error = _write_fused(model, new, fused)
        if not error <= TOLERANCE:
            raise UserError(f"{folder}: outputs of the ONNX file differ from the model's by {error:.2g}; not written.")
        names = ", ".join(input_names(model))
        sentences = [f"{out / FILE}: inputs {names}; outputs differ from the model's by at most {error:.1g}."]
        if int8:
            sentences.append(f"{out / INT8_FILE}: {_write_int8(model, folder, new)}")
        open_to_umask(new)
        move_files(new, out)
    _write_companions(model, folder, out)
    return sentences


def _check_class(model: Any) -> None:
    """Reject models that read several texts per row."""
    if type(model).__name__.endswith("ForMultipleChoice"):
        raise UserError(
            f"{type(model).__name__} can't be exported to ONNX: each of its rows has several texts, the choices; "
            "supported are models for classification, question answering, language modelling and generation."
        )


def _write_fused(model: Any, new: Path, fused: Path) -> float:
    """Write `model.onnx`, with fused operators if these preserve the outputs; return the difference."""
    write_onnx(model, new / FILE)
    fuse(new / FILE, fused / FILE)
    if (error := largest_difference(model, fused / FILE)) <= TOLERANCE:
        move_files(fused, new)
        return error
    return largest_difference(model, new / FILE)


def _write_int8(model: Any, folder: Path, new: Path) -> str:
    """Write `model.int8.onnx`; return a description."""
    quantize(new / FILE, new / INT8_FILE)
    error = largest_difference(model, new / INT8_FILE)
    if not math.isfinite(error):
        raise UserError(f"{folder}: onnxruntime can't run the 8-bit file; export without --int8.")
    sizes = [sum(f.stat().st_size for f in new.glob(f"{name}*")) / 1e6 for name in (INT8_FILE, FILE)]
    return (
        f"8-bit weights, {sizes[0]:.1f} MB instead of {sizes[1]:.1f}; on random tokens outputs differ by up to "
        f"{error:.1g}, so evaluate it on your own data."
    )


def input_names(model: Any) -> list[str]:
    """Return a model's inputs: int64 `[batch, length]`, except for an encoder's float hidden states."""
    config = model.config
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in signature(model.forward).parameters and getattr(config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    if "decoder_input_ids" in signature(model.forward).parameters and not _reads_one_text(model):
        names.append("decoder_input_ids")
    if getattr(config, "add_cross_attention", False):
        names.append("encoder_hidden_states")
    return names


@torch.no_grad()
def output_names(model: Any) -> list[str]:
    """Return a model's outputs by their names in transformers: all logits, or else the first output."""
    given = list(_run(model, example(model, rows=2, length=6)))
    return [name for name in given if name.endswith("logits")] or given[:1]


def write_onnx(model: Any, file: Path) -> None:
    """Trace a model with torch.export and write it as ONNX.

    Args:
        model: A transformers model in eval mode, float32.
        file: Where to.

    Raises:
        UserError: If the model can't be traced.
    """
    inputs = example(model, rows=2, length=6)
    lengths = {"decoder_input_ids": "target", "encoder_hidden_states": "source"}
    batch, dims = torch.export.Dim("batch"), {}
    for name in ("sequence", *lengths.values()):
        dims[name] = torch.export.Dim(name)
    shapes = tuple({0: batch, 1: dims[lengths.get(name, "sequence")]} for name in inputs)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    try:
        with _quiet(), torch.no_grad():
            outputs = output_names(model)
            torch.onnx.export(
                _Pass(model, list(inputs), outputs),
                tuple(inputs.values()),
                file,
                input_names=list(inputs),
                output_names=[name if name.endswith("logits") else "output" for name in outputs],
                dynamic_shapes={"inputs": shapes},
                external_data=size > ONE_FILE,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many different exceptions
        raise UserError(
            f"{type(model).__name__} can't be exported to ONNX: {_first_sentence(error)}; supported are the "
            "classes of the table of architectures for classification, question answering, causal language modelling "
            "and generation."
        ) from error


@torch.no_grad()
def largest_difference(model: Any, file: Path) -> float:
    """Compare a file with its model on padded batches of sizes not used for tracing.

    Args:
        model: The exported model.
        file: The ONNX file.

    Returns:
        The largest difference of any output at a non-padding token, divided by max(1, |output|); infinity if
        onnxruntime can't run the file.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    worst, outputs = 0.0, output_names(model)
    for rows, length in ((1, 5), (3, 8), (4, 11)):
        inputs = example(model, rows, length)
        try:
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            results = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        except Exception:  # onnxruntime's exceptions have no common class
            return float("inf")
        keep = inputs["attention_mask"].bool()
        for found, expected in zip(results, _Pass(model, list(inputs), outputs)(*inputs.values()), strict=True):
            error = (torch.from_numpy(found) - expected).abs() / expected.abs().clamp(min=1)
            worst = max(worst, float((error[keep] if error.shape[:-1] == keep.shape else error).max()))
    return worst


def example(model: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Return reproducible random inputs by name, with padding in the last row and an end token for encoders."""
    generator = torch.Generator().manual_seed(rows * length)
    special = {getattr(model.config, f"{name}_token_id", None) for name in ("pad", "eos", "bos")}
    plain = torch.tensor([i for i in range(model.config.vocab_size) if i not in special])
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, length - 2 :] = 0 if rows > 1 else 1
    pad, eos = (getattr(model.config, f"{name}_token_id", None) for name in ("pad", "eos"))
    made: dict[str, Tensor] = {}
    for name in input_names(model):
        ids = plain[torch.randint(len(plain), (rows, length), generator=generator)]
        read = ids.masked_fill(mask == 0, pad or 0)
        if model.config.is_encoder_decoder and eos is not None:
            read.scatter_(1, mask.sum(1, keepdim=True) - 1, eos)
        made[name] = {
            "attention_mask": mask,
            "token_type_ids": torch.zeros_like(mask),
            "decoder_input_ids": ids[:, : length - 2],
            "input_ids": read,
        }.get(name, torch.randn(rows, length - 1, model.config.hidden_size, generator=generator))
    return made


class _Pass(nn.Module):
    """Wrapper of a model with positional inputs and outputs in a fixed order."""

    def __init__(self, model: Any, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return logits, or hidden states without a head."""
        given = _run(self.model, dict(zip(self.inputs, inputs, strict=True)))
        return tuple(given[name] for name in self.outputs)


def _run(model: Any, inputs: dict[str, Tensor]) -> Any:
    """Return a model's outputs by name."""
    return model(**inputs, **({"use_cache": False} if hasattr(model.config, "use_cache") else {}), return_dict=True)


def _reads_one_text(model: Any) -> bool:
    """Return whether the decoder, if any, reads the same text as the encoder."""
    return type(model).__name__.endswith(("Classification", "QuestionAnswering"))


def _write_companions(model: Any, folder: Path, out: Path) -> None:
    """Write the tokenizer, the card, and a configuration (for label names) without a record."""
    copy_tokenizer(folder, out)
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    config.save_pretrained(out)
    card.write_card(model, out, folder.resolve().name, card.read_facts(folder), load=LOAD)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence messages of the exporter about itself and about optional packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_sentence(error: BaseException) -> str:
    """Return the beginning of the innermost error's message on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
