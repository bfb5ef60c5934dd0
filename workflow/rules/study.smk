# The study and its plan, checked before the first job. Nothing heavy is imported and nothing is written here.
import os
import shutil
import sys
from pathlib import Path

from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.errors import ConfigError
from neuroprune.results.figures import FIGURES
from neuroprune.config.jobs import (
    run_limit,
    settings_of,
    shared_jobs,
    time_limit,
    untrue_lists,
)
from neuroprune.config.canonical import canonical
from neuroprune.results.tables import TABLES

DEFAULT_STUDY = "config/config.yaml"
STUDY_FILES = [os.path.relpath(file) for file in workflow.overwrite_configfiles] or [
    DEFAULT_STUDY
]


def checked(function, *arguments, **options):
    """Call a function; its config errors end Snakemake with their sentences alone."""
    try:
        return function(*arguments, **options)
    except ConfigError as error:
        sys.exit(str(error))


# `--profile` only adds to the default profile, whose limit of one GPU is meant for one machine.
if "gpu" in workflow.resource_settings.resources and "slurm_partition" in (
    workflow.resource_settings.default_resources or ()
):
    sys.exit(
        "A profile for a cluster takes the place of the default one: type --workflow-profile instead of --profile."
    )

# Finds what Snakemake lets pass, such as a key that stands twice.
checked(read_study, STUDY_FILES)

# Config files are merged, so the demo must not lie beneath a study that the user names.
if not workflow.overwrite_configfiles:

    configfile: DEFAULT_STUDY


PLAN = checked(
    make_plan,
    config,
    source=", ".join(
        STUDY_FILES + ["--config"] * bool(workflow.config_settings.config)
    ),
    catalogue=Path(workflow.basedir) / "config",
    artefacts=[*FIGURES, *TABLES],
)
for sentence in PLAN.skipped:
    print(sentence, file=sys.stderr)
FOLDER = PLAN.study.folder
DATA_ROOT = PLAN.study.data_root
JOBS = shared_jobs(PLAN)


pathvars:
    study=FOLDER,


wildcard_constraints:
    run=r"[a-zA-Z0-9][a-zA-Z0-9_.-]*",
    job=r"[a-zA-Z0-9][a-zA-Z0-9_.-]*",
    task=r"[a-zA-Z0-9][a-zA-Z0-9_.]*",
    model=r"[a-zA-Z0-9][a-zA-Z0-9_.]*",


def wanted(known):
    """Names of the artefacts of one kind that the study asks for."""
    asked = PLAN.study.artefacts
    return [name for name in known if asked is None or name in asked]


FIGURE_FILES = [f"{FOLDER}/figures/{name}.svg" for name in wanted(FIGURES)]
TABLE_FILES = [f"{FOLDER}/tables/{name}.html" for name in wanted(TABLES)]

# A progress bar goes to the job's log: a state of it every 20 seconds, half a megabyte for a day of training.
os.environ.setdefault("TQDM_MININTERVAL", "20")

# Jobs that use an accelerator take turns on it (`resources: gpu=1` in the default profile).
GPU = int(any(map(shutil.which, ("nvidia-smi", "rocm-smi"))))


def job_row(run):
    """What a run's jobs ask a cluster for."""
    return PLAN.study.models[run.model.name].job


def training(wildcards):
    """A run's training settings."""
    return PLAN.runs[wildcards.run].training


def memory(wildcards, attempt):
    """Memory of a job in MiB; a retry asks for more."""
    return job_row(PLAN.runs[wildcards.run]).memory_mb * attempt


def minutes(wildcards, attempt):
    """Time limit of a job in minutes; a retry asks for more."""
    return run_limit(PLAN, wildcards.run) * attempt


def alike(wildcards):
    """Settings of one of a job's runs; all have the same model, task and training."""
    return PLAN.runs[JOBS[wildcards.job].runs[0]]


def processors(wildcards):
    """Threads of a job that trains runs one after another."""
    return alike(wildcards).training.threads * alike(wildcards).training.processes


def memory_of_several(wildcards, attempt):
    """Memory of a job in MiB; a retry asks for more."""
    return job_row(alike(wildcards)).memory_mb * attempt


def minutes_of_several(wildcards, attempt):
    """Time limit of a job in minutes; a retry asks for more."""
    return time_limit(PLAN, JOBS[wildcards.job]) * attempt


def on_this_machine():
    """Tell whether jobs run here and not on a cluster's nodes. Snakemake knows it when it makes jobs, not before."""
    return workflow.local_exec and not workflow.remote_exec


FIRST = 10**12  # priority above every training job


def measured_soon(wildcards):
    """Priority of a measurement: first of all on a cluster, where the model goes then, and last on one machine."""
    return 0 if on_this_machine() else FIRST


def longest_first(wildcards):
    """Priority of a training job: above a machine's measurements; the more rows it reads, the higher, lest it ends alone."""
    return 1 + rows_read(PLAN.runs[wildcards.run])


def longest_job_first(wildcards):
    """Priority of a job that trains several runs, likewise."""
    runs = JOBS[wildcards.job].runs
    return 1 + len(runs) * rows_read(PLAN.runs[runs[0]])


def rows_read(run):
    """Rows that a run reads, or more where the study does not say how many there are."""
    return run.training.epochs * (run.task.train_rows or 1_000_000)


def manifests(wildcards):
    """The manifests of a run's data and model."""
    return prepared(PLAN.runs[wildcards.run])


def prepared(run):
    """The same, of a run's settings."""
    return {
        "data": f"{FOLDER}/data/{run.task.name}.json",
        "model": f"{FOLDER}/models/{run.model.name}.json",
    }


def records(wildcards):
    """What the table of runs is made of: all that is planned or, from results alone, all that is there."""
    if PLAN.study.from_results:
        return sorted(
            str(path)
            for kind in ("run", "timing")
            for path in Path(FOLDER).glob(f"runs/*/{kind}.json")
        )
    together = {run for job in JOBS.values() for run in job.runs}
    runs = [f"runs/{run}/run.json" for run in PLAN.runs if run not in together]
    times = [f"runs/{run}/timing.json" for run in PLAN.timed if run not in together]
    runs += [f"jobs/{name}/runs.json" for name in JOBS]
    times += [f"jobs/{name}/timings.json" for name, job in JOBS.items() if job.timed]
    return [f"{FOLDER}/{name}" for name in ("plan.json", *runs, *times)]
