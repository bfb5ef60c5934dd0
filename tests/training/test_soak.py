"""Random kills of a job that trains three runs do not change the results."""

import os
import random
import signal
import time
from pathlib import Path

from test_job import contents, job, processes, study_in  # noqa: F401  (a fixture)

from helpers.data import write_glue
from helpers.processes import alive, children
from neuroprune.results.records import read_record
from neuroprune.training import job as several

KILLS = 10
LONG = {"epochs": 10, "batch_size": 8, "learning_rate": 1e-3}
CHECKPOINT_MINUTES = 0.003
VICTIMS = ("job", "child", "all")


def start(study):
    """Start the job in a separate process that leads a session."""
    arguments = (job(training=LONG), study.made, study.place, study.list_of("runs"), CHECKPOINT_MINUTES)
    process = study.processes.Process(target=in_session, args=arguments)
    process.start()
    return process


def in_session(*arguments):
    os.setsid()
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    several.train(*arguments)


def kill(process, victim):
    """Kill the job, the fork that trains a run, or both together, like a machine failure."""
    forks = children(process.pid)
    found = {"job": [process.pid], "child": forks, "all": [process.pid, *forks]}[victim]
    for number in found:
        os.kill(number, signal.SIGKILL)
    process.join(timeout=120)
    deadline = time.monotonic() + 30
    while any(alive(number) for number in forks):
        assert time.monotonic() < deadline, f"a fork outlives its job after a kill of {victim}"
        time.sleep(0.02)


def results(study):
    found = {path.parent.name: read_record(path).result for path in study.place.study.glob("runs/*/run.json")}
    return {run: (result.files, result.metrics, result.steps) for run, result in found.items()}


def test_random_kills_change_no_result_and_leave_no_process(processes, tmp_path):  # noqa: F811
    data_root = write_glue(tmp_path / "data", "sst2", train=60, evaluated=24)
    undisturbed, study = (study_in(tmp_path / name, processes, data_root) for name in ("undisturbed", "killed"))
    begun = time.monotonic()
    process = start(undisturbed)
    process.join()
    assert process.exitcode == 0
    seconds, draw = time.monotonic() - begun, random.Random(0)
    for number in range(KILLS):
        process = start(study)
        process.join(timeout=draw.uniform(0.05, 0.5) * seconds)
        if process.exitcode is None:
            kill(process, VICTIMS[number % len(VICTIMS)])
    process = start(study)
    process.join()
    assert process.exitcode == 0
    assert results(study) == results(undisturbed) and len(contents(study)) == 3
    left = [path for path in study.place.study.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert left == []
