"""Comparison of settings of NeuroPrune-FC in paired runs that share all steps up to the first difference.

Each run is a bare loop around the library's hooks. Runs of one task and seed have the same initialisation, batches and
dropout; the process forks where a method starts its measurements, so that earlier steps are trained once. In addition
to the task's evaluation rows (dev), models are evaluated on thousands of training rows unseen by all of them (pool).
`--beginning head_first` fits the classifier before the first step in all variants; `longer` trains for the same
additional cost; `dense_cost` trains pruned models on until the run has cost as much as dense fine-tuning; `frozen`
never trains the word embeddings. Runs that are already in the table are not repeated: an interrupted command can be
restarted.

    python -m benchmarks.research --task movie_512 --seeds 0 1 2 --variants usual late taylor --out runs.csv
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import set_seed

from benchmarks.variants import NO_DROPOUT, VARIANTS, build
from neuroprune import Dense, Run, tasks
from neuroprune.config.catalogue import read_catalogue
from neuroprune.config.methods.base import EventSettings
from neuroprune.config.settings import ModelSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.methods import linear_probe
from neuroprune.methods.callback import Method
from neuroprune.methods.components.dropout import ScaledDropout
from neuroprune.models import sources
from neuroprune.pruning.sparsity import event_steps, measure_sparsity
from neuroprune.training.budget import EqualCost, count_flops, model_size

COLUMNS = (
    *("task", "rows", "steps", "beginning", "variant", "method", "setting changed", "seed", "asked", "sparsity"),
    *("metric dev", "metric pool", "heads removed", "cpu seconds", "commit"),
)
RATE, WARMUP = 1.5e-4, 0.06
BEGINNINGS = ("usual", "head_first", "longer", "dense_cost", "frozen")
DENSE_COST = 10  # largest factor on the number of epochs at the cost of dense fine-tuning


@dataclass(frozen=True)
class Plan:
    """Numbers of training rows, of further training rows for evaluation, of rows per step, and of epochs.

    Args:
        rows: Training rows.
        pool: Rows of the training split used only for evaluation.
        batch: Rows per step.
        epochs: Passes.
        source: Keys of `TaskSettings`.
    """

    rows: int
    pool: int
    batch: int
    epochs: int
    source: dict[str, Any]


SNIPPETS = {"source": "demo", "config": "movie_snippets", "inputs": ["sentence"], "max_length": 64}
SST2 = {"source": "nyu-mll/glue", "config": "sst2", "inputs": ["sentence"]}
SICK = {
    "source": "nyu-mll/glue",
    "config": "mnli",
    "inputs": ["premise", "hypothesis"],
    "eval_split": "validation_matched",
}
MRPC = {"source": "nyu-mll/glue", "config": "mrpc", "inputs": ["sentence1", "sentence2"]}
PLANS = {
    "movie_512": Plan(512, 2500, 8, 1, SNIPPETS),
    "movie_512_8": Plan(512, 2500, 8, 8, SNIPPETS),
    "sst2_1000": Plan(1000, 3000, 16, 2, SST2),
    "sst2_1000_8": Plan(1000, 3000, 16, 8, SST2),
    "sst2_1000_16": Plan(1000, 3000, 16, 16, SST2),
    "sst2_512": Plan(512, 3000, 8, 1, SST2),
    "sst2_6000": Plan(6000, 3000, 32, 2, SST2),
    "sick_1500": Plan(1500, 3000, 16, 2, SICK),
    "mrpc_1600": Plan(1600, 2068, 16, 2, MRPC),
}


def last_event(total: int) -> int:
    """Return the step of the last event with the default schedule."""
    usual = EventSettings()
    return max(event_steps(total, usual.start, usual.end, usual.events))


class Bench:
    """A task's rows, read and encoded once."""

    def __init__(self, name: str, data_root: Path) -> None:
        self.name, self.plan = name, PLANS[name]
        rows = self.plan.rows + self.plan.pool
        self.data = tasks.load(TaskSettings(name=name, train_rows=rows, **self.plan.source), data_root)
        self.objective = self.data.objective(*self.model(seed=0))
        encoded = list(self.objective.encode(self.data.train))
        self.train, self.pool = encoded[: self.plan.rows], encoded[self.plan.rows :]
        self.dev = list(self.objective.encode(self.data.eval))

    @cached_property
    def source(self) -> ModelSettings:
        """MiniLM-L6 as in the catalogue."""
        return ModelSettings(name="minilm", **read_catalogue(Path("config")).models["minilm"])

    def model(self, seed: int) -> tuple[Any, Any]:
        """Return the pretrained model with a new classifier, and its tokenizer."""
        return sources.load(self.source, self.data, seed=seed)

    def batches(self, seed: int, factor: int = 1) -> list[list[int]]:
        """Return the positions of the rows of every step, for `factor` times the plan's epochs."""
        generator, batch = torch.Generator().manual_seed(seed), self.plan.batch
        orders = [torch.randperm(len(self.train), generator=generator) for _ in range(factor * self.plan.epochs)]
        return [rows.tolist() for order in orders for rows in order.split(batch)]

    @torch.no_grad()
    def accuracy(self, model: Any, rows: list[dict[str, Any]]) -> float:
        """Return the accuracy, with rows batched by length."""
        rows = sorted(rows, key=lambda row: len(row["input_ids"]))
        model.eval()
        right = 0
        for first in range(0, len(rows), 64):
            batch = self.objective.collate(rows[first : first + 64])
            right += int((self.objective.answer(model, **batch).argmax(-1) == batch["labels"]).sum())
        return right / len(rows)


