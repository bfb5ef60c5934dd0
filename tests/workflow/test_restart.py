"""Restarts: finished runs survive a killed Snakemake; deleted files and replaced data repeat only dependent jobs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, call_snakemake, signal_all, training_processes
from test_mini_study import DENSE, L1, NEUROPRUNE, study_file, write_weather

from neuroprune.results.records import read_record

RUNS = (DENSE, NEUROPRUNE, L1)
WORDS = ("--cores", "2", "--configfile", "study.yaml")


def wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs_of(folder):
    return folder / "results" / "mini" / "runs"


def contents(folder, name="run.json"):
    return {path.parent.name: path.read_bytes() for path in runs_of(folder).glob(f"*/{name}")}


def changed(folder, before, name="run.json"):
    return {run for run, content in contents(folder, name).items() if before.get(run) != content}


def state(run):
    """Return the times of a run's files, except those that a second job opens before it is refused."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name not in ("train.log", ".lock")}


def kill_while_two_runs_train(folder):
    """Start the study, kill Snakemake alone while two jobs train, and return their stopped processes."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = ["snakemake", "--snakefile", ROOT / "Snakefile", *WORDS]
    stopped = {}
    with (folder / "first.log").open("w") as log:
        snakemake = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
        wait_until(lambda: stop_training(folder, stopped) == 2)
        snakemake.kill()
        snakemake.wait()
    return [process for processes in stopped.values() for process in processes]


def stop_training(folder, stopped):
    """Stop each job whose log shows a training step, before it can finish; return how many are stopped."""
    for log in runs_of(folder).glob("*/train.log"):
        run = log.parent.name
        if run not in stopped and b"it/s]" in log.read_bytes():
            stopped[run] = training_processes(folder, run)
            signal_all(stopped[run], signal.SIGSTOP)
    return len(stopped)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a study that was finished after a kill of Snakemake; read-only."""
    folder = tmp_path_factory.mktemp("restart")
    write_weather(folder / "data")
    study_file(folder, lambda study: study.update(artefacts=["summary"], training=study["training"] | {"epochs": 10}))
    old = kill_while_two_runs_train(folder)
    assert call_snakemake(folder, "--unlock", *WORDS).code == 0
    training = {run.name for run in runs_of(folder).iterdir()}
    before = {run: state(runs_of(folder) / run) for run in training}

    refused = call_snakemake(folder, *WORDS)
    assert refused.code == 1
    said = refused.out + refused.err
    assert all(f"runs/{run}: another process is writing this run" in said for run in training)
    assert {run: state(runs_of(folder) / run) for run in training} == before
    others = contents(folder)
    assert others.keys() == set(RUNS) - training  # the run that was not being trained

    signal_all(old, signal.SIGCONT)
    wait_until(lambda: contents(folder).keys() == set(RUNS) and not training_processes(folder))
    before = contents(folder)
    done = call_snakemake(folder, *WORDS)
    assert done.code == 0, done.out + done.err
    assert contents(folder) == before  # nothing was trained again, neither by the second start nor by the third
    assert others.items() <= before.items()
    return folder


@pytest.fixture
def own_copy(finished, tmp_path):
    """A modifiable copy of that folder, including modification times."""
    return Path(shutil.copytree(finished, tmp_path / "mini"))


def test_runs_that_old_jobs_finish_after_a_kill_of_snakemake_are_kept(finished):
    assert {read_record(path).status for path in runs_of(finished).glob("*/run.json")} == {"done"}
    assert contents(finished, "timing.json").keys() == {NEUROPRUNE, L1}
    assert (finished / "results/mini/tables/summary.csv").exists()
    assert not list(runs_of(finished).glob("*/model"))


@pytest.mark.parametrize(
    ("deleted", "trained", "timed"),
    [
        (f"runs/{L1}/run.json", {L1}, {L1}),
        (f"runs/{DENSE}/run.json", {DENSE}, set()),
        (f"runs/{L1}/timing.json", {L1}, {L1}),  # its model was deleted after the first timing
        ("runs.csv", set(), set()),
        ("plan.json", set(), set()),
        ("data/weather.json", set(), set()),
        (f"jobs/{L1}/runs.json", set(), set()),
    ],
)
def test_a_deleted_file_is_made_again_and_nothing_else_is_trained(snakemake, own_copy, deleted, trained, timed):
    records, times = contents(own_copy), contents(own_copy, "timing.json")
    (own_copy / "results/mini" / deleted).unlink()
    done = snakemake(own_copy, *WORDS)
    assert done.code == 0, done.out + done.err
    assert (own_copy / "results/mini" / deleted).exists()
    assert (changed(own_copy, records), changed(own_copy, times, "timing.json")) == (trained, timed)
    again = snakemake(own_copy, *WORDS)
    assert "Nothing to be done" in again.out + again.err


def test_a_dry_run_shows_what_a_deleted_record_redoes_and_other_targets_do_not_need_it(snakemake, own_copy):
    (runs_of(own_copy) / L1 / "run.json").unlink()
    jobs = {"train": 1, "measure": 1, "collect": 1, "summary": 1}
    assert snakemake(own_copy, "summary", "--dry-run", *WORDS).jobs == jobs
    assert snakemake(own_copy, "--dry-run", *WORDS).jobs == jobs | {"all": 1}
    other = snakemake(own_copy, f"results/mini/jobs/{DENSE}/runs.json", "--dry-run", *WORDS)
    assert "Nothing to be done" in other.out + other.err


def test_a_figure_depends_on_the_runs_that_it_shows_alone(snakemake, own_copy):
    assert snakemake(own_copy, "figure3", "--dry-run", *WORDS).jobs == {"collect": 1, "figure3": 1}
    done = snakemake(own_copy, "figure3", *WORDS)
    assert done.code == 0, done.out + done.err
    for other in (L1, DENSE):
        (runs_of(own_copy) / other / "run.json").unlink()
    again = snakemake(own_copy, "figure3", "--dry-run", *WORDS)
    assert "Nothing to be done" in again.out + again.err
    (runs_of(own_copy) / NEUROPRUNE / "run.json").unlink()
    jobs = {"train": 1, "measure": 1, "collect": 1, "figure3": 1}
    assert snakemake(own_copy, "figure3", "--dry-run", *WORDS).jobs == jobs


def write_other_data(folder, seed):
    """Replace the data; other rows get older modification times, as after `mv` or `cp -p`."""
    times = {path.name: path.stat() for path in (folder / "data").rglob("*.parquet")}
    shutil.rmtree(folder / "data")
    write_weather(folder / "data", seed)
    for path in (folder / "data").rglob("*.parquet") if seed else ():
        os.utime(path, ns=(times[path.name].st_atime_ns, times[path.name].st_mtime_ns - 10**9))


def test_touched_data_train_no_run_again(snakemake, own_copy):
    records = contents(own_copy)
    write_other_data(own_copy, seed=0)
    done = snakemake(own_copy, *WORDS)
    assert done.code == 0, done.out + done.err
    assert done.jobs["prepare_data"] == 1
    assert contents(own_copy) == records


def test_replaced_data_train_every_run_again(snakemake, own_copy):
    records = contents(own_copy)
    write_other_data(own_copy, seed=1)
    one = snakemake(own_copy, f"results/mini/jobs/{DENSE}/runs.json", *WORDS)
    assert one.code == 0, one.out + one.err
    assert one.jobs == {"prepare_data": 1, "train": 1}
    assert changed(own_copy, records) == {DENSE}
    others = snakemake(own_copy, "--dry-run", *WORDS).jobs
    assert (others["train"], others["measure"]) == (2, 2)
