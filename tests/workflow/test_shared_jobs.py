"""The real workflow with shared jobs: the same results, and only missing runs after a kill or change."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, signal_all, training_processes
from test_mini_study import DENSE, L1, NEUROPRUNE, rows_of, study_file, write_weather

from neuroprune.results.records import read_record, read_timing

RUNS = (DENSE, NEUROPRUNE, L1)
TIMED = (NEUROPRUNE, L1)
JOB = "sweep-tiny-weather-1"
SHARED = {"runs_per_job": 3, "artefacts": ["summary"]}


def shared_study(folder, edit=lambda study: None):
    """The mini study with all its runs in one job, edited."""
    return study_file(folder, lambda study: (study.update(SHARED), edit(study)))


def kill_after_first_run(folder, study):
    """Start the study and kill its training job when the second run is under way; return what Snakemake said."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    words = ["snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2", "--configfile", study]
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, cwd=folder, env=environment, **pipes) as snakemake:
        deadline = time.monotonic() + 400
        while not (folder / "results" / "mini" / "runs" / NEUROPRUNE / "train.log").exists():
            assert time.monotonic() < deadline and snakemake.poll() is None
            time.sleep(0.02)
        signal_all(training_processes(folder), signal.SIGKILL)
        return snakemake.communicate()[0]


@pytest.fixture(scope="module")
def finished(snakemake, tmp_path_factory):
    """A folder with a study that was finished after a kill; read-only."""
    folder = tmp_path_factory.mktemp("shared")
    write_weather(folder / "data")
    study = shared_study(folder)
    runs = folder / "results" / "mini" / "runs"
    said = kill_after_first_run(folder, study)
    assert "rule train:" in said or "Train sweep" in said
    first = (runs / DENSE / "run.json").read_bytes()
    assert not (runs / NEUROPRUNE / "run.json").exists()
    done = snakemake(folder, "--cores", "2", "--configfile", study)
    assert done.code == 0, done.out + done.err
    assert done.jobs == {"train": 1, "measure": 1, "collect": 1, "summary": 1, "all": 1}
    assert (runs / DENSE / "run.json").read_bytes() == first  # its job was killed, and it stayed
    return folder


@pytest.fixture
def own_copy(finished, tmp_path):
    """A modifiable copy of that folder, including modification times."""
    return Path(shutil.copytree(finished, tmp_path / "mini"))


def contents(folder, name="run.json"):
    runs = folder / "results" / "mini" / "runs"
    return {path.parent.name: path.read_bytes() for path in runs.glob(f"*/{name}")}


def test_runs_that_share_a_job_are_timed_and_leave_no_models(finished):
    study = finished / "results" / "mini"
    assert [row["run"] for row in rows_of(study / "runs.csv")] == list(RUNS)
    for run in RUNS:
        assert read_record(study / "runs" / run / "run.json").status == "done"
        assert (study / "runs" / run / "train.log").stat().st_size > 0
    for run in TIMED:
        assert len(read_timing(study / "runs" / run / "timing.json").batches) == 2
    assert not (study / "runs" / DENSE / "timing.json").exists()
    assert not list(study.glob("runs/*/model")) and not (study / "jobs" / JOB / "models").exists()
    assert "2 of 2: " in (study / "jobs" / JOB / "measure.log").read_text()


def test_a_second_call_has_nothing_to_do(snakemake, finished):
    done = snakemake(finished, "--cores", "2", "--configfile", "study.yaml")
    assert "Nothing to be done" in done.out + done.err


def test_one_run_is_a_target_still_and_gives_the_same(snakemake, finished, tmp_path):
    (tmp_path / "data").symlink_to(finished / "data")
    target = f"results/mini/runs/{NEUROPRUNE}/run.json"
    words = [f"results/mini/jobs/{NEUROPRUNE}/runs.json"]
    done = snakemake(tmp_path, *words, "--cores", "2", "--configfile", finished / "study.yaml")
    assert done.code == 0, done.out + done.err
    assert done.jobs == {"prepare_data": 1, "prepare_model": 1, "train": 1}
    alone, shared = (read_record(folder / target).result for folder in (tmp_path, finished))
    assert alone.files == shared.files and alone.metrics == shared.metrics


def test_one_changed_value_trains_only_the_run_that_it_concerns(snakemake, own_copy):
    before, times = contents(own_copy), contents(own_copy, "timing.json")
    study = shared_study(own_copy, lambda study: study["experiments"]["sweep"]["methods"][1].update(ridge=0.02))
    done = snakemake(own_copy, "--cores", "2", "--configfile", study)
    assert done.code == 0, done.out + done.err
    assert {run for run, text in contents(own_copy).items() if text != before[run]} == {NEUROPRUNE}
    assert {run for run, text in contents(own_copy, "timing.json").items() if text != times[run]} == {NEUROPRUNE}
    assert read_record(own_copy / f"results/mini/runs/{NEUROPRUNE}/run.json").settings.method.ridge == 0.02


def test_a_record_that_was_deleted_is_made_again_and_no_other(snakemake, own_copy):
    before = contents(own_copy)
    for name in (f"runs/{L1}/run.json", "runs.csv"):
        (own_copy / "results" / "mini" / name).unlink()
    files = sorted(own_copy.joinpath("results").rglob("*"))
    dry = snakemake(own_copy, "collect", "--dry-run", "--configfile", "study.yaml")
    assert dry.code == 0, dry.out + dry.err
    assert dry.jobs == {"train": 1, "measure": 1, "collect": 1}
    assert sorted(own_copy.joinpath("results").rglob("*")) == files
    done = snakemake(own_copy, "collect", "--cores", "2", "--configfile", "study.yaml")
    assert done.code == 0, done.out + done.err
    after = contents(own_copy)
    assert {run for run in RUNS if after[run] != before[run]} == {L1}


def test_putting_runs_together_otherwise_trains_and_times_none(snakemake, own_copy):
    before, times = contents(own_copy), contents(own_copy, "timing.json")
    words = ["--cores", "2", "--configfile", "study.yaml", "--config", "runs_per_job=2"]
    done = snakemake(own_copy, *words)
    assert done.code == 0, done.out + done.err
    assert "plan" not in done.jobs
    assert (contents(own_copy), contents(own_copy, "timing.json")) == (before, times)


def test_a_run_that_fails_takes_no_other_down_and_is_named(snakemake, tmp_path, finished):
    (tmp_path / "data").symlink_to(finished / "data")
    lies_in_the_way = tmp_path / f"results/mini/runs/{NEUROPRUNE}/timing.json"
    lies_in_the_way.mkdir(parents=True)  # a folder where a file is to be deleted
    done = snakemake(tmp_path, "--cores", "2", "--configfile", finished / "study.yaml")
    assert done.code == 1
    assert contents(tmp_path).keys() == {DENSE, L1}
    assert f"1 of 3 runs could not be trained: {NEUROPRUNE}; " in done.out + done.err


def test_other_ways_of_timing_train_the_runs_whose_models_are_gone(snakemake, own_copy):
    before = contents(own_copy)
    study = shared_study(own_copy, lambda study: study["timing"].update(repeats=4, seeds=1))
    done = snakemake(own_copy, "--cores", "2", "--configfile", study)
    assert done.code == 0, done.out + done.err
    assert {run for run, text in contents(own_copy).items() if text != before[run]} == set(TIMED)
    assert read_timing(own_copy / f"results/mini/runs/{L1}/timing.json").settings.repeats == 4