class Training:
    """Common run of a task and seed, from which others branch off."""

    def __init__(self, bench: Bench, seed: int, beginning: str = "usual") -> None:
        self.bench, self.seed, self.batches, self.seconds = bench, seed, bench.batches(seed), 0.0
        self.beginning, self.dropout_until = beginning, math.inf
        if beginning == "longer":
            self.batches += self.batches[: head_steps(bench.plan)]
        total = len(self.batches)
        if beginning == "dense_cost":
            self.batches = bench.batches(seed, DENSE_COST)
        set_seed(seed)
        self.model = bench.model(seed)[0]
        if beginning == "head_first":
            started = time.process_time()
            linear_probe.fit_head(self.model, self.head_batches())
            self.seconds = time.process_time() - started
        if beginning == "frozen":
            self.model.get_input_embeddings().requires_grad_(False)
        self.model.train()
        set_seed(seed)
        optimizer = AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
        self.plan = EqualCost(total, math.ceil(WARMUP * total), [[0, self.flops()]], model_size(self.model))
        self.scheduler = LambdaLR(optimizer, self.plan.rate)
        per_epoch = total // bench.plan.epochs
        self.run = Run(self.model, optimizer, self.scheduler, total, per_epoch, batch_size=bench.plan.batch)

    def head_batches(self) -> Iterator[dict[str, Any]]:
        """Collate the rows in their order, 64 at a time."""
        rows, collate = self.bench.train, self.bench.objective.collate
        return (collate(rows[first : first + 64]) for first in range(0, len(rows), 64))

    def go_on(self, until: int | None = None, method: Method | None = None) -> None:
        """Train up to this number of steps, or to the end."""
        started = time.process_time()
        while self.run.step < (self.plan.end if until is None else until):
            self._step(method)
        self.seconds += time.process_time() - started

    def _step(self, method: Method | None) -> None:
        batch = self.bench.objective.collate([self.bench.train[i] for i in self.batches[self.run.step]])
        self.model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if method is not None:
            method.before_step(self.run)
        self.run.optimizer.step()
        self.run.step += 1
        if method is not None:
            method.after_step(self.run)
        if self.run.step == self.dropout_until:
            ScaledDropout(0.0).begin(self.model)
        if self.beginning == "dense_cost":
            self.plan.follow(self.run.step, self.model, self.flops)
        self.scheduler.step()
        self.run.optimizer.zero_grad()

    def flops(self) -> int:
        """Return the operations of a forward pass over the first rows of the task."""
        batch = self.bench.objective.collate(self.bench.train[: self.bench.plan.batch])
        return count_flops(self.model, lambda: self.model(**batch))

    def branch(self, name: str, method: Method, out: Path) -> None:
        """Train to the end with a method, evaluate, and add a line to the table."""
        if name.endswith(NO_DROPOUT):
            self.dropout_until = last_event(self.run.total_steps)
        method.start(self.run)
        self.go_on(method=method)
        method.finish(self.run)
        bench, asked = self.bench, cast(Any, method.settings)
        values: list[Any] = [bench.name, len(bench.train), self.run.step, self.beginning, name, asked.name]
        values += [changes(VARIANTS[name][1]), self.seed, getattr(asked, "sparsity", "")]
        values += [round(measure_sparsity(self.model).weights, 4)]
        values += [round(bench.accuracy(self.model, rows), 4) for rows in (bench.dev, bench.pool)]
        events = method.report.get("events", [])
        add_line(out, [*values, events[-1]["heads_removed"] if events else "", round(self.seconds, 1), commit()])


