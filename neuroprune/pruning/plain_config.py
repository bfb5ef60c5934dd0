"""Plain configurations, which describe a cut model's shapes, so that transformers loads it without this package.

Most configurations have one number of heads and one width of the MLPs for all layers. If the layers of a cut model
agree on these, `to_plain` writes them to the configuration. It also moves the record of the cuts from
`quantization_config`, which only this package can read, to a value that transformers ignores. Before the next cut,
`to_recorded` moves it back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from neuroprune.errors import UserError
from neuroprune.pruning.architectures import Architecture, ConfigNames, find_architecture
from neuroprune.pruning.blocks import Attention, Block, Blocks, base_of, config_of, find_blocks
from neuroprune.pruning.cut_classes import stage_cut_class, stage_plain_class
from neuroprune.pruning.cuts import Cut, stage_cuts, unwrap
from neuroprune.pruning.kept_units import METHOD, RECORD, configs_of, kept_units, module_keys, plain_record, read_record
from neuroprune.pruning.transaction import Transaction

FORM = "a plain configuration"
"""Name of this form of configuration in error messages."""


@dataclass(frozen=True)
class SharedCount:
    """Blocks whose number of units is given by one configuration value.

    Args:
        name: Name of the value: the number of query heads or of neurons.
        blocks: The blocks.
        same: Lists of blocks that must keep units at the same positions.
    """

    name: str
    blocks: tuple[Block, ...]
    same: tuple[tuple[Block, ...], ...] = ()


def shared_counts(model: nn.Module, blocks: Blocks) -> list[SharedCount]:
    """Return the groups of blocks that must keep equal numbers of units for a plain configuration.

    Args:
        model: A transformers model of a known type.
        blocks: Its blocks.

    Returns:
        One entry per configuration value; attentions are left out if the configuration fixes their heads.
    """
    row = find_architecture(config_of(model).model_type)
    if row.config is None:
        return []
    lists = _lists(model, blocks.mlps, row)
    names = dict(zip(row.layers, row.config.neurons, strict=True))
    found = [
        SharedCount(name, tuple(mlp for path in row.layers if names[path] == name for mlp in lists.get(path, ())))
        for name in dict.fromkeys(row.config.neurons)
    ]
    if row.config.heads:
        found.insert(0, SharedCount(row.config.heads, tuple(blocks.attentions), _same_positions(model, blocks, row)))
    return [shared for shared in found if shared.blocks]


def is_plain(model: nn.Module) -> bool:
    """Return whether a model was cut and has a plain configuration."""
    return plain_record(model) is not None


def allows(model: nn.Module, values: Mapping[str, int]) -> bool:
    """Return whether a model's configuration class accepts these values; in Llama, heads must divide the width."""
    return not objection_to(model, values)


def head_values(model: nn.Module, attention: Attention, units: int) -> dict[str, int]:
    """Return the configuration values for attentions with this number of key/value heads."""
    names = _names(model)
    values = {names.heads: units * attention.groups, names.head_dim: attention.head_dim}
    return values | ({names.key_heads: units} if names.key_heads else {})


@torch.no_grad()
def to_plain(model: nn.Module, optimizer: Any = None) -> None:
    """Make the configuration of a cut model plain, in place; do nothing if nothing was cut.

    Args:
        model: A transformers model of a known type.
        optimizer: As in `surgery.remove`.

    Raises:
        UserError: If the configuration can't describe the shapes: layers differ, or it has no value for a cut
            dimension.
    """
    record = read_record(model)
    if is_plain(model) or not any(record.get(key) for key in ("heads", "neurons", "hidden")):
        return
    values, changes = plain_values(model), Transaction()
    dropped = _stage_position_bias(changes, model, optimizer)
    old = {name: value for name, value in vars(config_of(model)).items() if name in values}
    kept = {key: record[key] for key in ("heads", "neurons")}
    for config in configs_of(model):
        content = {key: value for key, value in vars(config).items() if key != "quantization_config"}
        changes.replace(vars(config), content | values | {RECORD: {**kept, "config": old, "others": dropped}})
    changes.commit()


