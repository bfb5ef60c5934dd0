"""Conversion of attention modules to and from the classes required when layers keep different heads."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor, nn

from neuroprune.pruning.transaction import Transaction

BUFFER = "kept_heads"


def stage_cut_class(changes: Transaction, module: nn.Module, cut_class: str, heads: Tensor) -> None:
    """Stage the conversion of a module to the class for cut attentions.

    Args:
        changes: Where the assignments are staged.
        module: An attention's module.
        cut_class: `module:Class`, as in the table of architectures.
        heads: Positions of the module's heads in the dense model, stored in its buffer `kept_heads`.
    """
    path, name = cut_class.split(":")
    device = next(module.parameters()).device
    kept = heads if device.type == "meta" else heads.to(device)  # the weights of an offloaded layer are on "meta"
    changes.set(module, "__class__", getattr(import_module(path), name))
    changes.replace(module._buffers, {**module._buffers, BUFFER: kept})
    changes.set(module, "_non_persistent_buffers_set", module._non_persistent_buffers_set | {BUFFER})


def stage_plain_class(changes: Transaction, module: nn.Module) -> None:
    """Stage the conversion of a module back to its transformers class; do nothing if it has that class."""
    if BUFFER not in module._buffers:
        return
    buffers = {name: buffer for name, buffer in module._buffers.items() if name != BUFFER}
    changes.set(module, "__class__", type(module).__bases__[0])
    changes.replace(module._buffers, buffers)
    changes.set(module, "_non_persistent_buffers_set", module._non_persistent_buffers_set - {BUFFER})