def head_steps(plan: Plan) -> int:
    """Return the number of steps with the cost of fitting the head, counting a forward pass as a third of a step."""
    return math.ceil(min(linear_probe.ROWS, plan.rows) / 3 / plan.batch)


def changes(fields: dict[str, Any]) -> str:
    """Write fields as `key=value`, separated by spaces."""
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )


def add_line(out: Path, values: Sequence[Any]) -> None:
    """Append a line to the table, with a header if it is new."""
    new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, values] if new else [values])


def commit() -> str:
    """Return the abbreviated commit of the code."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def first_watched(name: str, method: Method, total: int, batch: int) -> int:
    """Return the step from which a run of this variant differs from the common run."""
    asked: Any = method.settings
    if isinstance(method, Dense):
        return last_event(total) - 1 if name.endswith(NO_DROPOUT) else total
    window = -(-getattr(asked, "calibration_rows", 0) // batch)
    return max(0, min(event_steps(total, asked.start, asked.end, asked.events)) - window)


def finished(out: Path) -> set[tuple[str, ...]]:
    """Return task, beginning, variant, seed and target sparsity of every run in the table."""
    if not out.exists():
        return set()
    with out.open(newline="") as file:
        keys = ("task", "beginning", "variant", "seed", "asked")
        return {tuple(row[key] for key in keys) for row in csv.DictReader(file)}


def train_all(bench: Bench, seed: int, names: Sequence[str], sparsity: float, out: Path, beginning: str) -> None:
    """Train all variants of a task and seed, each in a fork of the common run."""
    built, done = [(name, build(name, sparsity)) for name in names], finished(out)
    keys = {
        name: (bench.name, beginning, name, str(seed), str(getattr(method.settings, "sparsity", "")))
        for name, method in built
    }
    built = [(name, method) for name, method in built if keys[name] not in done]
    if not built:
        return
    common, batch = Training(bench, seed, beginning), bench.plan.batch
    total = common.run.total_steps
    for name, method in sorted(built, key=lambda pair: first_watched(*pair, total, batch)):
        common.go_on(first_watched(name, method, total, batch))
        fork = get_context("fork").Process(target=common.branch, args=(name, method, out))
        fork.start()
        fork.join()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=PLANS, required=True)
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=["usual", "taylor", "late"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8])
    parser.add_argument("--beginning", choices=BEGINNINGS, default="usual")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"), help="as in config/inhouse.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs.csv"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        bench = Bench(asked.task, asked.data_root)
    except UserError as error:
        sys.exit(str(error))
    for seed in asked.seeds:
        for sparsity in asked.sparsity:
            train_all(bench, seed, asked.variants, sparsity, asked.out, asked.beginning)


if __name__ == "__main__":
    main()
