"""Sizes of single layers in transformers' notation, `per_layer_config`.

The notation gives, for each layer that differs, the configuration values that differ from the model's, here the dense
model's. It numbers the layers of one list, so it can't describe models with an encoder and a decoder.
"""

from __future__ import annotations

from typing import Any

from neuroprune.pruning.architectures import find_architecture
from neuroprune.pruning.blocks import Attention, Block, find_blocks
from neuroprune.pruning.kept_units import kept_units, module_keys
from neuroprune.pruning.plain_config import check_shapes, head_values, refusal, stated_counts

KEY = "per_layer_config"
READABLE = "allow_global_per_layer_attribute_access"
"""Entry that permits reading the model's number of heads although layers differ in it. Without it, transformers can't
load the configurations of Llama and Gemma, whose classes check this number."""


def per_layer_entries(model: Any) -> dict[str, Any]:
    """Return the entries of `config.json` that describe the layers of a cut model.

    Args:
        model: A transformers model of a known type; not changed.

    Returns:
        `per_layer_config` (layer number -> name -> value) and, if heads were removed, their size and `READABLE`; empty
        if nothing was removed.

    Raises:
        UserError: If the notation can't describe the model.
    """
    layers = {layer: _values(model, blocks) for layer, blocks in sorted(_cut_blocks(model).items())}
    if not layers:
        return {}
    names: Any = find_architecture(model.config.model_type).config
    sizes = {name: values.pop(name) for values in layers.values() for name in {names.head_dim} & {*values}}
    digits = len(str(max(layers)))
    entries = {KEY: {f"{layer:0{digits}}": values for layer, values in layers.items()}}
    return entries | sizes | ({READABLE: True} if sizes else {})


def _cut_blocks(model: Any) -> dict[int, list[tuple[str, Block]]]:
    """Return the cut blocks of each layer, each with the name of its configuration value."""
    kind = model.config.model_type
    row, blocks = find_architecture(kind), find_blocks(model, unused=True)
    if len(row.layers) > 1:
        raise refusal(model, KEY, f"it describes one list of layers, and {kind} has two ({', '.join(row.layers)})")
    kept, keys = kept_units(model, unused=True), module_keys(model)
    found: dict[int, list[tuple[str, Block]]] = {}
    for shared in stated_counts(model, blocks, KEY):
        for block in shared.blocks:
            if kept.of(block).removed():
                number = keys[block.module].removeprefix(f"{row.layers[0]}.").partition(".")[0]
                found.setdefault(int(number), []).append((shared.name, block))
    return found


def _values(model: Any, cut: list[tuple[str, Block]]) -> dict[str, int]:
    """Return the configuration values of a layer's cut blocks."""
    values: dict[str, int] = {}
    for name, block in cut:
        values |= head_values(model, block, block.units) if isinstance(block, Attention) else {name: block.units}
    check_shapes(model, [block for _, block in cut], values, KEY)
    return values
