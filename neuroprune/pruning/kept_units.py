"""Which heads and neurons of the dense model a cut model still has: remembered in the model's configuration.

The record has the form of a quantization config, because that is the hook by which transformers lets a package shape a
model before its weights are loaded (see `checkpoints.py`). For each layer that was cut it holds the number of units of
the dense model and a bit mask of those that are left. If the hidden dimension
was cut too (see `hidden.py`), `hidden` holds the same for it, and how many parameters beside the weights of attentions
and MLPs went with it (`others`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.errors import UserError
from neuroprune.pruning.blocks import Attention, Blocks, Mlp, base_of, find_blocks
from neuroprune.pruning.transaction import Transaction

RECORD = "neuroprune"
"""The `quant_method` of the record."""


@dataclass(frozen=True)
class Kept:
    """What a model still has of the dense model; the positions are the dense model's.

    Args:
        heads: For each attention, the heads that are left, ascending.
        neurons: For each MLP, the neurons that are left, ascending, int64 on the CPU.
        dense_heads: For each attention, the number of heads of the dense model.
        dense_neurons: For each MLP, the number of neurons of the dense model.
    """

    heads: list[list[int]]
    neurons: list[Tensor]
    dense_heads: list[int]
    dense_neurons: list[int]


def kept_units(model: nn.Module, unused: bool = False) -> Kept:
    """Tell which heads and neurons of the dense model are left, in the dense model's positions.

    Args:
        model: A transformers model of a known type, cut or not.
        unused: As in `find_blocks`.

    Returns:
        What is left: everything, for a model that was never cut.

    Raises:
        UserError: If the record in `model.config` does not fit the model's shapes, or the model is quantized.
    """
    blocks, record, keys = find_blocks(model, unused), read_record(model), _keys(model)
    heads = [_recall(keys[a.module], record["heads"], a, a.heads) for a in blocks.attentions]
    neurons = [_recall(keys[m.module], record["neurons"], m, m.width) for m in blocks.mlps]
    return Kept(
        [kept.tolist() for kept, _ in heads],
        [kept for kept, _ in neurons],
        [dense for _, dense in heads],
        [dense for _, dense in neurons],
    )


def read_record(model: nn.Module) -> dict[str, Any]:
    """Return the record in the model's configuration, with no layer in it if the model was never cut.

    Args:
        model: A transformers model.

    Returns:
        `quant_method`, and `heads` and `neurons`: layer -> `of` (units of the dense model), `kept` (bit mask).

    Raises:
        UserError: If the model is quantized: there is room for one record.
    """
    records = [getattr(config, "quantization_config", None) for config in configs_of(model)]
    record: Any = next((found for found in records if found is not None), None)
    if record is None:
        return {"quant_method": RECORD, "heads": {}, "neurons": {}}
    record = record if isinstance(record, dict) else record.to_dict()
    if record.get("quant_method") != RECORD:
        raise UserError(
            f"{type(model).__name__} is quantized ({record.get('quant_method')}); heads and neurons can only be "
            "removed before quantization."
        )
    return record


def configs_of(model: nn.Module) -> list[Any]:
    """Return the configurations that hold a model's record: that of its base model, and its own if it is another one.

    Either may be saved alone, and has to say then what was cut.
    """
    configs = {id(config): config for part in (base_of(model), model) if (config := getattr(part, "config", None))}
    return list(configs.values())


def stage(changes: Transaction, model: nn.Module, record: dict[str, Any]) -> None:
    """Stage a record in the model's configurations."""
    for config in configs_of(model):
        changes.set(config, "quantization_config", record)


def stage_record(changes: Transaction, model: nn.Module, blocks: Blocks, kept: Kept) -> None:
    """Stage the record in the model's configuration; a model that has all its units gets none.

    Args:
        changes: Where the assignment is staged.
        model: A transformers model.
        blocks: Its blocks.
        kept: What it will still have.
    """
    before, neurons = read_record(model), [positions.tolist() for positions in kept.neurons]
    heads = _entries(model, blocks.attentions, kept.heads, kept.dense_heads)
    record = {
        "quant_method": RECORD,
        "heads": _others(model, blocks.attentions, before["heads"]) | heads,
        "neurons": _others(model, blocks.mlps, before["neurons"])
        | _entries(model, blocks.mlps, neurons, kept.dense_neurons),
    }
    hidden = before.get("hidden")
    if hidden:
        record["hidden"] = hidden
    if record["heads"] or record["neurons"] or hidden:
        stage(changes, model, record)


def unkept(model: nn.Module, record: Mapping[str, Any]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return what has to be removed from a dense model to get what the record says; layers it lacks are skipped.

    Args:
        model: A dense model of the type that the record was made for, possibly with another head.
        record: A record as `read_record` returns it.

    Returns:
        Positions of heads for each attention number, positions of neurons for each MLP number; attentions that never
        run are counted (see `find_blocks`).
    """
    blocks, keys = find_blocks(model, unused=True), _keys(model)
    heads = {a.index: _missing(record["heads"].get(keys[a.module])) for a in blocks.attentions}
    neurons = {m.index: _missing(record["neurons"].get(keys[m.module])) for m in blocks.mlps}
    return heads, neurons


def pack_positions(positions: Iterable[int]) -> str:
    """Write positions as a hexadecimal bit mask, position 0 in the lowest bit."""
    return f"{sum(1 << position for position in positions):x}"


def unpack_positions(mask: str) -> list[int]:
    """Read a bit mask of `pack_positions`; the positions ascend."""
    return [position for position, bit in enumerate(reversed(f"{int(mask, 16):b}")) if bit == "1"]


def _entries(
    model: nn.Module, layers: Iterable[Attention | Mlp], kept: Iterable[list[int]], dense: Iterable[int]
) -> dict[str, dict[str, Any]]:
    """Return the record's entries of the layers that were cut."""
    keys = _keys(model)
    return {
        keys[layer.module]: {"of": size, "kept": pack_positions(positions)}
        for layer, positions, size in zip(layers, kept, dense, strict=True)
        if len(positions) < size
    }


def _others(model: nn.Module, layers: Iterable[Attention | Mlp], entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of layers that are not among these: the model lacks them or never runs them."""
    keys = _keys(model)
    known = {keys[layer.module] for layer in layers}
    return {key: entry for key, entry in entries.items() if key not in known}


def _recall(key: str, entries: dict[str, Any], layer: Attention | Mlp, size: int) -> tuple[Tensor, int]:
    """Return a layer's kept positions and its size in the dense model."""
    entry = entries.get(key)
    if entry is None:
        return torch.arange(size), size
    kept = unpack_positions(entry["kept"])
    if len(kept) != size:
        raise UserError(
            f"{layer.name} has {size} units, but the model's config says that {len(kept)} of {entry['of']} are left; "
            "load a cut model with from_pretrained; for a new dense model delete config.quantization_config."
        )
    return torch.tensor(kept), entry["of"]


def _missing(entry: Mapping[str, Any] | None) -> list[int]:
    """Return the positions that an entry of the record does not have."""
    return [] if entry is None else sorted(set(range(entry["of"])) - set(unpack_positions(entry["kept"])))


def _keys(model: nn.Module) -> dict[nn.Module, str]:
    """Return the names of modules below the base model, so that the record holds with and without a head."""
    return {module: name for name, module in base_of(model).named_modules()}
