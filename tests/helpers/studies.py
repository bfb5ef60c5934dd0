"""The files of a finished study, with valid records but without training."""

import os

from helpers.results import record, timing
from neuroprune.config.canonical import settings_hash
from neuroprune.config.jobs import jobs_of
from neuroprune.files.atomic import write_json


def write_finished(plan, folder):
    """Write the files of a finished study, each newer than the one before: plan, manifests, records, times, lists."""
    settings = plan.study.timing.model_copy(update={"seeds": None})
    manifests = [
        *(f"data/{name}.json" for name in plan.study.tasks),
        *(f"models/{name}.json" for name in plan.study.models),
    ]
    files = {"plan.json": plan.as_dict(), **{file: {"sha256": "0" * 64, "copied": None} for file in manifests}}
    for name, run in plan.runs.items():
        files[f"runs/{name}/run.json"] = record(run)
        if name in plan.timed:
            files[f"runs/{name}/timing.json"] = times_of(run, settings)
    for name, job in jobs_of(plan).items():
        files |= {f"jobs/{name}/{file}": {} for file in ["runs.json", *(["timings.json"] if job.timed else [])]}
    for number, (file, content) in enumerate(files.items()):
        write_json(folder / file, content)
        os.utime(folder / file, (10**9 + number, 10**9 + number))


def times_of(run, settings):
    """Return times of a run that were measured with these settings."""
    times = timing(run, 0.0)
    environment = times.environment.model_copy(update={"settings_sha256": settings_hash(settings)})
    return times.model_copy(update={"settings": settings, "environment": environment})
