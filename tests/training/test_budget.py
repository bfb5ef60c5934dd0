"""Runs that end at the cost of dense fine-tuning."""

import pytest
import torch
from test_run import run, settings
from transformers import get_linear_schedule_with_warmup

from helpers.data import write_glue
from neuroprune.config.canonical import canonical
from neuroprune.results.records import read_record
from neuroprune.training import checkpoints
from neuroprune.training import run as training
from neuroprune.training.budget import EqualCost

TRAINING = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3}  # 60 rows: 8 steps an epoch, 24 in all
NEUROPRUNE = {"name": "neuroprune", "sparsity": 0.8, "calibration_rows": 16}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("data"), "sst2", train=60, evaluated=24)


def chosen(method, budget="dense_flops", **more):
    return settings(method=method, training=TRAINING | {"budget": budget} | more)


@pytest.mark.parametrize("method", [{"name": "dense"}, {"name": "l1", "sparsity": 0.5}], ids=["dense", "l1"])
def test_a_run_that_saves_no_operations_is_the_same(method, data_root, tmp_path):
    """l1 leaves zeros, which cost as much as other numbers until they are removed at the end."""
    plain, longer = (run(chosen(method, kind), data_root, tmp_path / kind).result for kind in ("epochs", "dense_flops"))
    assert longer.files == plain.files  # hashes of arrays of the weights
    assert (longer.steps, longer.epochs, longer.history) == (plain.steps, plain.epochs, plain.history)


@pytest.fixture(scope="module")
def longer(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("longer")
    run(chosen(NEUROPRUNE), data_root, folder)
    return folder


def test_a_pruned_model_is_trained_on_after_the_same_events(longer, data_root, tmp_path):
    plain = run(chosen(NEUROPRUNE, "epochs"), data_root, tmp_path / "plain").result
    result = read_record(longer / "run.json").result
    assert [event["step"] for event in result.method["events"]] == [8, 10, 12]
    assert [event["step"] for event in plain.method["events"]] == [8, 10, 12]
    assert plain.steps == 24 and 30 < result.steps < 100
    assert result.method["fold"] == plain.method["fold"] == "least squares", "12 dense steps follow the last event"
    assert result.epochs == pytest.approx(result.steps / 8)
    assert result.sparsity.weights == pytest.approx(0.8, abs=1e-3)
    rates = {entry["step"]: entry["learning_rate"] for entry in result.history if "learning_rate" in entry}
    assert rates[max(rates)] < 0.1 * max(rates.values())
    before = [entry["loss"] for entry in result.history if "loss" in entry and entry["step"] <= 8]
    assert before == [entry["loss"] for entry in plain.history if "loss" in entry and entry["step"] <= 8]


T5 = {
    "name": "tiny_t5",
    "source": "random:t5",
    "config": {"vocab_size": 300, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2},
}
OTHERS = {
    "t5": {"method": NEUROPRUNE, "model": T5},
    "cofi": {"method": {"name": "cofi", "sparsity": 0.6}},
    "penalty": {"method": {"name": "neuroprune", "alpha": 0.03, "beta": 0.3, "theta": 0.5, "mode": "decoupled"}},
    "passes": {"method": NEUROPRUNE, "training": TRAINING | {"accumulation": 2}},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_methods_and_models_train_on_too(kind, data_root, tmp_path):
    asked = {"training": TRAINING} | OTHERS[kind]
    asked["training"] = asked["training"] | {"budget": "dense_flops"}
    result = run(settings(**asked), data_root, tmp_path).result
    assert result.steps > 24
    rates = [entry["learning_rate"] for entry in result.history if "learning_rate" in entry]
    assert rates[-1] < 0.2 * max(rates)


class StoppedError(Exception):
    pass


def test_an_interrupted_run_goes_on_with_its_budget(longer, data_root, tmp_path, monkeypatch):
    finish = checkpoints.Checkpoints.on_save

    def stop(self, args, state, control, **more):
        finish(self, args, state, control, **more)
        if state.global_step == 11:  # between the events
            raise StoppedError

    monkeypatch.setattr(checkpoints.Checkpoints, "on_save", stop)
    with pytest.raises(StoppedError):
        training.train(chosen(NEUROPRUNE), tmp_path / "run" / "run.json", data_root, 0.0)
    monkeypatch.undo()
    training.train(chosen(NEUROPRUNE), tmp_path / "run" / "run.json", data_root)
    ours, expected = (read_record(folder / "run.json").result for folder in (tmp_path / "run", longer))
    assert ours.resumed_at == [11]
    assert (ours.steps, ours.files) == (expected.steps, expected.files)


def test_all_steps_together_cost_as_much_as_the_dense_ones():
    costs = [[0, 10**12], [40, 6 * 10**11], [50, 2 * 10**11]]
    end = EqualCost(100, 6, costs).end
    assert end == 50 + int((100 - 40 - 6) / 0.2)
    assert 40 * 1.0 + 10 * 0.6 + (end - 50) * 0.2 == pytest.approx(100, abs=0.2)
    assert EqualCost(100, 6, costs[:2]).end == 40 + 100 == EqualCost(100, 6, costs).ends()[1]


def test_the_rate_is_linear_between_changes_and_ends_at_zero():
    budget = EqualCost(100, 6, [[0, 100], [40, 60], [50, 20]])
    rates = [budget.rate(step) for step in range(budget.end + 1)]
    slopes = torch.tensor(rates).double().diff()
    assert rates[6] == 1.0 and rates[-1] == 0.0
    for begin, end in ((0, 6), (6, 40), (40, 50), (50, budget.end)):
        torch.testing.assert_close(slopes[begin:end], slopes[begin].expand(end - begin), rtol=1e-4, atol=1e-6)
    assert (slopes[6:] < 0).all() and slopes[45] > slopes[30] and slopes[60] > slopes[45]


def test_without_a_change_the_schedule_is_that_of_transformers():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    (expected,) = get_linear_schedule_with_warmup(optimizer, 6, 100).lr_lambdas
    budget = EqualCost(100, 6, [[0, 123]])
    assert [budget.rate(step) for step in range(101)] == [expected(step) for step in range(101)]


def test_the_default_budget_is_no_part_of_what_identifies_a_run():
    usual = settings(method={"name": "dense"})
    assert '"budget"' not in canonical(usual)
    assert '"budget": "dense_flops"' in canonical(chosen({"name": "dense"}))
