"""Export of Llama models with different layers for vLLM's `DeciLMForCausalLM`, which supports an MLP size per layer.

vLLM builds every attention of that architecture with the same number of query heads. Layers with fewer heads are padded
with zero heads, whose output is zero. MLPs keep their individual sizes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json
from neuroprune.models.export import decilm_config
from neuroprune.models.export.tokenizers import copy_tokenizer
from neuroprune.models.pretrained import from_pretrained
from neuroprune.pruning.blocks import Blocks, find_blocks
from neuroprune.pruning.kept_units import RECORD, read_record
from neuroprune.pruning.plain_config import allows, head_values

CODE = "configuration_decilm.py"
"""Name of the configuration's code in the model's folder, which vLLM loads with `--trust-remote-code`."""


@torch.no_grad()
def export(folder: Path, out: Path) -> list[str]:
    """Write a checkpoint for vLLM, with the code of its configuration and the tokenizer.

    Args:
        folder: A saved Llama.
        out: The folder to write to; created if necessary.

    Returns:
        A description of the result.

    Raises:
        UserError: If it is not a Llama with a language-model head, or its hidden dimension was cut.
    """
    model: Any = from_pretrained(folder)
    if type(model).__name__ != "LlamaForCausalLM" or read_record(model).get("hidden"):
        raise UserError(
            f"{type(model).__name__} can't be written for vLLM's DeciLMForCausalLM: it serves LlamaForCausalLM with "
            "its whole hidden dimension. Export it with --format full."
        )
    blocks = find_blocks(model)
    units = _shared_units(model, blocks)
    weights = _padded(model, blocks, units)
    copy_tokenizer(folder, out)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    shutil.copyfile(str(decilm_config.__file__), out / CODE)
    if (generation := folder / "generation_config.json").exists():
        shutil.copyfile(generation, out / generation.name)
    write_json(out / "config.json", _config(model, blocks, units))
    filled = sum(units - attention.units for attention in blocks.attentions) * blocks.attentions[0].groups
    return [
        f"{out}: DeciLMForCausalLM for vLLM (needs --trust-remote-code), {filled} query heads filled with zeros.",
        "Checked against the architecture's documented keys; not run in vLLM.",
    ]


def _shared_units(model: Any, blocks: Blocks) -> int:
    """Return a number of key/value heads to which all layers can be padded and which the configuration accepts."""
    units = max(attention.units for attention in blocks.attentions)
    while not allows(model, head_values(model, blocks.attentions[0], units)):
        units += 1  # the dense model's number is accepted
    return units


def _padded(model: Any, blocks: Blocks, units: int) -> dict[str, Tensor]:
    """Return the weights by name, with zero heads appended in layers that have fewer than `units`."""
    names = {module: name for name, module in model.named_modules()}
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    for attention in blocks.attentions:
        size = units * attention.head_dim
        for projection in (attention.k, attention.v):
            _fill(weights, names[projection.module], size)
        _fill(weights, names[attention.q.module], size * attention.groups)
        output = f"{names[attention.o.module]}.weight"
        weights[output] = _filled(weights[output], size * attention.groups, dim=1)
    return weights


def _fill(weights: dict[str, Tensor], name: str, size: int) -> None:
    """Append rows of zeros to a projection's weight and bias."""
    for tensor in (f"{name}.weight", f"{name}.bias"):
        if tensor in weights:
            weights[tensor] = _filled(weights[tensor], size, dim=0)


def _filled(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Append zeros along a dimension."""
    missing = size - tensor.shape[dim]
    return pad(tensor, (0, missing) if dim == tensor.dim() - 1 else (0, 0, 0, missing)).contiguous()


def _config(model: Any, blocks: Blocks, units: int) -> dict[str, Any]:
    """Return Llama's configuration with a block per layer."""
    attention = blocks.attentions[0]
    widths = [mlp.width for mlp in blocks.mlps]
    values = json.loads(model.config.to_json_string(use_diff=False))
    for key in ("quantization_config", RECORD):
        values.pop(key, None)
    block = {"no_op": False, "replace_with_linear": False}
    return (
        values
        | head_values(model, attention, units)
        | {
            "architectures": ["DeciLMForCausalLM"],
            "model_type": "nemotron-nas",
            "auto_map": {"AutoConfig": f"{Path(CODE).stem}.DeciLMConfig"},
            "intermediate_size": max(widths),
            "block_configs": [
                {
                    "attention": {**block, "n_heads_in_group": attention.groups},
                    "ffn": {**block, "intermediate_size": width},
                }
                for width in widths
            ],
        }
    )