@torch.no_grad()
def to_recorded(model: nn.Module, optimizer: Any = None) -> None:
    """Undo `to_plain`: restore the dense model's configuration and the record of the cuts.

    Args:
        model: A transformers model; unchanged if its configuration isn't plain.
        optimizer: As in `surgery.remove`.
    """
    plain = plain_record(model)
    if plain is None:
        return
    changes = Transaction()
    _stage_whole_position_bias(changes, model, optimizer)
    record = {"quant_method": METHOD, "heads": plain["heads"], "neurons": plain["neurons"]}
    row = _names(model)
    names = {RECORD, *row.neurons, row.heads, row.key_heads, row.head_dim}
    for config in configs_of(model):
        content = {key: value for key, value in vars(config).items() if key not in names}
        changes.replace(vars(config), content | plain["config"] | {"quantization_config": record})
    changes.commit()


def plain_values(model: nn.Module) -> dict[str, int]:
    """Return the configuration values that describe the shapes of a cut model.

    Args:
        model: A transformers model of a known type.

    Returns:
        Name -> value.

    Raises:
        UserError: If there are no such values.
    """
    blocks = find_blocks(model, unused=True)
    values: dict[str, int] = {}
    counts = stated_counts(model, blocks, FORM)
    for shared in counts:
        _check_agreement(model, shared)
        first = shared.blocks[0]
        values |= head_values(model, first, first.units) if isinstance(first, Attention) else {shared.name: first.units}
    if objection := objection_to(model, values):
        raise refusal(model, FORM, objection)
    check_shapes(model, blocks.all, values, FORM)
    return values


def stated_counts(model: nn.Module, blocks: Blocks, form: str) -> list[SharedCount]:
    """Return `shared_counts` of a cut model, and reject cuts that no value of its configuration describes.

    Args:
        model: A transformers model of a known type.
        blocks: Its blocks, including unused ones.
        form: The form of the configuration, for the error message.

    Returns:
        One entry per configuration value.

    Raises:
        UserError: If the hidden dimension, all units of a block, or units without a configuration value were removed.
    """
    if read_record(model).get("hidden"):
        raise refusal(model, form, "its hidden dimension was cut")
    if empty := [block.name for block in blocks.all if not block.units]:
        raise refusal(model, form, f"{empty[0]} has no units left, and transformers can't leave out a part of a layer")
    counts, kept = shared_counts(model, blocks), kept_units(model, unused=True)
    stated = {block for shared in counts for block in shared.blocks}
    if cut := [block.name for block in blocks.all if block not in stated and kept.of(block).removed()]:
        reason = f"{cut[0]} was cut, and {type(config_of(model)).__name__} has no separate value for its size"
        raise refusal(model, form, reason)
    return counts


def _check_agreement(model: nn.Module, shared: SharedCount) -> None:
    """Reject blocks with different numbers of units, or at different positions where these must agree."""
    kind = "heads" if isinstance(shared.blocks[0], Attention) else "neurons"
    if len({(block.units, getattr(block, "heads", 0)) for block in shared.blocks}) > 1:
        counts = ", ".join(f"{getattr(block, 'heads', block.units)}" for block in shared.blocks)
        reason = f"its layers have different numbers of {kind} ({counts}); prune with layout='uniform'"
        raise refusal(model, FORM, reason)
    kept = kept_units(model, unused=True)
    for same in shared.same:
        if len({tuple(kept.of(block).removed()) for block in same}) > 1:
            raise refusal(
                model, FORM, f"layers that share a position bias keep different {kind}; prune with layout='uniform'"
            )


def check_shapes(model: nn.Module, chosen: Iterable[Block], values: Mapping[str, int], form: str) -> None:
    """Reject configuration values that do not give the shapes of the chosen blocks.

    Args:
        model: A cut model.
        chosen: Some of its blocks.
        values: Configuration values: name -> value.
        form: The form of the configuration, for the error message.

    Raises:
        UserError: If a model with these values has other shapes there.
    """
    config: Any = copy.deepcopy(config_of(model))
    vars(config).pop("quantization_config", None)
    vars(config).update(values)
    described: Any = type(model if isinstance(model, transformers.PreTrainedModel) else base_of(model))
    with torch.device("meta"):
        built = described(config)
    present, made = (find_blocks(each, unused=True).all for each in (model, built))
    plain = {block.name: other for block, other in zip(present, made, strict=True)}
    for block in chosen:
        if _shapes(block) != _shapes(plain[block.name]):
            reason = f"{type(config_of(model)).__name__} does not give the shape of {block.name}"
            raise refusal(model, form, reason)


