"""A warning about more threads than cores appears in the plan and at the start of a study."""

import copy
import logging

import pytest
from test_bad_studies import STUDY

from neuroprune.config.catalogue import make_plan
from neuroprune.config.cores import available_cores, crowded, too_many_threads
from neuroprune.config.overview import overview
from neuroprune.config.training import TrainingSettings


def plan(tmp_path, **training):
    return make_plan(copy.deepcopy(STUDY) | {"training": training}, "my.yaml", tmp_path)


@pytest.mark.parametrize(
    ("training", "threads"),
    [({"processes": 5}, 5), ({"threads": 5}, 5), ({"processes": 3, "threads": 2, "batch_size": 30}, 6)],
)
def test_an_experiment_with_more_threads_than_cores_is_named(tmp_path, training, threads):
    (sentence,) = too_many_threads(plan(tmp_path, **{"batch_size": 30} | training), 4)
    assert sentence.startswith("experiments.e: ") and f"{threads} threads for the 4 cores" in sentence
    assert too_many_threads(plan(tmp_path, **{"batch_size": 30} | training), 6) == []


def test_timing_with_more_threads_than_cores_is_named(tmp_path):
    made = make_plan(copy.deepcopy(STUDY) | {"timing": {"threads": 8}}, "my.yaml", tmp_path)
    (sentence,) = too_many_threads(made, 4)
    assert sentence.startswith("timing: threads: 8 ") and "4" in sentence


def test_the_overview_compares_with_this_machine(tmp_path):
    assert "slows training down" not in overview(plan(tmp_path))
    text = " ".join(overview(plan(tmp_path, threads=4096)).split())
    assert f"threads: 4096 makes 4096 threads for the {available_cores()} cores of this machine" in text


def test_a_run_says_so_in_its_log(caplog, monkeypatch, tmp_path):
    from neuroprune.training.run import _set_up

    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    run = next(iter(plan(tmp_path).runs.values()))
    with caplog.at_level(logging.WARNING):
        _set_up(run)
        assert not caplog.messages
        _set_up(run.model_copy(update={"training": TrainingSettings(threads=available_cores() + 1)}))
    assert f"{run.run}: threads: {available_cores() + 1}" in caplog.messages[0]


def test_one_core_is_enough_for_the_defaults():
    assert crowded(TrainingSettings(), 1) is None
