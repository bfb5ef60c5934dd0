"""Readers and writers of the residual stream, and physical removal of hidden dimensions.

Embeddings, attentions and MLPs write to the stream, layer norms normalise it, and all other matrices read it. Removing
a dimension cuts it from all of these. The model's `config` keeps the dense width; the record of `kept_units.py` lists
the remaining dimensions, so that a narrower model reloads like any cut model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neuroprune.errors import UserError
from neuroprune.pruning.blocks import Blocks, config_of, find_blocks
from neuroprune.pruning.cuts import Cut, stage_cuts
from neuroprune.pruning.kept_units import pack_positions, read_record, stage, unpack_positions
from neuroprune.pruning.plain_config import to_recorded
from neuroprune.pruning.transaction import Transaction

# Norm before an output layer that shares the embeddings' weights, by model type; None if there is no such output layer.
TIED_NORMS: dict[str, str | None] = {
    "bert": None,
    "distilbert": None,
    "electra": None,
    "gpt2": "ln_f",
    "llama": "model.norm",
    "opt": "decoder.final_layer_norm",
    "qwen3": "model.norm",
    "roberta": None,
    "t5": "decoder.final_layer_norm",
}
# Matrices of task heads, by the end of their name: readers of the stream, and readers of other inputs.
READERS = ("pooler.dense", "classifier.dense", "pre_classifier", "lm_head", "score", "classification_head.dense")
OTHERS = ("classifier", "classifier.out_proj", "classification_head.out_proj")


class StreamError(UserError):
    """The residual stream of a model can't be cut; the message gives the reason."""


@dataclass(frozen=True)
class Stream:
    """Modules that read, write or normalise the residual stream.

    Args:
        width: Its current number of dimensions.
        embeddings: Embeddings that write to it; they may share one weight.
        writers: Output projections of attentions, followed by those of MLPs.
        norms: Layer norms over it.
        readers: Other matrices that read it.
        tied_norm: The norm before an output layer that shares the embeddings' weights, if any.
    """

    width: int
    embeddings: list[nn.Module] = field(default_factory=list)
    writers: list[nn.Module] = field(default_factory=list)
    norms: list[nn.Module] = field(default_factory=list)
    readers: list[nn.Module] = field(default_factory=list)
    tied_norm: nn.Module | None = None


def find_stream(model: nn.Module) -> Stream:
    """Find all modules that read, write or normalise a model's residual stream.

    Args:
        model: A transformers model.

    Returns:
        The modules; nothing is copied.

    Raises:
        StreamError: If the model type is not supported, or a weight of the stream's width has an unknown role.
    """
    blocks, kind = find_blocks(model), str(config_of(model).model_type)
    if kind not in TIED_NORMS:
        raise StreamError(
            f"the hidden dimension of {kind} can't be cut; supported are {', '.join(sorted(TIED_NORMS))}."
        )
    width = blocks.mlps[0].out.weight.shape[0]
    writers = [a.o.module for a in blocks.attentions] + [m.out.module for m in blocks.mlps]
    stream = Stream(width, writers=writers, readers=_block_readers(blocks))
    inside = {module for a in blocks.attentions for module in a.module.modules()}
    known = {*writers, *stream.readers, *inside}
    for name, module in model.named_modules():
        if module not in known:
            _sort(stream, model, name, module)
    if _is_tied(model, stream):
        return _with_tied_norm(model, stream, TIED_NORMS[kind])
    return stream


def kept_hidden(model: nn.Module) -> tuple[list[int], int] | None:
    """Return the remaining hidden dimensions, ascending, and the dense width; None if none was removed."""
    entry = read_record(model).get("hidden")
    return (unpack_positions(entry["kept"]), entry["of"]) if entry else None


@torch.no_grad()
def remove_hidden(model: nn.Module, keep: Tensor, optimizer: Any = None) -> None:
    """Remove dimensions of the residual stream physically.

    Exact if the removed dimensions are zero in all writes to the stream and layer norms exclude them: see
    `methods.cofi.masks`.

    Args:
        model: A transformers model; changed in place.
        keep: Current positions to keep, int64, ascending, at least one.
        optimizer: As in `surgery.remove`.

    Raises:
        StreamError: If the stream of this model can't be cut.
    """
    to_recorded(model, optimizer)
    stream = find_stream(model)
    positions, dense = kept_hidden(model) or (list(range(stream.width)), stream.width)
    cuts = [Cut(module, "in", keep) for module in _unique(stream.embeddings + stream.readers)]
    cuts += [Cut(module, "out", keep) for module in _unique(stream.writers + stream.norms)]
    record = read_record(model)
    others = _other_parameters(model, cuts) * (stream.width - len(keep)) // stream.width
    entry = {
        "of": dense,
        "kept": pack_positions(positions[place] for place in keep.tolist()),
        "others": record.get("hidden", {}).get("others", 0) + others,
    }
    changes = Transaction()
    stage_cuts(changes, model, cuts, optimizer)
    stage(changes, model, record | {"hidden": entry})
    changes.commit()


def _block_readers(blocks: Blocks) -> list[nn.Module]:
    found = [p.module for a in blocks.attentions for p in (a.q, a.k, a.v)]
    return _unique(found + [p.module for m in blocks.mlps for p in m.ins])


def _sort(stream: Stream, model: nn.Module, name: str, module: nn.Module) -> None:
    """Classify a module; reject a matrix of the stream's width with an unknown role."""
    shape = tuple(getattr(module, "weight", torch.empty(0)).shape)
    if isinstance(module, nn.Embedding) and shape[1] == stream.width:
        stream.embeddings.append(module)
    elif type(module).__name__.endswith("Norm") and shape == (stream.width,):
        stream.norms.append(module)
    elif isinstance(module, nn.Linear | Conv1D) and stream.width in shape:
        pooled = any(end.endswith(("pooler.dense", "pre_classifier")) for end, _ in model.named_modules())
        if name.endswith(READERS) or (name in ("classifier", "qa_outputs") and not pooled):
            stream.readers.append(module)
        elif not name.endswith(OTHERS):
            raise StreamError(f"the hidden dimension can't be cut, because the input of {name} is unknown.")


def _is_tied(model: nn.Module, stream: Stream) -> bool:
    tables = {id(module.weight) for module in stream.embeddings}
    return any(id(module.weight) in tables for module in stream.readers)


def _with_tied_norm(model: nn.Module, stream: Stream, end: str | None) -> Stream:
    norms = [module for name, module in model.named_modules() if end and name.endswith(end) and module in stream.norms]
    if len(norms) != 1:
        raise StreamError(
            "the hidden dimension can't be cut: its embeddings are also its output layer, without a preceding norm."
        )
    return Stream(stream.width, stream.embeddings, stream.writers, stream.norms, stream.readers, norms[0])


def _other_parameters(model: nn.Module, cuts: list[Cut]) -> int:
    """Count the given parameters that are not weights of attentions or MLPs."""
    blocks = find_blocks(model)
    matrices = {p.module.weight for a in blocks.attentions for p in (a.q, a.k, a.v, a.o)}
    matrices |= {p.module.weight for m in blocks.mlps for p in (*m.ins, m.out)}
    cut = {parameter for each in cuts for _, parameter, _ in each.parameters()}
    return sum(parameter.numel() for parameter in cut - matrices)


def _unique(modules: list[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(modules))
