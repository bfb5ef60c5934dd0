"""Record, in the model's configuration, of the dense model's heads and neurons that a cut model has kept.

The record has the form of a quantization config, because transformers lets quantizers modify a model before its weights
are loaded (see `models.quantizer`). For each cut layer it contains the number of units in the dense model and a bit
mask of the remaining ones. If the hidden dimension was cut as well (see `residual_stream`), `hidden` contains the same
for it, and the number of other parameters removed with it (`others`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers  # it may still be importing when this module loads, see `models.import_hook`
from torch import Tensor, nn

from neuroprune.errors import UserError
from neuroprune.pruning.blocks import Block, Blocks, Mlp, base_of, find_blocks
from neuroprune.pruning.transaction import Transaction

RECORD = "neuroprune"
"""Name of the record in a plain configuration (see `plain_config.py`) and first word of its `quant_method`."""

CUT = ("heads", "neurons", "hidden")
"""Entries of a record that are empty or missing for a dense model."""

METHOD = f"{RECORD} (install and import neuroprune before loading)"
"""The `quant_method` of the record. Programs without support for it print it in their error message, hence the hint."""


class Units(NamedTuple):
    """The remaining heads of an attention or neurons of an MLP.

    Args:
        left: Their positions in the dense model, ascending, int64 on the CPU.
        dense: Number of units of the dense model.
    """

    left: Tensor
    dense: int

    def only(self, keep: Tensor) -> Units:
        """Return the units that remain if only the given current positions are kept."""
        return self._replace(left=self.left[keep])

    def removed(self) -> list[int]:
        """Return the removed units, as positions in the dense model."""
        return sorted(set(range(self.dense)) - set(self.left.tolist()))


@dataclass(frozen=True)
class Kept:
    """The units of the dense model that remain in a cut model.

    Args:
        attentions: Remaining heads of each attention.
        mlps: Remaining neurons of each MLP.
    """

    attentions: list[Units]
    mlps: list[Units]

    def of(self, block: Block) -> Units:
        """Return the units of one attention or MLP, of this model or of another with the same layers."""
        return self.mlps[block.index] if isinstance(block, Mlp) else self.attentions[block.index]

    @property
    def heads(self) -> list[list[int]]:
        """Number of remaining heads in each attention."""
        return [units.left.tolist() for units in self.attentions]

    @property
    def neurons(self) -> list[Tensor]:
        """Number of remaining neurons in each MLP."""
        return [units.left for units in self.mlps]

    @property
    def dense_heads(self) -> list[int]:
        """Number of heads of each attention in the dense model."""
        return [units.dense for units in self.attentions]

    @property
    def dense_neurons(self) -> list[int]:
        """Number of neurons of each MLP in the dense model."""
        return [units.dense for units in self.mlps]


def kept_units(model: nn.Module, unused: bool = False) -> Kept:
    """Return the remaining heads and neurons as positions in the dense model.

    Args:
        model: A transformers model of a known type, cut or not.
        unused: As in `find_blocks`.

    Returns:
        The remaining units; all of them if the model was never cut.

    Raises:
        UserError: If the record in `model.config` does not match the model's shapes, or the model is quantized.
    """
    blocks, record, keys = find_blocks(model, unused), read_record(model), module_keys(model)
    return Kept(
        [_recall(keys[a.module], record["heads"], a, a.heads) for a in blocks.attentions],
        [_recall(keys[m.module], record["neurons"], m, m.width) for m in blocks.mlps],
    )


def is_cut(record: Mapping[str, Any]) -> bool:
    """Return whether a record is that of a cut model."""
    return any(record.get(key) for key in CUT)


def read_record(model: nn.Module) -> dict[str, Any]:
    """Return the record in the model's configuration, without layers if the model was never cut.

    Args:
        model: A transformers model.

    Returns:
        `quant_method`, and `heads` and `neurons`: layer -> `of` (units of the dense model), `kept` (bit mask).

    Raises:
        UserError: If the model is quantized, because the configuration has room for only one such record.
    """
    records = [getattr(config, "quantization_config", None) for config in configs_of(model)]
    record: Any = next((found for found in records if found is not None), None)
    if record is None:
        return {"quant_method": METHOD, "heads": {}, "neurons": {}} | (plain_record(model) or {})
    record = record if isinstance(record, dict) else record.to_dict()
    if not names_record(record.get("quant_method")):
        raise UserError(
            f"{type(model).__name__} is quantized ({record.get('quant_method')}); heads and neurons can only be "
            "removed before quantization."
        )
    return record


def names_record(method: Any) -> bool:
    """Return whether a `quant_method` belongs to the record, with or without the hint after the name."""
    return isinstance(method, str) and method.split(" ")[0] == RECORD


def plain_record(model: nn.Module) -> dict[str, Any] | None:
    """Return the record of a model with a plain configuration; None for other models.

    See `plain_config`. In addition to `heads` and `neurons`, it contains `config`, the dense model's configuration
    values, and `others`, the number of other parameters removed along with heads.
    """
    records = (getattr(config, RECORD, None) for config in configs_of(model))
    return next((dict(record) for record in records if isinstance(record, dict)), None)


def configs_of(model: nn.Module) -> list[Any]:
    """Return the configurations for a model's record: that of its base model and, if different, its own.

    Each can be saved separately, so both need the record.
    """
    configs = {id(config): config for part in (base_of(model), model) if (config := getattr(part, "config", None))}
    return list(configs.values())


def own_configs(model: nn.Module) -> None:
    """Give a model copies of its configurations, in place: a configuration may be shared with other models.

    Models that are built with one configuration object hold that object, so that a record in it would describe them
    all.

    Args:
        model: A transformers model, or a module around some.
    """
    copies: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, transformers.PreTrainedConfig):
                setattr(module, name, copy.deepcopy(value, copies))


def stage(changes: Transaction, model: nn.Module, record: dict[str, Any]) -> None:
    """Stage a record in the model's configurations."""
    for config in configs_of(model):
        changes.set(config, "quantization_config", record)


