"""Runs that share a job: equal to separate runs, and only missing runs are made."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from test_run import settings

from helpers.data import write_glue
from neuroprune import tasks
from neuroprune.config.jobs import JobRuns
from neuroprune.config.settings import TimingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json
from neuroprune.results.manifests import Prepared, teacher_hash
from neuroprune.results.records import read_record, read_timing
from neuroprune.training import job as several
from neuroprune.training import run as training

METHODS = {
    "dense": {"name": "dense"},
    "l1": {"name": "l1", "sparsity": 0.5},
    "ours": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
}
TIMING = TimingSettings(batch_sizes=(8,), examples=8, repeats=2, warmup=0)


@pytest.fixture(scope="module")
def processes():
    """Separate processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(several.LIBRARIES))
    return context


@dataclass
class Study:
    """A study's folder with functions that run jobs like the workflow, in separate processes."""

    processes: object
    place: several.Place
    made: Prepared

    def train(self, runs, checkpoint_minutes=10.0, **changes):
        place = replace(self.place, **changes)
        return self._call(several.train, runs, self.made, place, self.list_of("runs"), checkpoint_minutes)

    def measure(self, names, timing=TIMING, **changes):
        return self._call(several.measure, timing, names, replace(self.place, **changes), self.list_of("timings"))

    def _call(self, function, *arguments):
        process = self.processes.Process(target=to_file, args=(self.log, function, *arguments))
        process.start()
        process.join()
        return process.exitcode

    @property
    def log(self):
        return self.place.study.parent / "job.log"

    def list_of(self, what):
        return self.place.study / f"{what}.json"

    def record(self, run):
        return self.place.folder(run) / "run.json"

    def models(self):
        return {path.parent.name for path in self.place.study.glob("runs/*/model")}


