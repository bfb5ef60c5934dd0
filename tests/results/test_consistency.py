"""Files of a run that contradict each other: `collect` names the run and leaves out what contradicts its record."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers import results
from neuroprune.errors import UserError
from neuroprune.results import consistency
from neuroprune.results.collect import collect
from neuroprune.results.records import PREDICTIONS
from neuroprune.results.runs import read_runs
from neuroprune.tasks import metrics


@pytest.fixture
def empty(tmp_path):
    return tmp_path / "odd"


@pytest.fixture
def pair(empty):
    """Two timed runs with arrays whose hashes are recorded."""
    settings = [
        {"method": {"name": "neuroprune", "sparsity": gone}, "seed": seed} for seed, gone in enumerate((0.5, 0.8))
    ]
    runs = [results.settings(**values) for values in settings]
    for run in runs:
        results.record_files(results.write_run(empty, run))
    results.write_plan(empty, runs)
    assert collect(empty) == []
    return [empty / "runs" / run.run for run in runs]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: run["settings"].update(seed=9), "do not match environment.settings_sha256"),
        (lambda run: run["result"].update(value=7.0), "value 7.0 and metrics.accuracy 0.8375 must be the same"),
        (lambda run: run["result"]["metrics"].update(accuracy=0.9), "metrics.accuracy 0.9 must be the same"),
        (
            lambda run: run["result"].update(metric="f1", metrics={"f1": run["result"]["value"]}),
            "result.metric 'f1' and settings.task.metric 'accuracy' must be the same",
        ),
        (lambda run: run["result"].update(majority=2.0), "majority 2.0 of accuracy must be a fraction"),
        (lambda run: run["result"].update(copied=50.0), "copied 50.0 of accuracy must be a fraction"),
        (
            lambda run: run["result"]["sparsity"].update(dense_parameters=5),
            "parameters 60000 exceed dense_parameters 5",
        ),
        (lambda run: run.update(status="diverged"), "a diverged run has no metric, but result.value is 0.8375"),
        (lambda run: run["result"].update(value=7.0), "result: value 7.0"),
        (lambda run: run["result"].update(train_seconds=float("inf")), "a number that is infinite or not a number"),
        (lambda run: run["result"].update(degree_sd_percent=float("nan")), "a number that is infinite or not a number"),
        (
            lambda run: run["result"].update(eval_seconds=60.0),
            "result.eval_seconds 60 exceeds result.train_seconds 40, which includes it",
        ),
        (lambda run: run["result"].update(train_seconds=-1.0), "result.train_seconds: Input should be greater than"),
        (lambda run: run["result"]["step_times"][0]["ms"].update(q1=-1), "ms.q1: Input should be greater than"),
        (
            lambda run: run["result"]["method"].update(removed_heads=[1, 2]),
            "removed_heads must be 3 lists",
        ),
        (lambda run: run["result"]["method"].update(removed_heads=[[1]]), "removed_heads must be 3 lists"),
        (lambda run: run["result"]["method"].update(removed_heads=[[-1]] * 3), "removed_heads must be 3 lists"),
        (lambda run: run["result"]["method"].update(removed_heads=[[2**40]] * 3), "removed_heads must be 3 lists"),
    ],
)
def test_a_record_that_contradicts_itself_is_named_and_left_out(pair, empty, change, sentence):
    results.edit(pair[0] / "run.json", change)
    missing, said = collect(empty)
    assert missing == f"1 of 2 runs without a readable record: {pair[0].name}."
    assert f"{pair[0].name}/run.json" in said and sentence in said and "\n" not in said
    assert list(read_runs(empty)["run"]) == [pair[1].name]


def set_metric(value):
    """Replace a record's accuracy in both places."""
    return lambda run: run["result"].update(value=value, metrics=run["result"]["metrics"] | {"accuracy": value})


def test_an_edited_metric_is_compared_with_the_predictions(empty):
    run = results.settings()
    place = results.write_run(empty, run, value=0.75, with_timing=False)
    true = np.arange(200, dtype=np.uint8) % 2
    save_file({"predicted": np.where(np.arange(200) < 50, 1 - true, true), "true": true}, place / PREDICTIONS)
    results.record_files(place)
    assert collect(empty) == []
    results.edit(place / "run.json", set_metric(0.95))
    with pytest.raises(UserError) as error:
        collect(empty)
    assert (
        f"{place / 'run.json'}: result.metrics.accuracy is 0.95, but its predictions.safetensors gives 0.75; it was "
        "edited after the run. Restore the file, or delete it and run again."
    ) in str(error.value)


def test_an_edited_metric_is_compared_with_the_last_evaluation(pair, empty):
    evaluations = [{"step": 25, "eval_accuracy": 0.25}, {"step": 50, "eval_accuracy": 0.5}, {"step": 100, "loss": 1.0}]
    results.edit(pair[0] / "run.json", lambda run: run["result"].update(history=evaluations))
    results.edit(pair[0] / "run.json", set_metric(0.5))
    assert collect(empty) == []
    results.edit(pair[0] / "run.json", set_metric(0.9))
    said = collect(empty)[-1]
    assert (
        f"{pair[0].name}/run.json: result.metrics.accuracy is 0.9, but the evaluation in result.history gives 0.5"
        in said
    )
    assert list(read_runs(empty)["run"]) == [pair[1].name]


