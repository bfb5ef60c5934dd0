"""Inference time of pruned models whose MLP widths are multiples of 8, 16 or 64, against freely chosen widths.

Models of MiniLM's size with random weights keep as many heads and neurons per layer as published runs of NeuroPrune-FC.
Each width is rounded to the nearest multiple, at least one. All models take turns, on one thread.

    python -m benchmarks.widths --out widths.csv
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measurements import write
from neuroprune.methods.components.latency import interleave, smaller, synchronise
from neuroprune.pruning.blocks import find_blocks
from neuroprune.results.records import read_record

RUNS = Path("results/published/sst2/runs")
NAMES = {0.5: "minilm-sst2-neuroprune-50-s0", 0.8: "minilm-sst2-neuroprune-80-s0", 0.9: "minilm-sst2-neuroprune-90-s0"}
MULTIPLES = (1, 8, 16, 64)
TOKENS = 32
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
COLUMNS = (
    "sparsity",
    "multiple",
    "batch",
    "neurons",
    "milliseconds",
    "time over free widths",
)


def rounded(model: nn.Module, heads: list[int], neurons: list[int], multiple: int) -> nn.Module:
    """Return a copy of the model with these numbers of heads, and of neurons rounded to multiples."""
    blocks = find_blocks(model)
    widths = [
        min(mlp.units, max(multiple, multiple * round(n / multiple)))
        for mlp, n in zip(blocks.mlps, neurons, strict=True)
    ]
    return smaller(model, dict(zip((*blocks.attentions, *blocks.mlps), (*heads, *widths), strict=True)))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("widths.csv"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    dense = BertForSequenceClassification(BertConfig(**SIZES)).eval()
    lines = []
    for sparsity, name in NAMES.items():
        kept = read_record(RUNS / name / "run.json").result.sparsity
        models = {m: rounded(dense, kept.heads_per_layer, kept.neurons_per_layer, m) for m in MULTIPLES}
        for batch in (1, 32):
            rows = torch.randint(1000, 30000, (batch, TOKENS))
            passes = {multiple: partial(model, rows) for multiple, model in models.items()}
            with torch.inference_mode():
                found = interleave(passes, 800 // (batch + 7), 2, synchronise)
            seconds = {multiple: statistics.median(values) for multiple, values in found.items()}
            for multiple, value in seconds.items():
                width = sum(mlp.units for mlp in find_blocks(models[multiple]).mlps)
                ratio = value / seconds[1]
                lines.append((sparsity, multiple, batch, width, round(1000 * value, 3), round(ratio, 3)))
    write(out, COLUMNS, lines)


if __name__ == "__main__":
    main()
