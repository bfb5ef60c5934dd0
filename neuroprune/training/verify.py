"""Verification of published runs: retrain them and compare the results with their records."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroprune import tasks
from neuroprune.config.versions import is_earlier, named
from neuroprune.errors import UserError
from neuroprune.files.temporary import temporary_folder
from neuroprune.models import sources
from neuroprune.results.manifests import teacher_hash
from neuroprune.results.records import Result, RunRecord, read_record
from neuroprune.training.run import train

STANDARD_ERRORS = 2.0  # tolerance of metrics for other machines and versions, in standard errors
SPARSITY = 0.005
LOSS_SD = 0.5  # assumed standard deviation of the rows' losses in nats, for perplexity


@dataclass(frozen=True)
class Check:
    """Result of retraining one run.

    Args:
        text: A sentence for the user.
        matches: Whether everything is within its tolerance; None if the run could not be retrained.
    """

    text: str
    matches: bool | None


def choose(study_dirs: Sequence[Path], number: int, seed: int | None = None) -> list[Path]:
    """Choose finished runs at random.

    Args:
        study_dirs: Folders of studies.
        number: Number of runs.
        seed: Seed of the choice; None for a different choice each time.

    Returns:
        At most ``number`` records, ``run.json``.

    Raises:
        UserError: If there is no finished run, or a record is damaged.
    """
    paths = [path for study in study_dirs for path in sorted(Path(study).glob("runs/*/run.json"))]
    done = [path for path in paths if read_record(path).status == "done"]
    if number < 1:
        raise UserError(f"--number: {number} is not allowed; it must be at least 1")
    if not done:
        places = ", ".join(map(str, study_dirs)) or "results/published"
        raise UserError(f"{places}: no finished run (runs/*/run.json); give another study.")
    return random.Random(seed).sample(done, min(number, len(done)))


def verify(paths: Sequence[Path], data_root: Path) -> Iterator[Check]:
    """Retrain runs one after another, each in a temporary folder.

    Args:
        paths: Their records.
        data_root: Folder of the datasets.

    Yields:
        The result of each run, as soon as it is available.
    """
    for path in paths:
        record = read_record(path)
        version = f" ({named(record.settings.method)})" if is_earlier(record.settings.method) else ""
        where = f"{path.parents[2].name}/{record.run}{version}"
        if missing := absent(record, data_root):
            yield Check(f"{where}: not retrained, {missing}", None)
            continue
        with temporary_folder("neuroprune-verify-") as folder:
            train(record.settings, folder / "run.json", data_root)
            again = read_record(folder / "run.json")
        texts = compare(record.result, again.result) if again.status == "done" else {"the run diverged": False}
        yield Check(f"{where}: {'; '.join(texts)}", all(texts.values()))


def absent(record: RunRecord, data_root: Path) -> str:
    """Return the reason why a run cannot be repeated here: its data or model are missing or different."""
    try:
        data, model = tasks.load(record.settings.task, data_root), sources.prepare(record.settings.model)
    except UserError as error:
        return str(error)
    pairs = {
        "data": (record.environment.data_sha256, data.sha256),
        "model": (record.environment.model_sha256, model["sha256"]),
        "teacher": (record.environment.teacher_sha256, teacher_hash(record.settings)),
    }
    other = [name for name, (wanted, found) in pairs.items() if wanted not in (None, found)]
    return f"its {' and '.join(other)} differ from those of the original run (SHA-256)" if other else ""


def compare(published: Result, again: Result) -> dict[str, bool]:
    """Compare metrics and sparsity of two results of the same settings.

    Args:
        published: The published result.
        again: The new result.

    Returns:
        A description of each number and whether it is within its tolerance: for metrics, two standard errors of a
        proportion over the evaluated rows; for perplexity, the exponential of two standard errors of the loss, which
        assumes a standard deviation of 0.5 nats over these rows; for sparsity, half a percentage point.
    """
    metrics = {
        name: (value, again.metrics.get(name), _tolerance(name, value, published.eval_rows))
        for name, value in published.metrics.items()
        if value is not None and name != "loss"
    }
    weights = (published.sparsity.weights, again.sparsity.weights, SPARSITY)
    return dict(_compared(name, *numbers) for name, numbers in {**metrics, "sparsity": weights}.items())


def _tolerance(name: str, value: float, rows: int) -> float:
    """Return two standard errors of a perplexity, or of a proportion but at least one row, over this many rows."""
    if name.endswith("perplexity"):
        return value * math.expm1(STANDARD_ERRORS * LOSS_SD / math.sqrt(rows))
    spread = max(0.0, value * (1 - value))
    return max(1 / rows, STANDARD_ERRORS * math.sqrt(spread / rows))


def _compared(name: str, published: float, again: float | None, tolerance: float) -> tuple[str, bool]:
    """Describe whether a number is equal, within its tolerance, or different."""
    if again is None:
        return f"{name} {published:.4f} published, none now", False
    if again == published:
        return f"{name} {published:.4f}, equal", True
    matches = abs(again - published) <= tolerance
    verdict = "within" if matches else "NOT within"
    return f"{name} {published:.4f} published, {again:.4f} now, {verdict} ± {tolerance:.4f}", matches
