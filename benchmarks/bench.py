"""Cost of each method's training steps, of an event, of whole runs with peak memory, and of starting a command.

Steps are timed alternately on a random model of MiniLM's size, in one process and on one thread; ratios are valid for
other machines, seconds are not. Whole runs use separate processes and are measured in processor time. `make bench`
takes about five minutes of one core; `python -m benchmarks.bench --steps N` times more steps. Each line contains
seconds and their ratio to a plain step:

    target 80 %, after the last event          0.424    0.28
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measurements import write
from neuroprune import L1, Dense, NeuroPrune, Run, Taylor

ROWS, TOKENS = 16, 32
TOTAL = 1000  # total steps assumed by the schedules
COLUMNS = ("benchmark", "case", "unit", "value", "ratio")
Line = tuple[str, str, str, float, float]
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


class Loop:
    """A training loop with a method that has completed all steps before `first`."""

    def __init__(self, method: object, first: int, total: int = TOTAL, rows: int = ROWS, tokens: int = TOKENS) -> None:
        torch.manual_seed(0)
        self.model = BertForSequenceClassification(
            BertConfig(**SIZES)
        ).train()  # a cut model's configuration is its own
        self.optimizer = AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.batch = {"input_ids": torch.randint(0, 30000, (rows, tokens)), "labels": torch.randint(0, 2, (rows,))}
        self.method = method
        sizes = {"total_steps": total, "steps_per_epoch": total, "batch_size": rows, "step": first}
        self.run = Run(self.model, self.optimizer, **sizes)
        method.start(self.run)

    def step(self) -> float:
        """Take a step; return its seconds."""
        started = time.perf_counter()
        self.model(**self.batch).loss.backward()
        self.method.before_step(self.run)
        self.optimizer.step()
        self.run.step += 1
        self.method.after_step(self.run)
        self.optimizer.zero_grad()
        return time.perf_counter() - started


def in_turns(loops: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call functions alternately; return the median seconds of each, excluding the first round."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(rounds + 1):
        for name, step in loops.items():
            taken = step()
            if round_:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def after_last_event(sparsity: float) -> Loop:
    """Return a loop right after the last event."""
    method = NeuroPrune(sparsity=sparsity, start=0.009, end=0.01, events=1)
    loop = Loop(method, 0)
    while loop.run.step < 10:
        loop.step()
    return loop


def steps(rounds: int) -> list[Line]:
    """Measure the cost of a step relative to a plain step."""
    window: dict[str, Any] = {"start": 0.5, "end": 0.5, "events": 1, "calibration_rows": TOTAL * 32}  # until much later
    loops = {
        "plain": Loop(Dense(), 0),
        "penalty, coupled": Loop(NeuroPrune(alpha=1e-4, beta=1e-4), 0),
        "penalty, decoupled": Loop(NeuroPrune(alpha=1.0, beta=1.0, mode="decoupled"), 0),
        "l1, coupled": Loop(L1(strength=1e-4), 0),
        "target, outside a window": Loop(NeuroPrune(sparsity=0.8), 0),
        "target, in a window": Loop(NeuroPrune(sparsity=0.8, **window), 0),
        "target, in a window, least squares": Loop(NeuroPrune(sparsity=0.8, fold=True, **window), 0),
        "target 50 %, after the last event": after_last_event(0.5),
        "target 80 %, after the last event": after_last_event(0.8),
        "target 90 %, after the last event": after_last_event(0.9),
    }
    seconds = in_turns({name: loop.step for name, loop in loops.items()}, rounds)
    lines = report("A training step", seconds, seconds["plain"])
    cut = {
        "80 % at once": event(0.8) - seconds["plain"],
        "80 % at once, least squares": event(0.8, fold=True) - seconds["plain"],
    }
    return lines + report("An event (choice, fold, cut)", cut, seconds["plain"])


def event(sparsity: float, **fields: Any) -> float:
    """Return the seconds of a step with an event."""
    loop = Loop(NeuroPrune(sparsity=sparsity, start=0.003, end=0.003, events=1, calibration_rows=64, **fields), 0)
    return [loop.step() for _ in range(3)][-1]


def whole_runs(total: int) -> list[Line]:
    """Measure the processor time and the peak memory of whole runs, which contain three windows of calibration."""
    methods = {"dense": Dense()}
    for percent in (50, 80):
        methods[f"target {percent} %, least squares"] = NeuroPrune(sparsity=percent / 100, fold=True)
        methods[f"target {percent} %, means"] = NeuroPrune(sparsity=percent / 100, fold="means")
    methods |= {"target 80 %, no fold": NeuroPrune(sparsity=0.8, fold=False), "Taylor 80 %": Taylor(sparsity=0.8)}
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {name: pool.apply(_whole_run, (method, total, SIZES)) for name, method in methods.items()}
        compared = ("dense", "target 80 %, least squares", "target 80 %, means")
        large = {name: pool.apply(_whole_run, (methods[name], 12, SIZES, 32, 128))[1] for name in compared}
    seconds = {name: taken for name, (taken, _) in found.items()}
    memory = {name: peak for name, (_, peak) in found.items()}
    lines = report(f"A run of {total} steps", seconds, seconds["dense"])
    lines += report("Peak memory of a run", memory, memory["dense"], unit_name="MB")
    return lines + report("Peak memory, 32 rows of 128 tokens", large, large["dense"], unit_name="MB")


def _whole_run(
    method: object, total: int, sizes: dict[str, int], rows: int = ROWS, tokens: int = TOKENS
) -> tuple[float, float]:
    """Train from the first step to the last; return processor seconds and the process's peak memory in MB."""
    torch.set_num_threads(1)
    SIZES.update(sizes)
    loop = Loop(method, 0, total, rows, tokens)
    started = time.process_time()
    for _ in range(total):
        loop.step()
    return time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def commands(rounds: int) -> list[Line]:
    """Measure the times of commands that must not import torch, and of one that does."""
    lines = {
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "neuroprune --help": [sys.executable, "-m", "neuroprune.cli", "--help"],
        "neuroprune plan": [sys.executable, "-m", "neuroprune.cli", "plan", "--config", "config/config.yaml"],
    }

    def timed(line: list[str]) -> Callable[[], float]:
        """Return a function that runs a command line and returns its seconds."""

        def run() -> float:
            started = time.perf_counter()
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

        return run

    seconds = in_turns({name: timed(line) for name, line in lines.items()}, rounds)
    return report("A command", seconds, seconds["python -c 'import torch'"])


def report(title: str, seconds: dict[str, float], unit: float, unit_name: str = "seconds") -> list[Line]:
    """Print and return seconds or megabytes, and their ratio to a unit."""
    print(f"\n{title:<40}{unit_name:>10}{'ratio':>8}")
    for name, value in seconds.items():
        print(f"  {name:<38}{value:>10.3f}{value / unit:>8.2f}", flush=True)
    return [(title, name, unit_name, round(value, 4), round(value / unit, 3)) for name, value in seconds.items()]


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each method (default 5)")
    parser.add_argument("--run-steps", type=int, default=200, help="steps of a whole run (default 200)")
    parser.add_argument("--out", type=Path, help="csv file for the measurements")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {ROWS} rows of {TOKENS} tokens, medians of {asked.steps}")
    lines = whole_runs(asked.run_steps)  # first: a child process inherits its parent's peak memory
    lines += steps(asked.steps) + commands(asked.steps)
    if asked.out is not None:
        write(asked.out, COLUMNS, lines)


if __name__ == "__main__":
    main()
