"""Small arrays for the figures: fractional degrees of neurons, patterns of non-zero entries, and distances of heads.

All arrays use the positions of the dense model, so that runs of different sparsities can be compared: a removed neuron
has degree 0, and its row and column are empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Attention, Mlp, find_blocks
from neuroprune.pruning.defaults import EPS
from neuroprune.pruning.residual_stream import kept_hidden
from neuroprune.pruning.surgery import Kept, kept_units
from neuroprune.pruning.topology import fractional_degree
from neuroprune.results.records import shrink

CELLS = 64


def degrees(model: nn.Module, eps: float = EPS) -> dict[str, np.ndarray]:
    """Return the fractional degree of every MLP neuron, for Figure 2.

    Args:
        model: A model of a known architecture, cut or not.
        eps: An entry with a smaller absolute value counts as absent.

    Returns:
        For the MLP with index i, `in.<i>`: float16 [dense width], the rows of its first expanding matrix, and
        `out.<i>`: float16 [model width], the rows of its contracting matrix; both are fractions of the dense row.
    """
    kept = kept_units(model)
    columns, model_width = _columns(model)
    found = {}
    for mlp in find_blocks(model).mlps:
        width = kept.dense_neurons[mlp.index]
        rows = torch.zeros(width)
        share = len(columns) / model_width
        rows[kept.neurons[mlp.index]] = fractional_degree(mlp.ins[0].weight.detach(), eps).float().cpu() * share
        out = torch.zeros(model_width)
        out[columns] = fractional_degree(mlp.out.weight.detach(), eps, mlp.width or 1).float().cpu() * (
            mlp.width / width
        )
        found[f"in.{mlp.index}"] = rows.numpy().astype(np.float16)
        found[f"out.{mlp.index}"] = out.numpy().astype(np.float16)
    return found


def degree_sd_percent(arrays: dict[str, np.ndarray]) -> float:
    """Return the standard deviation of all fractional degrees in percent, the paper's "MLP spread"."""
    return float(np.concatenate([a.astype(np.float64) for a in arrays.values()]).std() * 100)


def patterns(model: nn.Module, eps: float = EPS) -> dict[str, np.ndarray]:
    """Return the patterns of present entries in the middle layer's matrices, for Figure 1.

    Args:
        model: A model of a known architecture, cut or not.
        eps: An entry with a smaller absolute value counts as absent.

    Returns:
        `q.<i>`, `k.<i>`, `v.<i>`: bool [dense heads * head size, model width] of the middle attention with index i, and
        `in.<j>`: bool [dense width, model width], `out.<j>`: bool [model width, dense width] of the middle MLP.
    """
    blocks, kept = find_blocks(model), kept_units(model)
    attention, mlp = blocks.attentions[len(blocks.attentions) // 2], blocks.mlps[len(blocks.mlps) // 2]
    wide = _columns(model)
    return _attention_patterns(attention, kept, wide, eps) | _mlp_patterns(mlp, kept, wide, eps)


def cells(model: nn.Module, eps: float = EPS) -> dict[str, np.ndarray]:
    """Return the percentage of present entries in blocks of some layers' matrices, for Figures 8 to 10.

    Args:
        model: A model of a known architecture, cut or not.
        eps: An entry with a smaller absolute value counts as absent.

    Returns:
        The first, the middle and the last layer's matrices, with the names of `patterns`: uint8 with at most 64 rows
        and columns, the percentage of present entries of each block. 61 kB for BERT-base.
    """
    blocks, kept, wide = find_blocks(model), kept_units(model), _columns(model)
    found: dict[str, np.ndarray] = {}
    for attention in _ends_and_middle(blocks.attentions):
        found |= _attention_patterns(attention, kept, wide, eps)
    for mlp in _ends_and_middle(blocks.mlps):
        found |= _mlp_patterns(mlp, kept, wide, eps)
    return {name: np.rint(100 * shrink(mask, CELLS)).astype(np.uint8) for name, mask in found.items()}


def _ends_and_middle(layers: list[Any]) -> list[Any]:
    return [layers[place] for place in sorted({0, len(layers) // 2, len(layers) - 1})]


def head_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return importance and distances of heads, for Figure 7 and the comparison of dominating sets.

    Args:
        model: A model of a known architecture, cut or not.

    Returns:
        For the attention with index i, `importance.<i>`: float32 [dense heads], the sum of each head's absolute weights
        in W^O, 0 for a removed head; and `distance.<i>`: float32 [kept heads, kept heads], the l-infinity distances of
        Algorithm 2 (under grouped-query attention, between key/value heads).
    """
    kept = kept_units(model)
    found: dict[str, np.ndarray] = {}
    for attention in find_blocks(model).attentions:
        importance = np.zeros(kept.dense_heads[attention.index], dtype=np.float32)
        columns = attention.o.weight.detach().abs().sum(dim=0, dtype=torch.float32)
        importance[kept.heads[attention.index]] = columns.view(-1, attention.head_dim).sum(dim=1).cpu().numpy()
        found[f"importance.{attention.index}"] = importance
        found[f"distance.{attention.index}"] = heads.distances(attention).cpu().numpy()
    return found


def _columns(model: nn.Module) -> tuple[Tensor, int]:
    """Return the kept hidden dimensions, int64, and their number in the dense model."""
    width = find_blocks(model).mlps[0].out.weight.shape[0]
    left, dense = kept_hidden(model) or (list(range(width)), width)
    return torch.tensor(left), dense


def _attention_patterns(
    attention: Attention, kept: Kept, wide: tuple[Tensor, int], eps: float
) -> dict[str, np.ndarray]:
    found = {}
    for name, groups in (("q", 1), ("k", attention.groups), ("v", attention.groups)):
        left = kept.attentions[attention.index].left[::groups] // groups
        rows = (left[:, None] * attention.head_dim + torch.arange(attention.head_dim)).flatten()
        present = _present(getattr(attention, name).weight, eps)
        own = present.shape[1]  # a cross-attention may read a residual stream of another width
        columns = wide if own == len(wide[0]) else (torch.arange(own), own)
        dense_rows = kept.dense_heads[attention.index] // groups * attention.head_dim
        found[f"{name}.{attention.index}"] = _spread(present, (rows, dense_rows), columns)
    return found


def _mlp_patterns(mlp: Mlp, kept: Kept, wide: tuple[Tensor, int], eps: float) -> dict[str, np.ndarray]:
    rows, width = kept.neurons[mlp.index], kept.dense_neurons[mlp.index]
    return {
        f"in.{mlp.index}": _spread(_present(mlp.ins[0].weight, eps), (rows, width), wide),
        f"out.{mlp.index}": _spread(_present(mlp.out.weight, eps), wide, (rows, width)),
    }


def _present(weight: Tensor, eps: float) -> Tensor:
    return (weight.detach().abs() >= eps).cpu()


def _spread(present: Tensor, rows: tuple[Tensor, int], columns: tuple[Tensor, int]) -> np.ndarray:
    """Place remaining entries in the dense matrix; `rows` and `columns` are pairs of positions and dense size."""
    dense = torch.zeros(rows[1], columns[1], dtype=torch.bool)
    dense[rows[0][:, None], columns[0]] = present
    return dense.numpy()
