"""A single run from settings to its folder: written files, failures, and reproducibility."""

import copy
import json
import os
import random
import resource

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file
from transformers import AutoModel, BertConfig

import neuroprune
from helpers.data import write_glue
from helpers.models import make_model
from neuroprune import tasks
from neuroprune.config.settings import RunSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash
from neuroprune.methods import linear_probe
from neuroprune.methods.dense import Dense
from neuroprune.models import sources
from neuroprune.pruning.surgery import remove
from neuroprune.results.records import read_arrays, read_patterns, read_record
from neuroprune.training import run as training
from neuroprune.training import weight_arrays
from neuroprune.training.step_times import StepClock

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
TASK = {"name": "sst2", "source": "nyu-mll/glue", "config": "sst2", "inputs": ["sentence"], "max_length": 32}


def settings(**changes):
    values = {
        "run": "tiny",
        "model": {"name": "tiny", "source": "random:bert", "config": BERT},
        "task": TASK,
        "method": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        "seed": 0,
    }
    return RunSettings.model_validate(values | changes)


@pytest.fixture
def data_root(tmp_path):
    return write_glue(tmp_path / "data", "sst2", train=60, evaluated=24)


def run(chosen, data_root, folder):
    training.train(chosen, folder / "run.json", data_root)
    return read_record(folder / "run.json")


def test_a_run_folder_tells_everything(data_root, tmp_path):
    chosen = settings()
    record = run(chosen, data_root, tmp_path / "runs" / "tiny")
    assert record.status == "done" and record.settings == chosen
    assert record.environment.versions["torch"] in (torch.__version__, torch.__version__.partition("+")[0])  # +cu130
    assert record.result.sparsity.weights == pytest.approx(0.5, abs=1e-3)
    assert record.result.steps == 16  # 60 rows in batches of 8, twice
    assert 0 < record.result.eval_seconds < record.result.train_seconds
    without_eval = record.result.train_seconds - record.result.eval_seconds
    assert record.result.seconds_per_step == pytest.approx(without_eval / 16)
    assert (record.result.train_cpu_seconds is None) == torch.cuda.is_available()
    assert {"loss", "step"} <= set(record.result.history[0])
    folder = tmp_path / "runs" / "tiny"
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "cells.safetensors",
        "degrees.safetensors",
        "heads.safetensors",
        "model",
        "patterns.safetensors",
        "predictions.safetensors",
        "run.json",
    ]
    answers = load_file(folder / "predictions.safetensors")
    assert {name: (array.dtype, array.shape) for name, array in answers.items()} == {
        "predicted": (np.uint8, (24,)),
        "true": (np.uint8, (24,)),
    }
    assert (answers["predicted"] == answers["true"]).mean() == record.result.value
    assert record.result.files["predictions.safetensors"] == file_hash(folder / "predictions.safetensors")
    card = (folder / "model" / "README.md").read_text()
    assert f"| accuracy | {record.result.value:.4g} |" in card
    assert "made from `random:bert`, fine-tuned on sst2 (nyu-mll/glue)" in card


def test_steps_are_timed_before_between_and_after_the_cuts(data_root, tmp_path):
    record = run(settings(), data_root, tmp_path / "tiny")
    stretches = record.result.step_times
    assert sum(stretch.steps for stretch in stretches) == record.result.steps
    sizes = [stretch.parameters for stretch in stretches]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes) > 1
    assert sizes[0] == record.result.sparsity.dense_parameters and sizes[-1] == record.result.sparsity.parameters
    assert all(0 < stretch.ms.q1 <= stretch.ms.median <= stretch.ms.q3 for stretch in stretches)
    seconds = sum(stretch.steps * stretch.ms.median / 1000 for stretch in stretches)
    assert seconds < record.result.train_seconds


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_steps_are_timed_by_events_on_a_gpu():
    clock, model = StepClock([]), torch.nn.Linear(512, 512).cuda()
    rows = torch.randn(4096, 512, device="cuda")
    for _ in range(5):
        clock.on_step_begin(None, None, None, model=model)
        for _ in range(200):
            model(rows)
        clock.on_step_end(None, None, None)
    (stretch,) = clock.times()
    assert stretch.steps == 5 and stretch.ms.median > 0.1  # the work, not the time that it takes to queue it