def _shapes(block: Block) -> list[torch.Size]:
    return [projection.weight.shape for projection in (*block.inputs, block.output)]


def refusal(model: nn.Module, form: str, reason: str) -> UserError:
    """Return the error for a model that can't have a form of configuration."""
    return UserError(
        f"{type(model).__name__} can't have {form}: {reason}. Save it as it is and load it after "
        "`import neuroprune`, or export it with --format full."
    )


def objection_to(model: nn.Module, values: Mapping[str, int]) -> str:
    """Return the reason why a model's configuration class rejects these values; empty if it accepts them."""
    config: Any = config_of(model)
    content = {key: value for key, value in config.to_dict().items() if key not in ("quantization_config", RECORD)}
    try:
        type(config).from_dict(content | dict(values))
    except Exception as error:  # each class has its own checks
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _names(model: nn.Module) -> ConfigNames:
    names = find_architecture(config_of(model).model_type).config
    assert names is not None, "asked only for values that `shared_counts` lists"
    return names


def _lists(model: nn.Module, blocks: Iterable[Block], row: Architecture) -> dict[str, list[Block]]:
    """Group blocks by the path of their layer list."""
    keys = module_keys(model)
    found: dict[str, list[Block]] = {}
    for block in blocks:
        path = next(path for path in row.layers if f"{keys[block.module]}.".startswith(f"{path}."))
        found.setdefault(path, []).append(block)
    return found


# ---- position biases


def _same_positions(model: nn.Module, blocks: Blocks, row: Architecture) -> tuple[tuple[Block, ...], ...]:
    """Return lists of attentions that share a position bias."""
    if row.config is None or not row.config.position_bias:
        return ()
    selves = [attention for attention in blocks.attentions if not attention.cross]
    return tuple(tuple(found) for found in _lists(model, selves, row).values())


def _biases(model: nn.Module) -> list[tuple[nn.Embedding, Sequence[Attention]]]:
    """Return each position-bias embedding with the attentions that use it."""
    row, blocks = find_architecture(config_of(model).model_type), find_blocks(model, unused=True)
    same: Any = _same_positions(model, blocks, row)
    return [(getattr(readers[0].module, row.config.position_bias), readers) for readers in same]  # type: ignore[union-attr]


def _stage_position_bias(changes: Transaction, model: nn.Module, optimizer: Any) -> int:
    """Stage position biases for the remaining heads only; return the number of removed parameters."""
    kept, cuts, dropped = kept_units(model, unused=True), [], 0
    for embedding, readers in _biases(model):
        heads = kept.of(readers[0]).left
        cuts.append(Cut(embedding, "in", heads))
        dropped += (embedding.weight.shape[1] - len(heads)) * len(embedding.weight)
        for reader in readers:
            stage_plain_class(changes, reader.module)
    stage_cuts(changes, model, cuts, optimizer)
    return dropped


def _stage_whole_position_bias(changes: Transaction, model: nn.Module, optimizer: Any) -> None:
    """Stage position biases for all heads of the dense model, with unused zeros for the removed ones."""
    kept = kept_units(model, unused=True)
    replaced: dict[Any, nn.Parameter] = {}
    for embedding, readers in _biases(model):
        heads, dense = kept.of(readers[0])
        old = embedding.weight
        whole = nn.Parameter(old.new_zeros(len(old), dense), requires_grad=old.requires_grad)
        whole.index_copy_(1, heads.to(old.device), old)
        changes.set(embedding, "weight", whole)
        changes.set(embedding, "embedding_dim", dense)
        replaced[old] = whole
        for reader in readers if len(heads) < dense else ():
            stage_cut_class(changes, reader.module, reader.row.cut_class, heads)
    if replaced and optimizer is not None:
        _stage_replacements(changes, unwrap(optimizer), replaced)


def _stage_replacements(changes: Transaction, optimizer: Any, replaced: Mapping[Any, nn.Parameter]) -> None:
    """Stage the replacement of parameters in an optimizer; the state of the old ones is dropped."""
    for group in optimizer.param_groups:
        parameters = [replaced.get(parameter, parameter) for parameter in group["params"]]
        changes.replace(group, {**group, "params": parameters})
    changes.replace(optimizer.state, {key: value for key, value in optimizer.state.items() if key not in replaced})
