"""Estimate before a study: missing runs, time on this machine, disk space."""

import os
from pathlib import Path

import pytest
import torch

from helpers.results import write_run
from neuroprune.config.catalogue import make_plan
from neuroprune.errors import UserError
from neuroprune.training import estimate, machine_speed

ROOT = Path(__file__).parents[2]
OPERATIONS = 6 * 6 * (4 * 384**2 + 2 * 384 * 1536) * 27 * 1000 * 2  # of a dense run of two epochs of 1,000 rows


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: False)
    study = {
        "study": "two",
        "seeds": [0, 1],
        "results": str(tmp_path),
        "tasks": {"movie_snippets": {"train_rows": 1000}},
        "training": {"epochs": 2},
        "experiments": {"one": {"models": ["minilm"], "tasks": ["movie_snippets"], "methods": [{"name": "dense"}]}},
    }
    return make_plan(study, "two.yaml", ROOT / "config")


def test_time_follows_the_speed_of_the_machine_and_the_runs_that_are_missing(plan, monkeypatch):
    monkeypatch.setattr(estimate, "operations_per_second", lambda: OPERATIONS / 100)  # a run trains for 100 s
    said = estimate.estimate(plan, "2")
    assert said.startswith("two: 2 runs. About 3 min on 2 cores if nothing else runs (")  # (2 * 120) / 2 + 60 s
    assert said.endswith(f" GB of disk space in {plan.study.folder}.")
    write_run(plan.study.folder, next(iter(plan.runs.values())), with_arrays=False)
    assert estimate.estimate(plan, "1").startswith("two: 2 runs, 1 of them done. About 3 min on 1 core if ")


def test_runs_that_are_repeated_because_of_other_settings_count_as_missing(plan, monkeypatch):
    monkeypatch.setattr(estimate, "operations_per_second", lambda: OPERATIONS / 100)
    for run in plan.runs.values():
        earlier = run.model_copy(update={"training": run.training.model_copy(update={"epochs": 1.0})})
        write_run(plan.study.folder, earlier, with_arrays=False)
    repeated = "2 runs have a record that does not count and will be repeated: 2 made with other settings."
    assert estimate.estimate(plan, "2").startswith(f"two: 2 runs. {repeated} About 3 min on 2 cores if nothing else ")


def test_all_cores_are_those_that_the_process_may_use(plan, monkeypatch):
    monkeypatch.setattr(estimate, "operations_per_second", lambda: OPERATIONS / 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert " on 1 core if nothing else runs (" in estimate.estimate(plan)


def test_runs_of_unknown_models_are_counted(plan, monkeypatch):
    monkeypatch.setattr(estimate, "operations_per_second", lambda: 1e9)
    monkeypatch.setattr(estimate, "operations", lambda run: None)
    assert ", without the training of 2 runs whose model or dataset is unknown. " in estimate.estimate(plan)


@pytest.mark.parametrize("cores", ["0", "many", "-1"])
def test_odd_numbers_of_cores_are_refused(plan, monkeypatch, cores):
    monkeypatch.setattr(estimate, "operations_per_second", lambda: 1e9)
    with pytest.raises(UserError, match="number of cores"):
        estimate.estimate(plan, cores)


def test_the_speed_of_this_machine_is_measured_without_a_trace():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 1e8 < machine_speed.operations_per_second(0.05) < 1e14
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