def test_deterministic_training_refuses_what_has_no_repeatable_result(data_root, tmp_path):
    try:
        training.train(
            settings(training={"epochs": 0.5, "batch_size": 8, "deterministic": True}), tmp_path / "run.json", data_root
        )
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":16:8", ":4096:8")  # otherwise cuBLAS may vary its algorithm
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_saved_model_gives_the_recorded_metric(data_root, tmp_path):
    record = run(settings(), data_root, tmp_path / "tiny")
    model = neuroprune.from_pretrained(tmp_path / "tiny" / "model")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny" / "model")
    data = tasks.load(record.settings.task, data_root)
    objective = data.objective(model, tokenizer)
    rows = objective.collate(list(objective.encode(data.eval)))
    labels = rows.pop("labels")
    with torch.inference_mode():
        right = model(**rows).logits.argmax(-1) == labels
    assert float(right.float().mean()) == pytest.approx(record.result.value)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_the_same_settings_give_the_same_result(data_root, tmp_path):
    first, second = (run(settings(), data_root, tmp_path / name) for name in "ab")
    assert first.result.metrics == second.result.metrics
    assert first.result.files == second.result.files  # degrees and patterns, bit for bit
    other = run(settings(seed=1), data_root, tmp_path / "c")
    assert other.result.files != first.result.files


def test_everything_that_is_drawn_before_training_follows_from_the_seed():
    drawn = {}
    for seed in (3, 3, 4):
        training._set_up(settings(seed=seed))
        drawn.setdefault(seed, []).append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert drawn[3][0] == drawn[3][1]
    assert all(first != other for first, other in zip(drawn[3][0], drawn[4][0], strict=True))
    assert drawn[3][0] == (random.Random(3).random(), np.random.RandomState(3).rand(), uniform(3))


