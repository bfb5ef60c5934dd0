# The study and its plan, checked before the first job, without heavy imports and without writing files.
import json
import os
import shutil
import sys
from functools import cache
from hashlib import sha256
from itertools import chain, product
from pathlib import Path

from neuroprune.config.availability import (
    dataset_folder,
    folder_state,
    teacher_files,
)
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.errors import ConfigError
from neuroprune.results.figures import FIGURES
from neuroprune.config.jobs import (
    find_job,
    jobs_of,
    settings_of,
    time_limit,
)
from neuroprune.config.canonical import canonical
from neuroprune.files.atomic import write_json
from neuroprune.results.needs import needed_runs
from neuroprune.results.outdated import is_written, outdated_files
from neuroprune.results.report import headline, picture
from neuroprune.results.tables import TABLES

CATALOGUE = Path(workflow.basedir) / "config"
DEFAULT_STUDY = "config/config.yaml"
STUDY_FILES = [os.path.relpath(file) for file in workflow.overwrite_configfiles] or [
    DEFAULT_STUDY
]


def checked(function, *arguments, **options):
    """Call a function; on config errors, end Snakemake with only their messages."""
    try:
        return function(*arguments, **options)
    except ConfigError as error:
        sys.exit(str(error))


# `--profile` only adds to the default profile, whose limit of one GPU is intended for a single machine.
if "gpu" in workflow.resource_settings.resources and "slurm_partition" in (
    workflow.resource_settings.default_resources or ()
):
    sys.exit(
        "A profile for a cluster takes the place of the default one: type --workflow-profile instead of --profile."
    )

# Finds errors that Snakemake accepts, such as duplicate keys.
checked(read_study, STUDY_FILES)

# Config files are merged, so the demo must not be merged with a study given by the user.
if not workflow.overwrite_configfiles:

    configfile: DEFAULT_STUDY


PLAN = checked(
    make_plan,
    config,
    source=", ".join(
        STUDY_FILES + ["--config"] * bool(workflow.config_settings.config)
    ),
    catalogue=CATALOGUE,
    artefacts=[*FIGURES, *TABLES],
)
for sentence in PLAN.skipped:
    print(sentence, file=sys.stderr)
FOLDER = PLAN.study.folder
if "--report" in sys.argv:  # the first page shows the result
    config["headline"] = headline(Path(FOLDER))
    config["picture"] = picture(Path(FOLDER))
DATA_ROOT = PLAN.study.data_root
JOBS = jobs_of(PLAN)


pathvars:
    study=FOLDER,


wildcard_constraints:
    job=r"[a-zA-Z0-9][a-zA-Z0-9_.-]*",
    task=r"[a-zA-Z0-9][a-zA-Z0-9_.]*",
    model=r"[a-zA-Z0-9][a-zA-Z0-9_.]*",


def wanted(known):
    """Names of the requested artefacts of one kind."""
    asked = PLAN.study.artefacts
    return [name for name in known if asked is None or name in asked]


def files_of(folder, names, kinds):
    """Return one file per requested figure or table, so that others are not made again if deleted."""
    return [f"{FOLDER}/{folder}/{name}.{kind}" for name, kind in product(names, kinds)]


FIGURE_KINDS, TABLE_KINDS = ("svg", "pdf", "png", "csv"), ("html", "csv", "md", "tex")
FIGURE_FILES = files_of("figures", wanted(FIGURES), FIGURE_KINDS)
TABLE_FILES = files_of("tables", wanted(TABLES), TABLE_KINDS)

# Progress bars go to the job's log, updated every 20 seconds: half a megabyte per day of training.
os.environ.setdefault("TQDM_MININTERVAL", "20")

# Jobs that use an accelerator take turns on it (`resources: gpu=1` in the default profile).
GPU = int(any(map(shutil.which, ("nvidia-smi", "rocm-smi"))))


def job_of(wildcards):
    """Return the job of a rule's wildcard."""
    return find_job(PLAN, JOBS, wildcards.job)


def first_run(wildcards):
    """Return the settings of a job's first run; all its runs share model, task and training settings."""
    return PLAN.runs[job_of(wildcards).runs[0]]


def threads_of_job(wildcards):
    """Return the threads of a training job."""
    training = first_run(wildcards).training
    return training.threads * training.processes


def memory(wildcards, attempt):
    """Return the memory of a job in MiB; each retry adds the same amount."""
    model = first_run(wildcards).model.name
    return PLAN.study.models[model].job.memory_mb * attempt


def minutes(wildcards, attempt):
    """Return the time limit of a job in minutes; each retry adds the same amount."""
    return time_limit(PLAN, job_of(wildcards)) * attempt


