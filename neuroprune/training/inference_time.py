"""Inference time of a pruned model and its dense counterpart, measured alternately."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroprune import tasks
from neuroprune.config.canonical import settings_hash
from neuroprune.config.settings import TimingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json
from neuroprune.methods.components.latency import interleave, synchronise
from neuroprune.models import pretrained, sources
from neuroprune.results.environment import Environment, environment
from neuroprune.results.records import BatchTiming, Quartiles, RunRecord, TimingRecord, read_record

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]


def measure(timing: TimingSettings, run: Path, output: Path, data_root: Path) -> None:
    """Time the inference of a run's model and of the dense model, and write `timing.json`.

    Both models read the same batches of the evaluation split in the same order. Rows are sorted by length to reduce
    padding, and padded before the measurement. Both models are in float32 unless the settings request another type.
    For a diverged run, the file contains no batches.

    Args:
        timing: Batch sizes, rows per pass, passes, threads.
        run: The run's record, `<run folder>/run.json`; the model is in `model/` in the same folder.
        output: The file to write, atomically.
        data_root: Folder of the datasets.

    Raises:
        UserError: If the record, the model or the data cannot be read.
    """
    started = datetime.now(UTC)
    record = read_record(run)
    with _threads(timing.threads):
        found = _time_both(timing, record, run.parent, data_root) if record.status == "done" else NOTHING
    if not found["batches"]:
        log.warning("%s is %s: there is nothing to time.", record.run, record.status)
    hashes = {"settings_sha256": settings_hash(timing), "data_sha256": record.environment.data_sha256}
    place = Environment(**environment(threads=timing.threads, started=started), **hashes)
    write_json(output, TimingRecord(run=record.run, settings=timing, environment=place, **found))


NOTHING: dict[str, Any] = {"parameters": None, "dense_parameters": None, "batches": []}


def _time_both(timing: TimingSettings, record: RunRecord, folder: Path, data_root: Path) -> dict[str, Any]:
    """Load both models and the rows, and time every batch size."""
    if not (folder / "model").is_dir():
        raise UserError(f"{folder / 'model'}: the run's model no longer exists; train {record.run} again.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = tasks.load(record.settings.task, data_root)
    dense, tokenizer = sources.load(record.settings.model, data, seed=record.settings.seed)
    pair = {"cut": pretrained.from_pretrained(folder / "model"), "dense": dense}
    dtype = torch.bfloat16 if use_bf16(timing.precision) else torch.float32
    pair = {name: model.to(device, dtype).eval() for name, model in pair.items()}
    objective = data.objective(dense, tokenizer)
    answers = {name: partial(objective.answer, model) for name, model in pair.items()}
    rows = objective.encode(data.eval.select(range(min(timing.examples, len(data.eval)))))
    batches = [
        time_batch_size(answers, batch_rows(rows, objective.question, size, device), size, len(rows), timing)
        for size in timing.batch_sizes
    ]
    parameters, dense_parameters = (pair[name].num_parameters() for name in ("cut", "dense"))
    return {"parameters": parameters, "dense_parameters": dense_parameters, "batches": batches}


def batch_rows(rows: Any, question: Callable[..., Batch], size: int, device: torch.device) -> list[Batch]:
    """Sort rows by length, split them into batches, pad each batch to its longest row and move it to the device.

    Args:
        rows: Encoded rows with `input_ids`.
        question: Collates rows without their answers, see `tasks.Objective`.
        size: Rows per batch; the last batch may have fewer.
        device: The models' device.

    Returns:
        Batches of tensors `[rows, tokens]`, shortest rows first.
    """
    features = sorted(rows, key=lambda row: len(row["input_ids"]))
    chunks = (features[start : start + size] for start in range(0, len(features), size))
    return [{name: _on(device, value) for name, value in question(chunk).items()} for chunk in chunks]


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def time_batch_size(
    pair: Mapping[str, Callable[..., Any]], batches: Sequence[Batch], size: int, examples: int, timing: TimingSettings
) -> BatchTiming:
    """Time passes of the pruned and the dense model over the same batches.

    Args:
        pair: Functions that run a model on a batch, named `cut` and `dense`.
        batches: The batches of a pass.
        size: Rows per batch.
        examples: Rows of all batches.
        timing: Number of measured passes, and of warm-up passes before them.

    Returns:
        Milliseconds per example, and the speed-up as the ratio of consecutive passes.
    """
    passes = {name: _one_pass(model, batches) for name, model in pair.items()}
    seconds = interleave(passes, timing.repeats, timing.warmup, synchronise)
    cut, dense = (np.array(seconds[name]) for name in ("cut", "dense"))
    return BatchTiming(
        batch_size=size,
        examples=examples,
        ms_per_example=quartiles(cut * 1000 / examples),
        dense_ms_per_example=quartiles(dense * 1000 / examples),
        speedup=quartiles(dense / cut),
    )


def use_bf16(precision: str) -> bool:
    """Return whether to compute in bf16, which is many times slower than fp32 on CPUs without bf16 units."""
    supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16" or (precision == "auto" and supported)


def quartiles(values: np.ndarray) -> Quartiles:
    """Return median and quartiles (linear interpolation) of at least one number."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return Quartiles(median=float(median), q1=float(q1), q3=float(q3))


def _one_pass(answer: Callable[..., Any], batches: Sequence[Batch]) -> Callable[[], None]:
    """Return a function that runs a model on all batches once."""

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            answer(**batch)

    return run


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use this number of CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