def to_file(log, function, *arguments):
    """Call a function with standard output and error redirected to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    function(*arguments)


@pytest.fixture(scope="module")
def made_once(processes, tmp_path_factory):
    """Three trained runs, the first two of them to be timed; read-only."""
    folder = tmp_path_factory.mktemp("several")
    study = study_in(folder, processes, write_glue(folder / "data", "sst2", train=60, evaluated=24))
    assert study.train(job()) == 0
    return study


def study_in(folder, processes, data_root):
    data = tasks.prepare(settings().task, data_root)["sha256"]
    return Study(processes, several.Place(folder / "study", data_root), Prepared(data, "0" * 64))


@pytest.fixture
def study(made_once, processes, tmp_path):
    """A copy of it."""
    shutil.copytree(made_once.place.study, tmp_path / "study")
    return study_in(tmp_path, processes, made_once.place.data_root)


@pytest.fixture
def empty(made_once, processes, tmp_path):
    """The same study before any run."""
    return study_in(tmp_path, processes, made_once.place.data_root)


def job(timing=TIMING, timed=("dense", "l1"), **changes):
    base = settings(**changes)
    points = [{"run": run, "method": method, "seed": 3} for run, method in METHODS.items()]
    return JobRuns(model=base.model, task=base.task, training=base.training, points=points, timed=timed, timing=timing)


def contents(study, name="run.json"):
    return {path.parent.name: path.read_bytes() for path in study.place.study.glob(f"runs/*/{name}")}


def changed(study, before, name="run.json"):
    return {run for run, content in contents(study, name).items() if before.get(run) != content}


def test_runs_of_a_job_are_what_they_are_alone(made_once, tmp_path):
    for run in job().runs:
        training.train(run, tmp_path / run.run / "run.json", made_once.place.data_root)
        alone, ours = read_record(tmp_path / run.run / "run.json"), read_record(made_once.record(run.run))
        assert ours.settings == alone.settings and ours.status == "done"
        assert ours.result.files == alone.result.files  # hashes of arrays of the trained weights
        assert ours.result.metrics == alone.result.metrics
        assert ours.environment.model_sha256 == "0" * 64
        assert (made_once.place.folder(run.run) / "train.log").exists()
    listed = json.loads(made_once.list_of("runs").read_text())["files"]
    assert list(listed) == [f"{run}/run.json" for run in METHODS]


def test_models_wait_for_their_timing_and_no_longer(study):
    assert study.models() == {"dense", "l1"}
    assert study.measure(["dense", "l1"]) == 0
    assert study.models() == set()
    assert read_timing(study.place.folder("l1") / "timing.json").settings == TIMING
    assert contents(study, "timing.json").keys() == {"dense", "l1"}


def test_a_job_that_is_done_again_has_nothing_to_do(study):
    assert study.measure(["dense", "l1"]) == 0
    records, times = contents(study), contents(study, "timing.json")
    assert study.train(job()) == 0
    assert study.log.read_text() == "3 of 3 runs are already trained\n"
    assert study.measure(["dense", "l1"]) == 0
    assert (contents(study), contents(study, "timing.json")) == (records, times)


def test_checkpoints_of_a_job_that_was_killed_at_its_end_are_deleted(study):
    (left := study.place.folder("l1") / "checkpoints" / "checkpoint-8").mkdir(parents=True)
    records = contents(study)
    assert study.train(job()) == 0
    assert contents(study) == records and not left.parent.exists()


def test_runs_put_together_anew_are_not_done_again(study):
    before = contents(study)
    other = job().model_copy(update={"points": job().points[1:], "timed": ("l1",)})
    assert study.train(other) == 0
    assert contents(study) == before


def test_a_run_that_was_completed_while_this_process_started_is_not_trained_again(study):
    run = job().runs[0]
    before = contents(study)
    training.train(run, study.record(run.run), study.place.data_root, made=study.made)
    assert contents(study) == before
    training.train(run, study.record(run.run), study.place.data_root, made=replace(study.made, model_sha256="1" * 64))
    assert changed(study, before) == {run.run}


def test_other_times_need_the_models_of_timed_runs_again(study):
    assert study.measure(["dense", "l1"]) == 0
    before, other = contents(study), TIMING.model_copy(update={"examples": 4})
    assert study.train(job(timing=other)) == 0
    assert changed(study, before) == {"dense", "l1"} == study.models()
    assert contents(study, "timing.json") == {}  # they were those of the models before
    assert study.measure(["dense", "l1"], other) == 0
    assert read_timing(study.place.folder("dense") / "timing.json").settings == other


def test_times_that_are_missing_need_no_other_model(study):
    assert study.measure(["dense", "l1"]) == 0
    (study.place.folder("l1") / "timing.json").unlink()
    before = contents(study)
    assert study.train(job()) == 0
    assert changed(study, before) == {"l1"} == study.models()


def test_only_a_changed_run_is_trained_and_timed_again(study):
    assert study.measure(["dense", "l1"]) == 0
    times = contents(study, "timing.json")
    before, points = contents(study), list(job().points)
    points[1] = points[1].model_copy(update={"seed": 4})
    assert study.train(job().model_copy(update={"points": tuple(points)})) == 0
    assert changed(study, before) == {"l1"} == study.models()
    assert study.measure(["dense", "l1"]) == 0
    assert changed(study, times, "timing.json") == {"l1"}


@pytest.mark.parametrize("key", ["data_sha256", "model_sha256"])
def test_other_data_or_another_model_mean_all_runs(key, study):
    runs = {run.run: run for run in job().runs}
    assert all(several.is_trained(run, study.made, study.place) for run in runs.values())
    other = replace(study.made, **{key: "1" * 64})
    assert not any(several.is_trained(run, other, study.place) for run in runs.values())


def test_another_teacher_in_the_same_folder_trains_its_run_again(study, tmp_path):
    teacher = shutil.copytree(study.place.folder("dense") / "model", tmp_path / "teacher")
    points = [point.model_dump() for point in job().points]
    points[2]["method"]["teacher"] = str(teacher)
    runs = JobRuns.model_validate(job().model_dump() | {"points": points})
    assert study.train(runs) == 0, study.log.read_text()
    before = contents(study)
    weights = teacher / "model.safetensors"
    weights.touch()
    assert study.train(runs) == 0
    assert contents(study) == before
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x3f")
    assert study.train(runs) == 0
    assert changed(study, before) == {"ours"}
    assert read_record(study.record("ours")).environment.teacher_sha256 == teacher_hash(runs.runs[2])


def test_a_record_that_does_not_say_its_model_counts_and_a_damaged_one_does_not(study):
    run = job().runs[0]
    record = read_record(study.record("dense"))
    environment = record.environment.model_copy(update={"model_sha256": None})
    write_json(study.record("dense"), record.model_copy(update={"environment": environment}))
    assert several.is_trained(run, study.made, study.place)
    study.record("dense").write_text("{}")
    assert not several.is_trained(run, study.made, study.place)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"sha256": "0"', "[" * 100_000])
def test_a_damaged_manifest_is_named(tmp_path, text):
    whole, damaged = tmp_path / "whole.json", tmp_path / "damaged.json"
    whole.write_text('{"sha256": "0", "copied": null}')
    damaged.write_text(text)
    for pair in ((whole, damaged), (damaged, whole)):
        with pytest.raises(UserError, match=r"damaged\.json is damaged; delete it"):
            Prepared.read(*pair)
    with pytest.raises(UserError, match="No such file"):
        Prepared.read(whole, tmp_path / "none.json")


def test_models_are_kept_if_the_study_says_so(study):
    assert study.train(job(), keep_models=True) == 0
    assert study.models() == set(METHODS)  # that of the third was gone
    assert study.measure(["dense", "l1"], keep_models=True) == 0
    assert study.models() == set(METHODS)


def test_a_run_that_another_process_writes_fails_and_no_other_does(empty):
    folder = empty.place.folder("l1")
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert empty.train(job()) == 1
    assert contents(empty).keys() == {"dense", "ours"}
    assert not empty.list_of("runs").exists()
    said = empty.log.read_text()
    assert "2 of 3: l1 failed" in said and "another process is writing this run" in said
    assert f"1 of 3 runs could not be trained: l1; see {folder / 'train.log'}." in said
    before = contents(empty)
    assert empty.train(job()) == 0
    assert changed(empty, before) == {"l1"}


def test_after_a_kill_what_is_there_stays_and_the_rest_goes_on(empty, processes):
    long = job(training={"epochs": 30, "batch_size": 8, "learning_rate": 1e-3})
    arguments = (long, empty.made, empty.place, empty.list_of("runs"), 0.0)
    process = processes.Process(target=several.train, args=arguments)
    process.start()
    wait_until(lambda: any(empty.place.folder("l1").glob("checkpoints/*/progress.json")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until(lambda: is_free(empty.place.folder("l1")))  # its fork ends with it
    before = contents(empty)
    assert before.keys() == {"dense"}
    assert empty.train(long) == 0
    assert changed(empty, before) == {"l1", "ours"}
    resumed = {run: bool(read_record(empty.record(run)).result.resumed_at) for run in METHODS}
    assert resumed == {"dense": False, "l1": True, "ours": False}
    earlier, later = (empty.place.folder("l1") / name for name in ("train.1.log", "train.log"))
    assert earlier.exists() and "logs of interrupted jobs: train.1.log" in later.read_text()
    assert not (empty.place.folder("dense") / "train.1.log").exists()


def test_loading_the_libraries_of_a_job_initializes_no_accelerator():
    """Otherwise the forks of the job could not use one."""
    code = """
import importlib, torch
from neuroprune.training.job import LIBRARIES
def refuse(*words):
    raise AssertionError("asked for an accelerator")
for name in ("is_available", "device_count", "init", "current_device", "_lazy_init"):
    setattr(torch.cuda, name, refuse)
for library in LIBRARIES:
    importlib.import_module(library)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})


def wait_until(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.is_alive())
        time.sleep(0.01)


def is_free(folder: Path):
    """Whether no process writes a run."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return True
    except Timeout:
        return False