def on_this_machine():
    """Return whether jobs run here and not on cluster nodes, which is only known once Snakemake creates jobs."""
    return workflow.local_exec and not workflow.remote_exec


FIRST = 10**12  # priority above every training job


def measured_soon(wildcards):
    """Priority of a timing job: highest on a cluster, so that models are deleted early; lowest on one machine."""
    return 0 if on_this_machine() else FIRST


def longest_first(wildcards):
    """Return the priority of a training job: above local timing jobs, and higher for longer jobs."""
    return 1 + len(job_of(wildcards).runs) * rows_read(first_run(wildcards))


def rows_read(run):
    """Number of rows of a run, or an upper bound if the study does not set it."""
    return run.training.epochs * (run.task.train_rows or 1_000_000)


def redo(files):
    """Force the jobs that make these files, if the targets depend on them.

    Snakemake recreates a missing intermediate file only if a file made from it is missing or outdated. It notices
    changed settings only if it has metadata of the file.
    """
    workflow.dag.forcefiles.update(files)


@cache
def redo_outdated(name):
    """Redo a job if its records or times are missing or have other settings; read them once for both of its rules."""
    if workflow.is_main_process:
        redo(outdated_files(PLAN, name, find_job(PLAN, JOBS, name)))


def manifests(wildcards):
    """Return the manifests of the data and model of a job's runs; redo what is outdated."""
    redo_outdated(wildcards.job)
    run = first_run(wildcards)
    return {
        "data": f"{FOLDER}/data/{run.task.name}.json",
        "model": f"{FOLDER}/models/{run.model.name}.json",
    }


def teachers(wildcards):
    """Return the files of the teachers of a job's runs that are stored in folders."""
    runs = (PLAN.runs[name] for name in job_of(wildcards).runs)
    return sorted({str(path) for run in runs for path in teacher_files(run.method)})


def lists(names, runs=None):
    """Return the lists of records and times written by those of these jobs that contain any of these runs."""
    jobs = {name: JOBS[name] for name in names}
    chosen = {
        name: job
        for name, job in jobs.items()
        if runs is None or not runs.isdisjoint(job.runs)
    }
    timed = [name for name, job in chosen.items() if job.timed]
    return [
        *(f"{FOLDER}/jobs/{name}/runs.json" for name in chosen),
        *(f"{FOLDER}/jobs/{name}/timings.json" for name in timed),
    ]


def shown_runs(artefact):
    """Return the lists of the runs in a figure or table; none if it shows all runs, which runs.csv covers."""
    runs = needed_runs(artefact, PLAN.runs)
    return [] if len(runs) == len(PLAN.runs) else lists(JOBS, {*runs})


def asked_runs():
    """Return the lists of the runs needed for the targets on the command line: single artefacts or all."""
    asked = [Path(target).stem for target in workflow.dag_settings.targets]
    few = [shown_runs(name) if name in [*FIGURES, *TABLES] else [] for name in asked]
    return [*dict.fromkeys(chain(*few))] if few and all(few) else lists(JOBS)


def records(wildcards):
    """Return the inputs of the table of runs: the plan and the lists of jobs or, with `from_results`, the records.

    A subprocess of Snakemake does not know the targets, but all its inputs exist.
    """
    if PLAN.study.from_results:
        return sorted(
            str(path)
            for kind in ("run", "timing")
            for path in Path(FOLDER).glob(f"runs/*/{kind}.json")
        )
    plan = f"{FOLDER}/plan.json"
    if not workflow.is_main_process:
        return [plan, *(path for path in lists(JOBS) if Path(path).exists())]
    others = ["runs.csv", "provenance.json"]
    others += [f"data/{name}.json" for name in PLAN.study.tasks]
    others += [f"models/{name}.json" for name in PLAN.study.models]
    redo(f"{FOLDER}/{name}" for name in others if not Path(FOLDER, name).exists())
    redo([] if is_written(PLAN) else [plan])
    return [plan, *asked_runs()]


def shown(artefact):
    """Return the inputs of a figure or table: the table of runs and, if it shows only some runs, their lists.

    The artefact is then not remade when the table changes only because of other runs. The table is marked as `ancient`
    only for existing artefacts, because Snakemake 9 does not make a missing target whose only changed input is ancient.
    """
    table = f"{FOLDER}/runs.csv"
    few = [] if PLAN.study.from_results else shown_runs(artefact)
    if not few:
        return [table]
    drawn = any(Path(FOLDER).glob(f"*/{artefact}.csv"))
    return [f"{FOLDER}/plan.json", *few, ancient(table) if drawn else table]
