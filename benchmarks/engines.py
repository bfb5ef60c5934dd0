"""Inference of a study's models by engine: torch, torch.compile, onnxruntime, and onnxruntime with 8-bit weights.

Every model is run on the same rows of its task's evaluation split with every engine, on one thread. Engines and models
alternate, so that other load on the machine affects all of them. The speed-up is relative to the dense model in torch.
Accuracy is computed over the whole split.

    python -m benchmarks.engines --study results/sst2 --runs minilm-sst2-dense-s0 minilm-sst2-neuroprune-80-s0
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

from neuroprune import tasks
from neuroprune.files.atomic import write_text
from neuroprune.models import pretrained
from neuroprune.models.export import export, onnx
from neuroprune.models.export.engine import INT8_FILE
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.results.environment import environment
from neuroprune.results.plain_text import csv_text
from neuroprune.results.records import RunRecord, read_record

BATCHES = {1: 16, 32: 4}
"""Batch size -> number of timed batches."""
COLUMNS = (
    *("run", "sparsity", "engine", "batch", "parameters", "flops", "accuracy", "milliseconds", "speed-up"),
    *("rounds", "commit", "cpu", "torch", "onnxruntime"),
)
Inputs = dict[str, Tensor]
Engine = Callable[[Inputs], Tensor]


def engines(model: Any, files: Path) -> dict[str, Engine]:
    """Return functions that compute a model's logits, by engine.

    Args:
        model: In eval mode.
        files: A folder with its ONNX files.

    Returns:
        Functions of a batch.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(files / file, options, providers=["CPUExecutionProvider"])
        for name, file in (("onnx", onnx.FILE), ("onnx int8", INT8_FILE))
    }
    compiled = torch.compile(model, dynamic=True)
    ran: dict[str, Engine] = {name: partial(_run_session, session) for name, session in sessions.items()}
    return {"torch": partial(_run_model, model), "torch.compile": partial(_run_model, compiled), **ran}


def _run_model(model: Any, batch: Inputs) -> Tensor:
    return model(**batch).logits


def _run_session(session: onnxruntime.InferenceSession, batch: Inputs) -> Tensor:
    names = [node.name for node in session.get_inputs()]
    return torch.from_numpy(session.run(["logits"], {name: batch[name].numpy() for name in names})[0])


class Bench:
    """The models of a study's runs, with their engines and rows."""

    def __init__(self, folder: Path, data_root: Path, scratch: Path) -> None:
        self.record: RunRecord = read_record(folder / "run.json")
        data = tasks.load(self.record.settings.task, data_root)
        self.model = pretrained.from_pretrained(folder / "model").eval()
        self.objective = data.objective(self.model, AutoTokenizer.from_pretrained(folder / "model"))
        self.rows = sorted(self.objective.encode(data.eval), key=lambda row: len(row["input_ids"]))
        export(folder / "model", "onnx", scratch / folder.name, int8=True)
        self.engines = engines(self.model, scratch / folder.name)

    def batches(self, size: int) -> list[Inputs]:
        """Return batches of rows of similar length, spread over all lengths."""
        starts = range(0, len(self.rows) - size, (len(self.rows) - size) // BATCHES[size])
        return [self._collate(self.rows[start : start + size]) for start in list(starts)[: BATCHES[size]]]

    def accuracy(self, engine: Engine) -> float:
        """Return an engine's accuracy on the evaluation split."""
        right = 0
        for start in range(0, len(self.rows), 32):
            rows = self.rows[start : start + 32]
            labels = torch.tensor([row["labels"] for row in rows])
            right += int((engine(self._collate(rows)).argmax(-1) == labels).sum())
        return right / len(self.rows)

    def flops(self) -> int:
        """Return the floating-point operations of one batch of 32 rows."""
        with FlopCounterMode(display=False) as counter:
            self.model(**self.batches(32)[-1])
        return counter.get_total_flops()

    def _collate(self, rows: list[dict[str, Any]]) -> Inputs:
        batch = self.objective.collate(rows)
        return {name: value for name, value in batch.items() if name != "labels"}


def timed(benches: list[Bench], size: int, rounds: int) -> dict[tuple[str, str], float]:
    """Return the median seconds of a batch for each run and engine; all alternate, after two warm-up rounds."""
    work = [
        ((bench.record.run, name), engine, bench.batches(size))
        for bench in benches
        for name, engine in bench.engines.items()
    ]
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key, *_ in work}
    for round_ in range(rounds + 2):
        for key, engine, batches in work:
            started = time.perf_counter()
            for batch in batches:
                engine(batch)
            if round_ > 1:
                seconds[key].append((time.perf_counter() - started) / len(batches))
    return {key: statistics.median(values) for key, values in seconds.items()}


def lines(benches: list[Bench], rounds: int) -> Iterator[tuple[Any, ...]]:
    """Yield the table's lines; the first run is the dense one."""
    judged = {
        (bench.record.run, name): bench.accuracy(engine) for bench in benches for name, engine in bench.engines.items()
    }
    flops = {bench.record.run: bench.flops() for bench in benches}
    for size in BATCHES:
        seconds = timed(benches, size, rounds)
        dense = seconds[benches[0].record.run, "torch"]
        for bench in benches:
            found = measure_sparsity(bench.model)
            for name in bench.engines:
                key = (bench.record.run, name)
                yield (
                    *(key[0], round(found.weights, 4), name, size, found.parameters, flops[key[0]]),
                    *(round(judged[key], 4), round(1000 * seconds[key], 3), round(dense / seconds[key], 2), rounds),
                )


def main() -> None:
    """Read the command line, measure, and write the table and the machine it was made on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="a study's folder, models included")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="the dense one first")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"), help="as in config/sst2.yaml")
    parser.add_argument("--out", type=Path, default=Path("engines.csv"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        benches = [Bench(asked.study / "runs" / run, asked.data_root, Path(scratch)) for run in asked.runs]
        table = list(lines(benches, asked.rounds))
    place = environment(threads=1)
    versions = (place["commit"], place["cpu"], torch.__version__, onnxruntime.__version__)
    write_text(asked.out, csv_text(pd.DataFrame([(*line, *versions) for line in table], columns=COLUMNS)))


if __name__ == "__main__":
    main()
