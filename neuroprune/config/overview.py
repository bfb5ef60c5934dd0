"""Human-readable overview of a plan: runs, experiments, jobs, estimates, and warnings, which a terminal shows last."""

from __future__ import annotations

import textwrap
from itertools import islice

from tabulate import tabulate

from neuroprune.config import gpu_hours, memory, reach
from neuroprune.config.cores import available_cores, too_many_threads
from neuroprune.config.jobs import count_by_experiment, count_by_rule
from neuroprune.config.plan import Plan
from neuroprune.config.study import ExperimentSettings, StudySettings

LISTED = 100
"""Runs listed at most: the list must not push the rest out of the terminal."""

NO_SAFETENSORS = ("facebook/opt-125m", "facebook/opt-1.3b")


def overview(made: Plan) -> str:
    """Return the overview of a plan as text."""
    study = made.study
    right = {"tablefmt": "simple", "disable_numparse": True, "colalign": ("left", *["right"] * 5)}
    experiments = [[name, *_grid(grid, study), len(made.experiments[name])] for name, grid in study.experiments.items()]
    jobs = {"prepare_data": len(study.tasks), "prepare_model": len(study.models)}
    jobs |= count_by_rule(made)
    return "\n\n".join(
        [
            *_runs(made),
            f"Study {study.study}: {len(made.runs)} runs, results in {study.folder}",
            tabulate(experiments, ["experiment", "models", "tasks", "methods", "seeds", "runs"], tablefmt="simple"),
            "Jobs: " + ", ".join(f"{count} {rule}" for rule, count in jobs.items()),
            tabulate(gpu_hours.table(made, count_by_experiment(made)), gpu_hours.COLUMNS, **right),
            textwrap.fill(gpu_hours.BASIS, 120),
            tabulate(memory.table(made), memory.COLUMNS, tablefmt="simple", disable_numparse=True),
            textwrap.fill(memory.BASIS, 120),
            *_reach(made),
            *_without_safetensors(study),
            *(textwrap.fill(sentence, 120) for sentence in too_many_threads(made, available_cores())),
        ]
    )


def _runs(made: Plan) -> list[str]:
    """Return the table of runs; say where the others are if it is limited to the first ones."""
    timed = set(made.timed)
    rows = [
        [name, run.training.epochs, run.training.learning_rate, run.task.train_rows or "all", name in timed or ""]
        for name, run in islice(made.runs.items(), LISTED)
    ]
    table = tabulate(rows, ["run", "epochs", "learning rate", "train rows", "timed"], tablefmt="simple")
    if len(made.runs) <= LISTED:
        return [table]
    return [table, f"… and {len(made.runs) - LISTED:,} more runs: --json prints all, with their settings."]


def _reach(made: Plan) -> list[str]:
    """Return the table of penalty runs with warnings; empty if there are none."""
    rows = reach.table(made)
    if not rows:
        return []
    sentences = [textwrap.fill(sentence, 120) for sentence in reach.warnings(rows)]
    return [tabulate(rows, reach.COLUMNS, tablefmt="simple", disable_numparse=True), *sentences]


def _without_safetensors(study: StudySettings) -> list[str]:
    """Warn about models whose main branch on the hub is known to have no safetensors."""
    names = [name for name, row in study.models.items() if row.source in NO_SAFETENSORS and row.revision is None]
    text = (
        "as far as known, their main branch on the hub has only pickled weights, which are never read. Set `revision` "
        "to a conversion to safetensors (refs/pr/…) if one exists, or save the model as safetensors and set `source` "
        "to its folder."
    )
    return [textwrap.fill(f"Before the first job: {', '.join(names)}: {text}", 120)] if names else []


def _grid(grid: ExperimentSettings, study: StudySettings) -> list[str]:
    """Return the axes of an experiment as text: models, tasks, methods, seeds."""
    methods = (str(entry["name"]) for entry in grid.methods)
    seeds = (str(seed) for seed in grid.seeds or study.seeds)
    return [", ".join(axis) for axis in (grid.models, grid.tasks, methods, seeds)]
