"""Which runs share a job: of one experiment, model and task, in the plan's order.

Thousands of small jobs cost a scheduler and a cluster more than their work. Runs that share a job are trained one after
another, then timed one after another, each on its own still: see ``several``. All of this is pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import Field

from neuroprune.config.fields import FolderName, Settings
from neuroprune.config.gpu_hours import hours
from neuroprune.config.plan import Plan
from neuroprune.config.settings import (
    MethodSettings,
    ModelSettings,
    RunSettings,
    TaskSettings,
    TimingSettings,
    TrainingSettings,
)

LEAST_MINUTES = 240


@dataclass(frozen=True)
class Job:
    """Runs that share a training job and, those of them that are timed, a timing job.

    Args:
        runs: Their names, at least two.
        timed: Names of those whose inference is timed.
    """

    runs: tuple[str, ...]
    timed: tuple[str, ...]


class Point(Settings):
    """What a run has of its own among the runs of its job."""

    run: FolderName
    method: MethodSettings
    seed: int = Field(ge=0)


class JobRuns(Settings):
    """Everything that decides the results of a job's runs; what they share stands once."""

    model: ModelSettings
    task: TaskSettings
    training: TrainingSettings
    points: tuple[Point, ...]
    timed: tuple[str, ...] = ()
    timing: TimingSettings | None = None

    @property
    def runs(self) -> tuple[RunSettings, ...]:
        """The settings of each run."""
        shared = {"model": self.model, "task": self.task, "training": self.training}
        return tuple(RunSettings(run=own.run, method=own.method, seed=own.seed, **shared) for own in self.points)


def shared_jobs(plan: Plan) -> dict[str, Job]:
    """Put a plan's runs into jobs of several runs.

    Args:
        plan: All runs of a study; its settings say how many may share a job.

    Returns:
        Jobs by name, ``<experiment>-<model>-<task>-<number>``. A run that is in none has a job for itself.
    """
    timed = set(plan.timed)
    jobs = {}
    for experiment, names in plan.experiments.items():
        for (model, task), runs in _by_model_and_task(plan, names).items():
            parts = split(runs, _most(plan, experiment, plan.runs[runs[0]]))
            for number, part in enumerate(parts, start=1):
                if len(part) > 1:
                    name = f"{experiment}-{model}-{task}-{number}"
                    jobs[name] = Job(part, tuple(run for run in part if run in timed))
    return jobs


def split(runs: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Cut a sequence into as few parts as have at most so many members, of sizes that differ by one at most."""
    count = -(-len(runs) // most)
    ends = [len(runs) * part // count for part in range(count + 1)]
    return [tuple(runs[start:end]) for start, end in pairwise(ends)]


def _by_model_and_task(plan: Plan, names: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        found[plan.runs[name].model.name, plan.runs[name].task.name].append(name)
    return found


def _most(plan: Plan, experiment: str, run: RunSettings) -> int:
    """Return how many runs like this one a job takes: runs of one experiment, model and task take equally long."""
    most = plan.study.experiments[experiment].runs_per_job or plan.study.runs_per_job
    estimate = hours(run)
    if plan.study.job_hours is None or estimate is None:
        return most
    return max(1, min(most, int(plan.study.job_hours / estimate)))


def settings_of(plan: Plan, job: Job) -> JobRuns:
    """Return what decides the results of a job's runs; how they are timed, only if any of them is."""
    first = plan.runs[job.runs[0]]
    runs = [plan.runs[name] for name in job.runs]
    return JobRuns(
        model=first.model,
        task=first.task,
        training=first.training,
        points=tuple(Point(run=run.run, method=run.method, seed=run.seed) for run in runs),
        timed=job.timed,
        timing=plan.study.timing.model_copy(update={"seeds": None}) if job.timed else None,
    )


def run_limit(plan: Plan, name: str) -> int:
    """Return the time limit in minutes of a job that does one run.

    Args:
        plan: The plan that it belongs to.
        name: The run.

    Returns:
        What its model's row asks for; else twice the estimate, but at least four hours.
    """
    run = plan.runs[name]
    asked = plan.study.models[run.model.name].job.minutes
    return asked or max(LEAST_MINUTES, int(120 * (hours(run) or 0)))


def time_limit(plan: Plan, job: Job) -> int:
    """Return the time limit of a job in minutes.

    Args:
        plan: The plan that it belongs to.
        job: The job.

    Returns:
        That of each run but, where the study limits the hours of a job, no more than that of one run and twice those
        hours, as estimates may be wrong by a factor of two.
    """
    one = run_limit(plan, job.runs[0])
    limit = one * len(job.runs)
    return limit if plan.study.job_hours is None else min(limit, one + int(120 * plan.study.job_hours))


def untrue_lists(folder: Path, jobs: Mapping[str, Job]) -> list[Path]:
    """Find the lists that jobs have written of their records or times and that name a file which is gone.

    Args:
        folder: The study's folder.
        jobs: The jobs of `shared_jobs`.

    Returns:
        Paths of the lists.
    """
    named = {
        folder / "jobs" / name / f"{kind}s.json": [folder / "runs" / run / f"{kind}.json" for run in runs]
        for name, job in jobs.items()
        for kind, runs in (("run", job.runs), ("timing", job.timed))
    }
    return [path for path, files in named.items() if path.exists() and not all(file.exists() for file in files)]


def by_rule(plan: Plan) -> dict[str, int]:
    """Count the training and timing jobs of a plan.

    Args:
        plan: All runs of a study.

    Returns:
        Numbers by the rule of the workflow that does them: ``train``, ``measure`` and, if runs share jobs,
        ``train_several`` and ``measure_several``.
    """
    shared = shared_jobs(plan).values()
    together = {run for job in shared for run in job.runs}
    several = {"train_several": len(shared), "measure_several": sum(bool(job.timed) for job in shared)}
    alone = {"train": len(plan.runs) - len(together), "measure": sum(run not in together for run in plan.timed)}
    return alone | several if several["train_several"] else alone


def by_experiment(plan: Plan) -> dict[str, int]:
    """Count the training and timing jobs of each experiment of a plan."""
    job_of = {run: name for name, job in shared_jobs(plan).items() for run in job.runs}
    timed = set(plan.timed)
    return {
        experiment: len({job_of.get(run, run) for run in runs})
        + len({job_of.get(run, run) for run in runs if run in timed})
        for experiment, runs in plan.experiments.items()
    }
