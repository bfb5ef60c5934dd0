"""What a step of each method costs beside a plain one, what an event costs, and how quickly the command line starts.

Everything is timed in turns on a random model of MiniLM's size, in one process and on one thread: ratios carry over to
other machines, seconds don't. Run it with `make bench` (a minute and a half of one core); for more steps,
`python -m benchmarks.bench --steps N`. A line is seconds and their ratio to a plain step:

    target 80 %, after the last event          0.424    0.28
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.optim import AdamW
from transformers import BertConfig, BertForSequenceClassification

from neuroprune import L1, Dense, NeuroPrune, Run

ROWS, TOKENS = 16, 32
TOTAL = 1000  # steps that the schedules believe in
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


class Loop:
    """A training loop in which a method stands just before step `first`."""

    def __init__(self, method: object, first: int) -> None:
        torch.manual_seed(0)
        self.model = BertForSequenceClassification(
            BertConfig(**SIZES)
        ).train()  # a cut model's configuration is its own
        self.optimizer = AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.batch = {"input_ids": torch.randint(0, 30000, (ROWS, TOKENS)), "labels": torch.randint(0, 2, (ROWS,))}
        self.method = method
        self.run = Run(self.model, self.optimizer, total_steps=TOTAL, steps_per_epoch=TOTAL, step=first)
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
    """Call all by turns; return the median seconds of each, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(rounds + 1):
        for name, step in loops.items():
            taken = step()
            if round_:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def after_last_event(sparsity: float) -> Loop:
    """A loop whose model has just been cut for the last time."""
    method = NeuroPrune(sparsity=sparsity, start=0.009, end=0.01, events=1)
    loop = Loop(method, 0)
    while loop.run.step < 10:
        loop.step()
    return loop


def steps(rounds: int) -> None:
    """Print what a step costs, in plain steps."""
    window = 0.5  # the only event lies far behind the window that is timed
    loops = {
        "plain": Loop(Dense(), 0),
        "penalty, coupled": Loop(NeuroPrune(alpha=1e-4, beta=1e-4), 0),
        "penalty, decoupled": Loop(NeuroPrune(alpha=1.0, beta=1.0, mode="decoupled"), 0),
        "l1, coupled": Loop(L1(strength=1e-4), 0),
        "target, outside a window": Loop(NeuroPrune(sparsity=0.8), 0),
        "target, in a window": Loop(
            NeuroPrune(sparsity=0.8, start=window, end=window, events=1, calibration_rows=TOTAL * 32), 0
        ),
        "target 50 %, after the last event": after_last_event(0.5),
        "target 80 %, after the last event": after_last_event(0.8),
        "target 90 %, after the last event": after_last_event(0.9),
    }
    seconds = in_turns({name: loop.step for name, loop in loops.items()}, rounds)
    report("A training step", seconds, seconds["plain"])
    report("An event (choice, fold, cut)", {"80 % at once": event(0.8) - seconds["plain"]}, seconds["plain"])


def event(sparsity: float) -> float:
    """Seconds of a step with an event in it."""
    loop = Loop(NeuroPrune(sparsity=sparsity, start=0.003, end=0.003, events=1, calibration_rows=64), 0)
    return [loop.step() for _ in range(3)][-1]


def commands(rounds: int) -> None:
    """Print how long commands take that must not import torch, beside one that does."""
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
    report("A command", seconds, seconds["python -c 'import torch'"])


def report(title: str, seconds: dict[str, float], unit: float) -> None:
    """Print seconds and their ratio to a unit."""
    print(f"\n{title:<40}{'seconds':>10}{'ratio':>8}")
    for name, value in seconds.items():
        print(f"  {name:<38}{value:>10.3f}{value / unit:>8.2f}", flush=True)


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each method (default 5)")
    rounds = parser.parse_args().steps
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {ROWS} rows of {TOKENS} tokens, medians of {rounds}")
    steps(rounds)
    commands(rounds)


if __name__ == "__main__":
    main()
