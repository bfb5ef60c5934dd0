"""Estimates of a study's GPU hours and disk space from its plan."""

import pytest

from neuroprune.config import gpu_hours, jobs
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.methods import METHOD_SETTINGS
from neuroprune.config.settings import RunSettings

T5 = {"name": "t5_base", "source": "google-t5/t5-base"}
CNN = {
    "name": "cnn_dailymail", "kind": "summarization", "source": "abisee/cnn_dailymail", "config": "3.0.0",
    "inputs": ["article"], "label": "highlights", "metric": "rougeLsum", "max_length": 512,
}  # fmt: skip


def run(**changes):
    values = {"run": "r", "model": T5, "task": CNN, "method": {"name": "dense"}, "training": {"epochs": 1}, "seed": 0}
    return RunSettings.model_validate(values | changes)


def test_the_papers_own_run_takes_the_papers_time():
    assert gpu_hours.hours(run()) == pytest.approx((24_603 + gpu_hours.OVERHEAD_SECONDS) / 3600)


def test_time_grows_with_epochs_and_shrinks_with_rows():
    overhead = gpu_hours.OVERHEAD_SECONDS / 3600
    full = gpu_hours.hours(run()) - overhead
    assert gpu_hours.hours(run(training={"epochs": 3})) - overhead == pytest.approx(3 * full)
    assert gpu_hours.hours(run(task=CNN | {"train_rows": 28_711})) - overhead == pytest.approx(full / 10, rel=1e-3)
    assert gpu_hours.hours(run(task=CNN | {"train_rows": 10**9})) == gpu_hours.hours(run())


def test_what_is_not_known_is_counted_apart():
    unknown = run(model={"name": "x", "source": "some/where"})
    assert gpu_hours.hours(unknown) is None
    found = gpu_hours.cost({"a": run(), "b": unknown}, stored={"a"})
    assert (found.unknown, found.records) == (1, 2e6)
    assert found.models == 4 * 223e6


def test_the_papers_study_is_known_in_full():
    plan = make_plan(read_study(["config/paper.yaml"]), "config/paper.yaml")
    *parts, total = gpu_hours.table(plan, jobs.count_by_experiment(plan))
    assert [row[0] for row in parts] == list(plan.study.experiments)
    assert not any("unknown" in cell for row in [*parts, total] for cell in row)
    assert int(total[1]) == len(plan.runs) == sum(int(row[1]) for row in parts)
    assert set(plan.study.models) >= {"bert_base", "t5_base", "opt_125m", "t5_large", "opt_1.3b"}
    sparsities = {r.method.sparsity for r in plan.runs.values() if getattr(r.method, "sparsity", None)}
    assert sparsities == {0.25, 0.5, 0.7, 0.8, 0.9, 0.95}
    heads = {run.method.heads for run in plan.runs.values() if getattr(run.method, "heads", None)}
    assert {12, 25, 50, 75, 100, 125, 144} <= heads
    families = ("bert_base", "t5_base", "opt_125m")
    compared = {(run.model.name, run.method.name) for run in plan.runs.values() if run.task.name == "rte"}
    others = METHOD_SETTINGS.keys() - {"cofi"}  # which the paper has on BERT alone
    assert {(model, method) for model in families for method in others} <= compared
    assert {model for model, method in compared if method == "cofi"} == {"bert_base"}
    epochs = {run.training.epochs for run in plan.runs.values() if run.method.name == "cofi"}
    assert epochs == {20, 100}
    grid = {(m.alpha, m.beta, m.theta) for m in _penalties(plan, "bert_base", "sst2")}
    tens = [10.0**power for power in range(-7, 0)]
    assert grid == {(a, b, theta) for a in tens for b in tens for theta in (0.15, 0.2, 0.25)}
    assert {m.penalty_start for m in _penalties(plan, "transformer_18", "iwslt14_de_en")} == {0.5}


def _penalties(plan, model, task):
    """Return the settings of NeuroPrune's penalty runs on one model and task."""
    runs = [run for run in plan.runs.values() if (run.model.name, run.task.name) == (model, task)]
    return [run.method for run in runs if run.method.name == "neuroprune" and run.method.form == "penalty"]
