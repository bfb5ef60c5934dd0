"""Inference time of a model on this machine as a function of its remaining units."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from neuroprune.errors import UserError
from neuroprune.methods.components.unit_removal import positions_by_layer
from neuroprune.pruning.blocks import Attention, Block, Blocks
from neuroprune.pruning.surgery import remove

WARMUP, REPEATS = 1, 5
SHARES = (0.0, 0.5)  # fractions of the units at which times are measured, in addition to all units
Counts = Mapping[Block, int]
"""Number of units that each block keeps; for attentions, key/value heads."""


@dataclass(frozen=True)
class LatencyTable:
    """Times of the whole model for equal numbers of units in all attentions or in all MLPs.

    Args:
        attention: Pairs of units and seconds, ascending; the last pair is the unmodified model.
        mlp: The same for MLPs.
    """

    attention: list[tuple[int, float]]
    mlp: list[tuple[int, float]]

    def seconds(self, counts: Counts) -> float:
        """Predict a model's time; the savings of all blocks of a kind are divided equally among them."""
        dense = (self.attention or self.mlp)[-1][1]
        kinds = {True: self.attention, False: self.mlp}
        saved = 0.0
        for kind, table in kinds.items():
            kept = [units for block, units in counts.items() if isinstance(block, Attention) is kind]
            if kept and table:
                units, times = (np.array(column) for column in zip(*table, strict=True))
                rising = np.maximum.accumulate(np.minimum(times, dense))  # noise may make a smaller copy slower
                saved += float(np.mean(dense - np.interp(kept, units, rising)))
        return dense - saved

    def speedup(self, counts: Counts) -> float:
        """Predict the speed-up over the measured model."""
        return (self.attention or self.mlp)[-1][1] / self.seconds(counts)

    def shortest(self, other: LatencyTable) -> LatencyTable:
        """Return the shorter of two measurements of the same model, entry by entry."""
        pairs = ((self.attention, other.attention), (self.mlp, other.mlp))
        return LatencyTable(*([min(two) for two in zip(one, again, strict=True)] for one, again in pairs))


class Example:
    """Capture the inputs of a model's next forward pass in training: in training mode and with gradients.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, Any] = {}
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def detach(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def batch(self, rows: int) -> dict[str, Any]:
        """Return the inputs as a batch with the given number of rows, repeating them as needed.

        Args:
            rows: The number of rows.

        Returns:
            Tensors by name, `[rows, …]`.

        Raises:
            UserError: If the model was not called with tensors by name in training.
        """
        tensors = {
            name: value for name, value in self.inputs.items() if isinstance(value, torch.Tensor) and value.dim()
        }
        if not tensors:
            raise UserError(
                "speedup: the model was not called with tensors by name (model(**batch)) in training mode, so its time "
                "cannot be measured; call model.train(), or give sparsity instead."
            )
        size = next(iter(tensors.values())).shape[0]
        return {
            name: value[torch.arange(rows, device=value.device) % size]
            for name, value in tensors.items()
            if value.shape[0] == size
        }

    def _see(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        self.inputs = {
            name: value.detach().clone() if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()
        }
        self.detach()


def measure_table(model: nn.Module, blocks: Blocks, batch: Mapping[str, Any], least: int = 1) -> LatencyTable:
    """Time a model and smaller copies of it, alternately.

    Args:
        model: The model, with the same number of units in all blocks of a kind.
        blocks: Its blocks.
        batch: Inputs of a forward pass.
        least: Units that a block keeps at least.

    Returns:
        The shortest times.
    """
    models: dict[tuple[bool, int], nn.Module] = {}
    for attention, some in ((True, blocks.attentions), (False, blocks.mlps)):
        full = max((block.units for block in some), default=0)
        for share in SHARES if full > 1 else ():
            units = max(least, round(share * full))
            models[attention, units] = smaller(model, {block: min(units, block.units) for block in some})
        if full:
            models[attention, full] = model
    seconds = times(models, batch)
    found: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
    for (attention, units), value in seconds.items():
        found[attention].append((units, value))
    dense = min((table[-1][1] for table in map(sorted, found.values()) if table), default=0.0)
    tables = [[*sorted(table)[:-1], (max(table)[0], dense)] if table else [] for table in found.values()]
    return LatencyTable(*tables)


def smaller(model: nn.Module, counts: Counts) -> nn.Module:
    """Return a copy of a model with these numbers of units per block; their positions do not affect the time."""
    same = copy.deepcopy(model)
    remove(same, *positions_by_layer({block: range(units, block.units) for block, units in counts.items()}))
    same.zero_grad(set_to_none=True)
    return same


def times(models: Mapping[Any, nn.Module], batch: Mapping[str, Any]) -> dict[Any, float]:
    """Return the shortest seconds of a forward pass of each model, measured alternately, without gradients.

    Other work on the machine can only lengthen a pass, so the shortest one is the least disturbed. On one CPU thread,
    processor time is measured, which hardly contains other work at all.
    """
    modes = {module: module.training for model in models.values() for module in model.modules()}
    try:
        for model in models.values():
            model.eval()
        with torch.no_grad():
            functions = {name: partial(model, **batch) for name, model in models.items()}
            found = interleave(functions, REPEATS, WARMUP, synchronise, _clock(next(iter(models.values()))))
    finally:
        for module, training in modes.items():
            module.training = training
    return {name: min(seconds) for name, seconds in found.items()}


def _clock(model: nn.Module) -> Callable[[], float]:
    """Return processor time for one CPU thread, otherwise wall-clock time."""
    alone = next(model.parameters()).device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def ratio(before: nn.Module, after: nn.Module, batch: Mapping[str, Any]) -> float:
    """Return the speed-up of the second model over the first, measured alternately."""
    found = times({"before": before, "after": after}, batch)
    return found["before"] / found["after"]


def interleave(
    functions: Mapping[Any, Callable[[], Any]],
    repeats: int,
    warmup: int,
    sync: Callable[[], Any],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, list[float]]:
    """Time functions alternately (A B A B …), so that a temporary slowdown of the machine affects all of them.

    Args:
        functions: Functions to time, by name.
        repeats: Measured calls of each function.
        warmup: Warm-up calls of each function.
        sync: Function that synchronizes the device; called before each clock reading.
        clock: Function that returns the current seconds.

    Returns:
        Seconds of each measured call, by name; entries at the same position come from the same round.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            sync()
            start = clock()
            function()
            sync()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def synchronise() -> None:
    """Synchronize the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
