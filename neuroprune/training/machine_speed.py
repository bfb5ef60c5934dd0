"""Training speed of this machine, measured for a few seconds with a small transformer layer."""

from __future__ import annotations

import time

import torch
from torch import nn

from neuroprune.config.workload import OPERATIONS

WIDTH, HEADS, NEURONS, ROWS, TOKENS = 384, 12, 1536, 16, 32  # a layer of MiniLM and a typical batch


def operations_per_second(seconds: float = 5.0) -> float:
    """Time training steps of one transformer layer on one CPU thread.

    Args:
        seconds: Duration of the measurement in processor time, on which other work has little influence.

    Returns:
        Operations per second, counted as six per weight and token.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return _measure(seconds)
    finally:
        torch.set_num_threads(threads)


def _measure(seconds: float) -> float:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, NEURONS, activation="gelu", batch_first=True)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    rows = torch.randn(ROWS, TOKENS, WIDTH)
    weights = sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
    _step(layer, optimizer, rows)  # the first step allocates memory
    steps, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds or not steps:
        _step(layer, optimizer, rows)
        steps += 1
    return OPERATIONS * weights * ROWS * TOKENS * steps / spent


def _step(layer: nn.Module, optimizer: torch.optim.Optimizer, rows: torch.Tensor) -> None:
    layer(rows).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
