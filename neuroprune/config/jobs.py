"""Grouping of a plan's runs into jobs: runs of one experiment, model and task, in the plan's order.

A job trains its runs one after another, and a second job times them. By default, each run has its own job. With
``runs_per_job``, several runs share one, because thousands of small jobs cost a scheduler more than the work itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from shlex import quote

from pydantic import Field

from neuroprune.config.fields import FolderName, Settings
from neuroprune.config.gpu_hours import hours
from neuroprune.config.methods import MethodSettings
from neuroprune.config.plan import Plan
from neuroprune.config.settings import ModelSettings, RunSettings, TaskSettings, TimingSettings
from neuroprune.config.training import TrainingSettings
from neuroprune.errors import UserError, did_you_mean

CHECKPOINTS = "checkpoints"  # in a run's folder
LEAST_MINUTES = 240
LONGEST_COMMAND = 100_000  # Linux allows 131,072 bytes per argument, and a shell command is one argument


@dataclass(frozen=True)
class Job:
    """The runs of one training job and of the timing job that follows it.

    Args:
        runs: Names of the runs, at least one.
        timed: Names of the runs whose inference is timed.
    """

    runs: tuple[str, ...]
    timed: tuple[str, ...]


class Point(Settings):
    """The settings that differ between the runs of a job."""

    run: FolderName
    method: MethodSettings
    seed: int = Field(ge=0)


class JobRuns(Settings):
    """All settings that determine the results of a job's runs; shared settings are stored once."""

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


def jobs_of(plan: Plan) -> dict[str, Job]:
    """Divide all runs of a plan into jobs.

    Args:
        plan: The plan; settings of its study limit the number of runs per job.

    Returns:
        Jobs by name. A job with a single run has the run's name; others are named
        ``<experiment>-<model>-<task>-<number>``.
    """
    timed = set(plan.timed)
    jobs = {}
    for experiment, names in plan.experiments.items():
        for (model, task), runs in _by_model_and_task(plan, names).items():
            parts = split(runs, _most(plan, experiment, plan.runs[runs[0]]))
            for number, part in enumerate(parts, start=1):
                name = f"{experiment}-{model}-{task}-{number}" if len(part) > 1 else part[0]
                jobs[name] = Job(part, tuple(run for run in part if run in timed))
    return jobs


def find_job(plan: Plan, jobs: Mapping[str, Job], name: str) -> Job:
    """Return a job by its name, or a single run of a shared job by the run's name.

    Args:
        plan: The plan.
        jobs: Its jobs, from ``jobs_of``.
        name: Name of a job or of a run.

    Returns:
        The job.

    Raises:
        UserError: If the plan has no job or run of this name.
    """
    if name in jobs:
        return jobs[name]
    if name not in plan.runs:
        raise UserError(f"{name}: the study has no such job or run{did_you_mean(name, [*jobs, *plan.runs])}")
    return Job((name,), (name,) if name in plan.timed else ())


def split(runs: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Split a sequence into the fewest parts of at most ``most`` members; their sizes differ by at most one."""
    count = -(-len(runs) // most)
    ends = [len(runs) * part // count for part in range(count + 1)]
    return [tuple(runs[start:end]) for start, end in pairwise(ends)]


def _by_model_and_task(plan: Plan, names: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        found[plan.runs[name].model.name, plan.runs[name].task.name].append(name)
    return found


def _most(plan: Plan, experiment: str, run: RunSettings) -> int:
    """Return how many runs like this one share a job, assuming equal durations within an experiment, model and task."""
    most = plan.study.experiments[experiment].runs_per_job or plan.study.runs_per_job
    estimate = hours(run)
    if plan.study.job_hours is None or estimate is None:
        return most
    return max(1, min(most, int(plan.study.job_hours / estimate)))


def settings_of(plan: Plan, job: Job) -> JobRuns:
    """Return all settings that affect a job's results; timing settings only if a run is timed."""
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


def long_commands(plan: Plan) -> list[str]:
    """Report experiments in which the settings of a job are too long for a command.

    Args:
        plan: The plan.

    Returns:
        One sentence for each experiment.
    """
    lengths: dict[int, int] = {}
    experiment_of = {run: experiment for experiment, runs in plan.experiments.items() for run in runs}
    longest: dict[str, int] = defaultdict(int)
    for job in jobs_of(plan).values():
        experiment = experiment_of[job.runs[0]]
        longest[experiment] = max(longest[experiment], _length(plan, job, lengths))
    return [
        f"experiments.{experiment}: the settings of a job have {length:,} characters, more than the limit of "
        f"{LONGEST_COMMAND:,}; lower runs_per_job, or shorten the model's config"
        for experiment, length in longest.items()
        if length > LONGEST_COMMAND
    ]


def _length(plan: Plan, job: Job, known: dict[int, int]) -> int:
    """Return the approximate length of a job's settings as a quoted argument; `known` caches shared parts."""
    runs = [plan.runs[name] for name in job.runs]
    parts = [runs[0].model, runs[0].task, runs[0].training, *(run.method for run in runs)]
    for part in parts:
        if id(part) not in known:
            known[id(part)] = len(quote(part.model_dump_json()))
    return sum(known[id(part)] for part in parts) + sum(2 * len(name) + 40 for name in job.runs)


def run_limit(plan: Plan, name: str) -> int:
    """Return the time limit of one run in minutes.

    Args:
        plan: The plan.
        name: Name of the run.

    Returns:
        The limit in the model's row; by default twice the estimate, but at least four hours.
    """
    run = plan.runs[name]
    asked = plan.study.models[run.model.name].job.minutes
    return asked or max(LEAST_MINUTES, int(120 * (hours(run) or 0)))


def time_limit(plan: Plan, job: Job) -> int:
    """Return the time limit of a job in minutes.

    Args:
        plan: The plan.
        job: The job.

    Returns:
        The sum of its runs' limits. With ``job_hours``, at most the limit of one run plus twice these hours, because
        estimates may be wrong by a factor of two.
    """
    one = run_limit(plan, job.runs[0])
    limit = one * len(job.runs)
    return limit if plan.study.job_hours is None else min(limit, one + int(120 * plan.study.job_hours))


def count_by_rule(plan: Plan) -> dict[str, int]:
    """Count the training and timing jobs of a plan by workflow rule."""
    jobs = jobs_of(plan).values()
    return {"train": len(jobs), "measure": sum(bool(job.timed) for job in jobs)}


def count_by_experiment(plan: Plan) -> dict[str, int]:
    """Count the training and timing jobs of each experiment of a plan."""
    experiment_of = {run: experiment for experiment, runs in plan.experiments.items() for run in runs}
    counts = dict.fromkeys(plan.experiments, 0)
    for job in jobs_of(plan).values():
        counts[experiment_of[job.runs[0]]] += 1 + bool(job.timed)
    return counts
