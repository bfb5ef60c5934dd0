"""Verification of published runs: number-by-number comparison, and reports of runs that cannot be retrained."""

import json

import pytest
from test_run import settings

from helpers import results
from helpers.data import write_glue
from neuroprune import cli
from neuroprune.errors import UserError
from neuroprune.training import run as training
from neuroprune.training.verify import choose, compare, verify


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_glue(folder / "data", "sst2", train=60, evaluated=24)
    training.train(settings(), folder / "small" / "runs" / settings().run / "run.json", folder / "data")
    return folder


def record_of(published):
    return published / "small" / "runs" / settings().run / "run.json"


def test_a_run_that_is_retrained_on_the_same_machine_is_equal(published, capsys):
    words = ["verify", str(published / "small"), "--number", "1", "--data-root", str(published / "data")]
    assert cli.main(words) == 0
    run, said = capsys.readouterr().out.splitlines()[-2:]
    assert run.startswith(f"small/{settings().run}: accuracy ")
    assert run.count(", equal") == 4  # accuracy, F1, Matthews correlation, sparsity
    assert said == "1 of 1 runs match, 0 differ, 0 not retrained."


def test_what_differs_is_named_with_its_tolerance():
    one = results.record(results.settings(method={"name": "neuroprune", "sparsity": 0.5})).result
    near = one.model_copy(update={"metrics": {"accuracy": one.value + 0.05}})
    far = near.model_copy(update={"metrics": {"accuracy": one.value - 0.06}})
    (metric, sparsity), matches = zip(*compare(one, near).items(), strict=True)
    assert metric == "accuracy 0.8375 published, 0.8875 now, within ± 0.0522" and matches == (True, True)
    assert sparsity == "sparsity 0.5000, equal"
    assert compare(one, far) == {
        "accuracy 0.8375 published, 0.7775 now, NOT within ± 0.0522": False, "sparsity 0.5000, equal": True
    }  # fmt: skip


def test_a_perplexity_has_a_relative_tolerance():
    """200 rows: two standard errors of the loss are 2 x 0.5 / sqrt(200) = 0.0707, and exp(0.0707) = 1.0733."""
    one = results.record(results.settings(), metrics={"perplexity": 80.0, "loss": 4.38}).result
    near, far = (
        one.model_copy(update={"metrics": one.metrics | {"perplexity": found, "loss": 9.0}}) for found in (85.8, 74.1)
    )
    assert compare(one, near)["perplexity 80.0000 published, 85.8000 now, within ± 5.8617"]
    assert not compare(one, far)["perplexity 80.0000 published, 74.1000 now, NOT within ± 5.8617"]


def test_missing_data_and_other_data_are_said(published, tmp_path, capsys):
    (check,) = verify([record_of(published)], tmp_path)
    assert check.matches is None and "not retrained, " in check.text
    write_glue(tmp_path / "other", "sst2", train=40, evaluated=24)
    (check,) = verify([record_of(published)], tmp_path / "other")
    assert check.text.endswith("not retrained, its data differ from those of the original run (SHA-256)")
    assert cli.main(["verify", str(published / "small"), "--data-root", str(tmp_path / "other")]) == 1
    assert "0 of 1 runs match, 0 differ, 1 not retrained." in capsys.readouterr().err


def test_an_earlier_version_of_the_method_is_named(tmp_path):
    run = results.settings(method={"name": "taylor", "sparsity": 0.5, "version": 1}, max_length=16, train_split="none")
    folder = results.write_run(tmp_path / "small", run, with_arrays=False)
    (check,) = verify([folder / "run.json"], tmp_path)
    assert check.text.startswith(f"small/{run.run} (version 1 of taylor): not retrained, ")


def test_finished_runs_are_chosen_by_seed(tmp_path):
    runs = [results.settings(seed=seed) for seed in range(9)]
    for run in runs:
        results.write_run(tmp_path, run, with_arrays=False, status="diverged" if run.seed == 0 else "done")
    first = choose([tmp_path], 4, seed=1)
    assert first == choose([tmp_path], 4, seed=1) != choose([tmp_path], 4, seed=2)
    assert len({*choose([tmp_path], 20, seed=1)}) == 8
    assert all(json.loads(path.read_text())["status"] == "done" for path in choose([tmp_path], 20))
    with pytest.raises(UserError, match="no finished run"):
        choose([tmp_path / "none"], 1)