@pytest.mark.parametrize("rows", [199, 0])
def test_predictions_of_other_rows_are_named(empty, rows):
    place = results.write_run(empty, results.settings(), value=1.0, with_timing=False)
    classes = np.zeros(rows, dtype=np.uint8)
    save_file({"predicted": classes, "true": classes}, place / PREDICTIONS)
    results.record_files(place)
    with pytest.raises(UserError, match=r"the classes of 200 rows, as run\.json says; restore"):
        collect(empty)


@pytest.mark.parametrize("classes", [1, 2, 3, 256])
def test_metrics_of_predictions_are_those_of_the_training(tmp_path, classes):
    draw = np.random.default_rng(classes)
    predicted, true = draw.integers(0, classes, (2, 500)).astype(np.uint8)
    predicted[:250] = true[:250]
    names = [name for name in metrics.METRICS if name != "f1" or classes == 2]
    measured = metrics.judge(names, predicted, true)
    place = results.write_run(tmp_path, results.settings(), value=measured["accuracy"], metrics=measured)
    save_file({"predicted": predicted, "true": true}, place / PREDICTIONS)
    results.edit(place / "run.json", lambda run: run["result"].update(eval_rows=500))
    results.record_files(place)
    assert set(names) <= consistency.METRICS.keys() and collect(tmp_path) == []
    for name in names:
        wrong = measured | {name: measured[name] - 0.01}
        results.edit(place / "run.json", lambda run: run["result"].update(metrics=wrong, value=wrong["accuracy"]))  # noqa: B023
        with pytest.raises(UserError, match=rf"metrics\.{name} is .*predictions\.safetensors gives "):
            collect(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda timing: timing["batches"][0]["ms_per_example"].update(median=-1.0), "Input should be greater than"),
        (lambda timing: timing["batches"][0]["ms_per_example"].update(q3=float("inf")), "a number that is infinite"),
        (lambda timing: timing["batches"][0]["dense_ms_per_example"].update(q1=0), "a time of 0 ms, which no pass"),
        (
            lambda timing: timing["batches"][0].update(batch_size=7),
            "times of batch sizes [7, 32] instead of [1, 32], those of its settings",
        ),
        (
            lambda timing: timing["batches"].append(timing["batches"][0]),
            "times of batch sizes [1, 32, 1] instead of [1, 32], those of its settings",
        ),
        (lambda timing: timing["settings"].update(repeats=99), "do not match environment.settings_sha256"),
        (lambda timing: timing.update(parameters=5), "times of another model (parameters 5 instead of 60000)"),
        (lambda timing: timing["environment"].update(data_sha256="2" * 64), "times of another model (data 2222"),
    ],
)
def test_times_that_contradict_the_record_are_named_and_left_out(pair, empty, change, sentence):
    results.edit(pair[0] / "timing.json", change)
    untimed, said = collect(empty)
    assert untimed == f"1 of 2 runs not timed: {pair[0].name}."
    assert f"{pair[0].name}/timing.json" in said and sentence in said and "\n" not in said
    assert list(read_runs(empty)["inference_ms_b1"].isna()) == [True, False]


def test_times_of_another_run_are_named_and_left_out(pair, empty):
    shutil.copy(pair[1] / "timing.json", pair[0])
    said = collect(empty)[-1]
    assert f"{pair[0].name}/timing.json: times of another model (run {pair[1].name} instead of {pair[0].name}" in said


@pytest.mark.parametrize("name", ["degrees", "cells", "heads", "patterns"])
def test_arrays_of_another_run_are_named(pair, empty, name):
    shutil.copy(pair[1] / f"{name}.safetensors", pair[0])
    (said,) = collect(empty)
    assert f"{pair[0].name}/{name}.safetensors: differs from the file that the run wrote" in said


@pytest.mark.parametrize("folder", [False, True])
def test_missing_arrays_are_named(pair, empty, folder):
    path = pair[0] / "degrees.safetensors"
    path.unlink()
    if folder:
        path.mkdir()
    (said,) = collect(empty)
    assert said == (
        f"{path}: is missing, although run.json names it; restore the file, or delete run.json beside it and run again."
    )


def test_a_record_may_say_that_nothing_is_known_of_removed_heads(pair, empty):
    results.edit(pair[0] / "run.json", lambda run: run["result"]["method"].update(removed_heads=None))
    assert collect(empty) == []


def test_a_copied_run_is_named_and_counted_once(pair, empty):
    shutil.copytree(pair[0], pair[0].with_name("copy"))
    (empty / "plan.json").unlink()
    (said,) = collect(empty)
    assert f"runs/copy: contains the record of the run {pair[0].name} and is left out" in said
    assert list(read_runs(empty)["run"]) == [folder.name for folder in pair]
