"""Estimated work of runs: by operations for known models and datasets, else by rows and epochs."""

from pathlib import Path

import pytest

from neuroprune.config.catalogue import make_plan
from neuroprune.config.workload import operations, shares

ROOT = Path(__file__).parents[2]


def planned(methods, model="minilm", training=None, **task):
    study = {
        "study": "work",
        "tasks": {"movie_snippets": {"train_rows": 100} | task},
        "models": {"own": {"source": "models/own"}} if model == "own" else {},
        "training": {"epochs": 2} | (training or {}),
        "experiments": {"one": {"models": [model], "tasks": ["movie_snippets"], "methods": methods}},
    }
    return make_plan(study, "work.yaml", ROOT / "config").runs


def test_operations_of_a_known_model_by_hand():
    (run,) = planned([{"name": "dense"}]).values()
    weights = 6 * (4 * 384**2 + 2 * 384 * 1536)  # 10.6 M
    assert operations(run) == 6 * weights * 27 * 100 * 2
    (short,) = planned([{"name": "dense"}], max_length=16).values()
    assert operations(short) == 6 * weights * 16 * 100 * 2


def test_units_that_are_removed_save_time_and_zeros_do_not():
    methods = [{"name": "dense"}, {"name": "neuroprune", "sparsity": 0.8}, {"name": "l1", "sparsity": 0.8}]
    methods += [{"name": "neuroprune", "algorithm": "penalties", "sparsity": 0.8, "theta": 0.2}]
    dense, target, magnitude, penalties = (operations(run) for run in planned(methods).values())
    assert target == pytest.approx((1 - 0.77 * 0.8 * 7 / 12) * dense)  # three events from 1/3 to 1/2 of the steps
    assert magnitude == penalties == dense


def test_units_that_are_removed_late_save_little():
    methods = [{"name": "dense"}, {"name": "cofi", "sparsity": 0.8}, {"name": "taylor", "sparsity": 0.8, "end": 0.9}]
    dense, cofi, late = (operations(run) for run in planned(methods).values())
    assert cofi == pytest.approx((1 - 0.77 * 0.8 * 0.17) * dense)
    assert late == pytest.approx((1 - 0.77 * 0.8 * (1 - (1 / 3 + 0.9) / 2)) * dense)


def test_training_on_to_the_dense_budget_saves_nothing():
    methods = [{"name": "dense"}, {"name": "neuroprune", "sparsity": 0.8}]
    dense, same_budget = (operations(run) for run in planned(methods, training={"budget": "dense_flops"}).values())
    assert same_budget == dense


@pytest.mark.parametrize("model", ["minilm", "own"])
def test_shares_add_up_to_one(model):
    found = shares(planned([{"name": "dense"}, {"name": "neuroprune", "sparsity": 0.8}], model))
    assert list(found.values()) == pytest.approx([1 / (1 + 0.640667), 0.640667 / (1 + 0.640667)], rel=1e-5)


def test_a_model_cut_to_its_lowest_layers_takes_their_work():
    (whole,) = planned([{"name": "dense"}]).values()
    cut = whole.model_copy(update={"model": whole.model.model_copy(update={"layers": 2})})
    assert operations(cut) == pytest.approx(operations(whole) / 3)


def test_the_work_of_an_unknown_model_is_not_known():
    (run,) = planned([{"name": "dense"}], "own").values()
    assert operations(run) is None