def uniform(seed):
    """Return the first number that torch draws after this seed."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(seed)))


def test_batch_order_and_dropout_follow_from_the_seed(data_root, tmp_path):
    data = tasks.load(settings().task, data_root)
    model, tokenizer = sources.load(settings().model, data, seed=0)  # the same for both runs

    def order(seed):
        trainer = training._trainer(settings(seed=seed), tmp_path, data, model, tokenizer, Dense())
        assert float(torch.rand(())) == uniform(seed)  # the state from which dropout is drawn
        return [row.tolist() for batch in trainer.get_train_dataloader() for row in batch["input_ids"]]

    first, again, other = order(1), order(1), order(2)
    assert first == again
    assert first != other


def test_every_setting_of_the_training_reaches_the_trainer(data_root, tmp_path):
    asked = {"epochs": 1.5, "batch_size": 12, "accumulation": 2, "learning_rate": 0.002, "weight_decay": 0.2}
    asked |= {"warmup": 0.3, "max_grad_norm": 0.4, "optimizer": "adafactor", "evaluate": "epoch"}
    chosen = settings(training=asked)
    data = tasks.load(chosen.task, data_root)
    trainer = training._trainer(chosen, tmp_path, data, *sources.load(chosen.model, data, seed=0), Dense())
    args = trainer.args
    assert (args.num_train_epochs, args.learning_rate, args.weight_decay) == (1.5, 0.002, 0.2)
    assert (args.max_grad_norm, args.optim, args.eval_strategy) == (0.4, "adafactor", "epoch")
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (6, 2)
    assert args.get_warmup_steps(100) == 30


def test_new_weights_follow_from_the_seed(data_root, tmp_path):
    chosen = settings(method={"name": "dense"}, training={"epochs": 0.1, "learning_rate": 1e-12}, seed=1)
    run(chosen, data_root, tmp_path / "tiny")
    saved = neuroprune.from_pretrained(tmp_path / "tiny" / "model").state_dict()
    data = tasks.load(chosen.task, data_root)
    expected, other = (sources.load(chosen.model, data, seed=seed)[0].state_dict() for seed in (1, 0))
    for name in ("classifier.weight", "bert.encoder.layer.0.attention.self.query.weight"):
        torch.testing.assert_close(saved[name], expected[name], rtol=0, atol=1e-8)
        assert (saved[name] - other[name]).abs().max() > 1e-3


def test_every_method_sees_the_same_batches(data_root, tmp_path):
    """Fair comparison: the first steps, before anything is removed, have the same losses."""
    methods = [{"name": "dense"}, {"name": "l1", "sparsity": 0.5}, {"name": "neuroprune", "sparsity": 0.5}]
    histories = [run(settings(method=m), data_root, tmp_path / m["name"]).result.history for m in methods]
    early = [[entry["loss"] for entry in history if "loss" in entry and entry["step"] <= 4] for history in histories]
    assert early[0] and early[0] == early[1] == early[2]


def test_a_run_without_finite_loss_is_recorded_as_diverged(data_root, tmp_path):
    training_settings = {"epochs": 8, "batch_size": 8, "learning_rate": 1e30, "warmup": 0.0}
    record = run(settings(method={"name": "dense"}, training=training_settings), data_root, tmp_path / "tiny")
    assert record.status == "diverged"
    assert record.result.value is None and record.result.metrics == {}
    json.loads((tmp_path / "tiny" / "run.json").read_text(), parse_constant=pytest.fail)  # no NaN in the file


@pytest.mark.parametrize("learning_rate", [1e30, 1e39])  # weights that are huge; that are infinite
def test_a_run_that_diverges_in_its_last_step_is_recorded_as_diverged(learning_rate, data_root, tmp_path):
    """The only logged loss is computed with the weights before the step."""
    training_settings = {"epochs": 0.1, "batch_size": 8, "learning_rate": learning_rate, "warmup": 0.0}
    record = run(settings(method={"name": "dense"}, training=training_settings), data_root, tmp_path / "tiny")
    assert [entry["loss"] < 1 for entry in record.result.history if "loss" in entry] == [True]
    assert record.status == "diverged"
    assert record.result.value is None and record.result.metrics == {}


@pytest.mark.parametrize("learning_rate", [3, 100, 1e4])
def test_a_run_whose_weights_are_finite_but_useless_is_recorded_as_diverged(learning_rate, data_root, tmp_path):
    training_settings = {"epochs": 2, "batch_size": 8, "learning_rate": learning_rate}
    record = run(settings(method={"name": "dense"}, training=training_settings), data_root, tmp_path / "tiny")
    assert all(entry["loss"] is not None for entry in record.result.history if "loss" in entry)
    assert (record.status, record.result.value, record.result.metrics) == ("diverged", None, {})


@pytest.mark.parametrize(
    ("predicted", "true", "loss", "lost"),
    [([1, 1], [0, 1], 3.4, False), ([1, 1], [0, 1], 3.5, True), ([0, 1], [0, 1], 3.5, False), ([1], [0], 3.5, False)],
)
def test_a_model_that_predicts_one_class_may_not_be_certain_of_it(predicted, true, loss, lost):
    answers = {"predicted": np.array(predicted), "true": np.array(true)}
    assert training._is_lost(loss, BertConfig(), 2, answers) == lost  # guessing has a loss of 0.69


def test_a_folder_that_is_being_written_is_left_alone(data_root, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="another process is writing this run"):
        training.train(settings(), folder / "run.json", data_root)
    assert not (folder / "run.json").exists()


def test_what_a_killed_job_left_half_written_is_deleted(data_root, tmp_path):
    """Arrays that safetensors was writing, and the model."""
    folder = tmp_path / "tiny"
    (folder / ".model.tmp").mkdir(parents=True)
    for name in (".tmpAbC123", ".cells.safetensors.17.tmp", ".model.tmp/model.safetensors"):
        (folder / name).write_text("half")
    run(settings(training={"epochs": 0.1}), data_root, folder)
    arrays = [f"{name}.safetensors" for name in ("cells", "degrees", "heads", "patterns", "predictions")]
    assert sorted(path.name for path in folder.iterdir()) == sorted([".lock", "model", "run.json", *arrays])


def test_arrays_and_weights_can_be_read_by_whom_the_umask_allows(data_root, tmp_path):
    before = os.umask(0o022)
    try:
        run(settings(training={"epochs": 0.1}), data_root, tmp_path / "tiny")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "tiny").rglob("*") if path.is_file() and path.name != ".lock"]
    assert {"cells.safetensors", "model.safetensors", "run.json"} <= {path.name for path in files}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o644" for path in files}


def test_a_run_that_fails_leaves_no_record_of_an_earlier_one(data_root, tmp_path):
    run(settings(), data_root, tmp_path / "tiny")
    with pytest.raises(UserError):
        training.train(settings(task=TASK | {"inputs": ["missing"]}), tmp_path / "tiny" / "run.json", data_root)
    assert not (tmp_path / "tiny" / "run.json").exists()


def test_a_file_that_does_not_fit_on_the_disk_leaves_no_half_of_a_run(data_root, tmp_path):
    folder = tmp_path / "tiny"
    tasks.load(settings().task, data_root)  # its cache is written before
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the model is larger
    try:
        with pytest.raises(SafetensorError, match="File too large"):
            run(settings(), data_root, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert not (folder / "run.json").exists() and not (folder / "model").exists()
    assert run(settings(), data_root, folder).status == "done"  # there is room again
    assert (folder / "model" / "model.safetensors").exists() and not (folder / ".model.tmp").exists()


def test_a_head_that_is_fitted_first_sees_the_same_batches_afterwards(data_root, tmp_path, monkeypatch):
    fitted, fit_head = [], linear_probe.fit_head

    def fit_a_copy(model, batches, rows):
        fitted.append(rows)
        fit_head(copy.deepcopy(model), batches, rows)

    monkeypatch.setattr(linear_probe, "fit_head", fit_a_copy)
    plain, first = ({"epochs": 1}, {"epochs": 1, "linear_probe": True})
    records = [
        run(settings(method={"name": "dense"}, training=training), data_root, tmp_path / str(i))
        for i, training in enumerate((plain, first))
    ]
    assert fitted == [1000]
    histories = [[entry.get("loss") for entry in record.result.history] for record in records]
    assert histories[0] and histories[0] == histories[1]
    assert "linear_probe" not in settings(method={"name": "dense"}, training=plain).training.model_dump()


def test_frozen_embeddings_stay_as_they_are(data_root, tmp_path):
    chosen = settings(method={"name": "dense"}, training={"epochs": 1, "freeze_embeddings": True})
    run(chosen, data_root, tmp_path / "tiny")
    trained = neuroprune.from_pretrained(tmp_path / "tiny" / "model")
    fresh, _ = sources.load(chosen.model, tasks.load(chosen.task, data_root), seed=chosen.seed)
    weight = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(trained.get_parameter(weight), fresh.get_parameter(weight))


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen3", "t5"])
def test_snapshots_are_in_the_coordinates_of_the_dense_model(name):
    model = make_model(name)
    dense_patterns, dense_degrees = weight_arrays.patterns(model), weight_arrays.degrees(model)
    mlps = neuroprune.find_blocks(model).mlps
    middle = len(mlps) // 2
    remove(model, neurons={middle: [0, 2]})
    cut_patterns, cut_degrees = weight_arrays.patterns(model), weight_arrays.degrees(model)
    expected = dense_patterns[f"in.{middle}"].copy()
    expected[[0, 2]] = False
    assert np.array_equal(cut_patterns[f"in.{middle}"], expected)
    assert not cut_patterns[f"out.{middle}"][:, [0, 2]].any()
    assert cut_degrees[f"in.{middle}"][[0, 2]].tolist() == [0, 0]
    assert np.array_equal(cut_degrees[f"in.{middle}"][3:], dense_degrees[f"in.{middle}"][3:])
    assert {key: value.shape for key, value in cut_patterns.items()} == {
        key: value.shape for key, value in dense_patterns.items()
    }


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen3", "t5"])
def test_heads_that_are_gone_have_no_importance_and_no_distances(name):
    model = make_model(name)
    attention = neuroprune.find_blocks(model).attentions[0]
    gone, before = list(range(attention.groups)), weight_arrays.head_arrays(model)
    weights = attention.o.weight.detach().abs().sum(dim=0).view(attention.heads, -1).sum(dim=1)
    assert before["importance.0"] == pytest.approx(weights.numpy())
    remove(model, heads={0: gone})
    after = weight_arrays.head_arrays(model)
    assert not after["importance.0"][gone].any()
    left = attention.groups
    assert after["importance.0"][left:] == pytest.approx(before["importance.0"][left:])
    assert np.array_equal(after["distance.0"], before["distance.0"][1:, 1:])


def test_cells_show_ends_and_middle_in_blocks():
    model = make_model("bert")
    found, exact = weight_arrays.cells(model), weight_arrays.patterns(model)
    last = len(neuroprune.find_blocks(model).mlps) - 1
    assert {name.split(".")[1] for name in found} == {"0", str((last + 1) // 2), str(last)}
    for name, present in exact.items():
        assert found[name].dtype == np.uint8 and max(found[name].shape) <= 64
        assert found[name].mean() == pytest.approx(100 * present.mean(), abs=1)


def test_what_bert_base_leaves_behind_is_below_a_megabyte(tmp_path):
    bert = AutoModel.from_config(BertConfig(vocab_size=8, max_position_embeddings=8))
    training._save_arrays(bert, tmp_path, eps=1e-4, answers={})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 980_000  # the rest is for records and logs
    assert read_arrays(tmp_path / "patterns.safetensors")["every"] == [1]  # nothing is thinned


def test_arrays_beside_a_record_are_read_back(data_root, tmp_path):
    folder = tmp_path / "tiny"
    record = run(settings(), data_root, folder)
    degrees = read_arrays(folder / "degrees.safetensors")
    assert {name: array.shape for name, array in degrees.items()} == {
        "in.0": (64,), "out.0": (32,), "in.1": (64,), "out.1": (32,)
    }  # fmt: skip
    assert record.result.degree_sd_percent == pytest.approx(weight_arrays.degree_sd_percent(degrees))
    patterns = read_patterns(folder / "patterns.safetensors")
    gone = 64 - record.result.sparsity.neurons_per_layer[1]
    assert int((~patterns["in.1"].any(axis=1)).sum()) == gone