def stage_record(changes: Transaction, model: nn.Module, blocks: Blocks, kept: Kept) -> None:
    """Stage the record in the model's configuration; a model with all its units gets none.

    Args:
        changes: Where the assignment is staged.
        model: A transformers model.
        blocks: Its blocks.
        kept: The units that will remain.
    """
    before = read_record(model)
    record = {
        "quant_method": METHOD,
        "heads": _others(model, blocks.attentions, before["heads"]) | _entries(model, blocks.attentions, kept),
        "neurons": _others(model, blocks.mlps, before["neurons"]) | _entries(model, blocks.mlps, kept),
    }
    hidden = before.get("hidden")
    if hidden:
        record["hidden"] = hidden
    if record["heads"] or record["neurons"] or hidden:
        stage(changes, model, record)


def unkept(model: nn.Module, record: Mapping[str, Any]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return the units to remove from a dense model to match a record; missing layers are skipped.

    Args:
        model: A dense model of the record's type, possibly with a different task head.
        record: A record from `read_record`.

    Returns:
        Positions of heads by attention number and of neurons by MLP number, where unused attentions are counted (see
        `find_blocks`).
    """
    blocks, keys = find_blocks(model, unused=True), module_keys(model)
    heads = {a.index: _missing(record["heads"].get(keys[a.module])) for a in blocks.attentions}
    neurons = {m.index: _missing(record["neurons"].get(keys[m.module])) for m in blocks.mlps}
    return heads, neurons


def pack_positions(positions: Iterable[int]) -> str:
    """Encode positions as a hexadecimal bit mask, with position 0 in the lowest bit."""
    return f"{sum(1 << position for position in positions):x}"


def unpack_positions(mask: str) -> list[int]:
    """Decode a bit mask from `pack_positions`; return ascending positions."""
    return [position for position, bit in enumerate(reversed(f"{int(mask, 16):b}")) if bit == "1"]


def _entries(model: nn.Module, layers: Sequence[Block], kept: Kept) -> dict[str, dict[str, Any]]:
    """Return the record's entries for cut layers."""
    keys, units = module_keys(model), {layer: kept.of(layer) for layer in layers}
    return {
        keys[layer.module]: {"of": found.dense, "kept": pack_positions(found.left.tolist())}
        for layer, found in units.items()
        if len(found.left) < found.dense
    }


def _others(model: nn.Module, layers: Iterable[Block], entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of other layers, which the model lacks or never executes."""
    keys = module_keys(model)
    known = {keys[layer.module] for layer in layers}
    return {key: entry for key, entry in entries.items() if key not in known}


def _recall(key: str, entries: dict[str, Any], layer: Block, size: int) -> Units:
    """Return the remaining units of a layer."""
    entry = entries.get(key)
    if entry is None:
        return Units(torch.arange(size), size)
    kept = unpack_positions(entry["kept"])
    if len(kept) != size:
        raise UserError(
            f"{layer.name} has {size} units, but the model's config says that {len(kept)} of {entry['of']} remain; "
            "load a cut model with from_pretrained; for a new dense model delete config.quantization_config."
        )
    return Units(torch.tensor(kept, dtype=torch.long), entry["of"])


def _missing(entry: Mapping[str, Any] | None) -> list[int]:
    """Return the positions that are missing from an entry of the record."""
    return [] if entry is None else sorted(set(range(entry["of"])) - set(unpack_positions(entry["kept"])))


def module_keys(model: nn.Module) -> dict[nn.Module, str]:
    """Return module names relative to the base model, so that the record is valid with and without a task head."""
    return {module: name for name, module in base_of(model).named_modules()}
