"""Check that the files of a run's folder agree with each other: record, arrays, predictions and times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash
from neuroprune.results.records import PREDICTIONS, ROUNDING, RunRecord, TimingRecord, read_arrays

CLASSES = 256  # of one byte
REMEDY = "restore the file, or delete run.json beside it and run again"


def changed_files(folder: Path, run: RunRecord) -> list[str]:
    """Return one warning per array file that is missing or whose content differs from the hash in the record."""
    problems = []
    for path, wanted in {folder / name: wanted for name, wanted in run.result.files.items()}.items():
        if not path.is_file():
            problems.append(f"{path}: is missing, although run.json names it; {REMEDY}.")
        elif file_hash(path) != wanted:
            problems.append(f"{path}: differs from the file that the run wrote (SHA-256 in run.json); {REMEDY}.")
    return problems


def check_metrics(path: Path, run: RunRecord) -> None:
    """Raise UserError if a metric contradicts the stored predictions or the last logged evaluation.

    Records of older versions and of tasks without classes have no predictions; their metrics are compared with the
    logged ones only.

    Args:
        path: The record's file.
        run: The record.

    Raises:
        UserError: If there is a contradiction, or the predictions are not those of the evaluation rows.
    """
    result, predictions = run.result, path.with_name(PREDICTIONS)
    _compare(path, run, _logged(run), "the evaluation in result.history")
    if predictions.is_file() and result.files.get(PREDICTIONS) == file_hash(predictions):
        _compare(path, run, _computed(predictions, result.eval_rows), f"its {PREDICTIONS}")


def _compare(path: Path, run: RunRecord, values: Mapping[str, float], source: str) -> None:
    for name, stated in run.result.metrics.items():
        if stated is None or name not in values or math.isclose(stated, values[name], abs_tol=ROUNDING):
            continue
        raise UserError(
            f"{path}: result.metrics.{name} is {stated:g}, but {source} gives {values[name]:g}; it was edited after "
            "the run. Restore the file, or delete it and run again."
        )


def _logged(run: RunRecord) -> dict[str, float]:
    """Return the metrics of the last evaluation in the history; empty for a diverged run."""
    evaluations = [entry for entry in run.result.history if f"eval_{run.result.metric}" in entry]
    last = evaluations[-1] if evaluations else {}
    return {key.removeprefix("eval_"): value for key, value in last.items() if value is not None}


def _computed(path: Path, rows: int) -> dict[str, float]:
    """Compute the classification metrics from predicted and true classes."""
    arrays = read_arrays(path)
    found = [arrays.get(name, np.array([])) for name in ("predicted", "true")]
    if any(array.shape != (rows,) or array.dtype != np.uint8 for array in found):
        raise UserError(f"{path}: does not contain the classes of {rows} rows, as run.json says; {REMEDY}.")
    counts = _confusion(*found)
    return {name: metric(counts) for name, metric in METRICS.items()}


def _confusion(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Count rows by true and predicted class, float ``[CLASSES, CLASSES]``."""
    pairs = true.astype(int) * CLASSES + predicted
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES).astype(float)


def _accuracy(counts: np.ndarray) -> float:
    return float(counts.trace() / counts.sum())


def _f1(counts: np.ndarray) -> float:
    """Return F1 of class 1; 0 if the class is neither present nor predicted."""
    both = counts[1].sum() + counts[:, 1].sum()
    return float(2 * counts[1, 1] / both) if both else 0.0


def _matthews(counts: np.ndarray) -> float:
    """Return Matthews' correlation coefficient of any number of classes; 0 if one side has a single class."""
    rows, true, predicted = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    scale = math.sqrt((rows**2 - true @ true) * (rows**2 - predicted @ predicted))
    return float((rows * counts.trace() - true @ predicted) / scale) if scale else 0.0


METRICS: Mapping[str, Callable[[np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
}


def check_times(path: Path, run: RunRecord) -> None:
    """Raise UserError if evaluation took longer than the training that includes it."""
    evaluation, training = run.result.eval_seconds, run.result.train_seconds
    if evaluation > training:
        raise UserError(
            f"{path}: result.eval_seconds {evaluation:g} exceeds result.train_seconds {training:g}, which includes it; "
            "it was edited after the run. Restore the file, or delete it and run again."
        )


def wrong_times(run: RunRecord, timing: TimingRecord) -> str:
    """Describe how a timing contradicts the record of its run or its own settings; return an empty string if not."""
    sizes, wanted = [batch.batch_size for batch in timing.batches], list(timing.settings.batch_sizes)
    if sizes not in ([], wanted):
        return f"times of batch sizes {sizes} instead of {wanted}, those of its settings"
    measured = [times for batch in timing.batches for times in (batch.ms_per_example, batch.dense_ms_per_example)]
    if any(times.q1 == 0 for times in measured):
        return "a time of 0 ms, which no pass takes"
    return timed_another(run, timing)


def timed_another(run: RunRecord, timing: TimingRecord) -> str:
    """Describe how a timing contradicts the record of its run; return an empty string if they match."""
    sizes = run.result.sparsity
    pairs = {
        "run": (timing.run, run.run),
        "data": (timing.environment.data_sha256, run.environment.data_sha256),
        "parameters": (timing.parameters, sizes.parameters),
        "dense parameters": (timing.dense_parameters, sizes.dense_parameters),
    }
    differences = [
        f"{name} {ours} instead of {wanted}" for name, (ours, wanted) in pairs.items() if ours not in (None, wanted)
    ]
    return f"times of another model ({', '.join(differences)})" if differences else ""
