"""Regression tasks: numbers are read unchanged, evaluated by correlation, and learned with every method."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
import yaml
from datasets import ClassLabel, Features, Value
from scipy import stats

import neuroprune
from helpers.data import ROOT, sentence, write_hub
from neuroprune import tasks
from neuroprune.cli import main
from neuroprune.config.settings import RunSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.methods.components.distillation import number_loss
from neuroprune.models import sources
from neuroprune.results.collect import collect
from neuroprune.results.records import read_record
from neuroprune.results.tables import write
from neuroprune.tasks.metrics import correlations
from neuroprune.training import run as training

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
STSB = yaml.safe_load((ROOT / "config" / "tasks" / "stsb.yaml").read_text()) | {"max_length": 32}
FEATURES = Features(
    {"sentence1": Value("string"), "sentence2": Value("string"), "label": Value("float32"), "idx": Value("int32")}
)


def similar(number, hidden=False):
    """A row like STS-B's, labelled by the fraction of common words."""
    first = sentence(17 * number).split()
    second = first[: number % 6] + sentence(29 * number + 5).split()[number % 6 :]
    label = -1.0 if hidden else float(number % 6)
    return {"sentence1": " ".join(first), "sentence2": " ".join(second), "label": label, "idx": number}


@pytest.fixture
def data_root(tmp_path):
    splits = {
        "train": [similar(i) for i in range(60)],
        "validation": [similar(i) for i in range(100, 124)],
        "test": [similar(i, hidden=True) for i in range(6)],
    }
    write_hub(tmp_path / "data" / "nyu-mll" / "glue", {"stsb": (FEATURES, splits)})
    return tmp_path / "data"


def task(**changes):
    return TaskSettings(name="stsb", **(STSB | changes))


def settings(**changes):
    values = {
        "run": "tiny",
        "model": {"name": "tiny", "source": "random:bert", "config": BERT},
        "task": task(),
        "method": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        "seed": 0,
    }
    return RunSettings.model_validate(values | changes)


# ---- data


def test_the_numbers_of_a_dataset_are_the_labels(data_root):
    data = tasks.load(task(), data_root)
    assert data.train["label"][:3] == [similar(i)["label"] for i in range(3)]
    assert (data.labels, data.majority, data.copied) == (("label",), 0.0, None)
    assert tasks.load(task(eval_rows=12), data_root).sha256 != data.sha256 == tasks.load(task(), data_root).sha256


def test_whole_numbers_of_a_folder_of_ones_own_are_numbers_too(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text,stars\ngood,5\nso so,3\nbad,1\n")
    data = tasks.load(task(source=str(tmp_path), config=None, inputs=["text"], label="stars"), tmp_path)
    assert data.train["stars"][:] == [5.0, 3.0, 1.0]
    assert data.labels == ("stars",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good", "bad"], "column 'label' contains classes or text, not numbers; use kind: classification"),
        ([1.5, None], "1 rows of column 'label' have no finite number"),
        ([1.5, math.inf], "1 rows of column 'label' have no finite number"),
        ([-1.0, -1.0], r"split train .*: all 2 rows have the same number in column 'label' \(-1\).*are hidden"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(labels, message, tmp_path):
    rows = [{"text": f"a {i}", "label": label} for i, label in enumerate(labels)]
    kind = Value("string") if isinstance(labels[0], str) else Value("float64")
    splits = {"train": rows, "validation": rows}
    write_hub(tmp_path / "own", {"all": (Features({"text": Value("string"), "label": kind}), splits)})
    with pytest.raises(UserError, match=message):
        tasks.load(task(source=str(tmp_path / "own"), config="all", inputs=["text"]), tmp_path)


def test_classes_are_not_taken_for_numbers(tmp_path):
    rows = [{"text": f"a {i}", "label": i} for i in range(2)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    write_hub(tmp_path / "own", {"all": (features, {"train": rows, "validation": rows})})
    with pytest.raises(UserError, match="contains classes or text, not numbers; use kind: classification"):
        tasks.load(task(source=str(tmp_path / "own"), config="all", inputs=["text"]), tmp_path)


def test_a_classification_of_numbers_is_told_of_regression(data_root):
    with pytest.raises(UserError, match="for regression set kind: regression and metric: spearmanr"):
        tasks.load(task(kind="classification", metric="accuracy"), data_root)


def test_a_metric_of_classes_is_refused():
    with pytest.raises(ValueError, match="metric 'accuracy' is not a metric of regression; use one of spearmanr"):
        task(metric="accuracy")


# ---- metrics


def test_correlations_are_scipys_and_zero_for_a_constant():
    draw = np.random.default_rng(0)
    truth = draw.normal(size=50)
    answers = (truth + draw.normal(size=50)).astype(np.float32)
    found = correlations(answers, truth)
    assert found["pearson"] == pytest.approx(stats.pearsonr(answers, truth).statistic)
    assert found["spearmanr"] == pytest.approx(stats.spearmanr(answers, truth).statistic)
    assert correlations(np.full(50, 2.5), truth) == {"pearson": 0.0, "spearmanr": 0.0}
    assert correlations(truth**3, truth)["spearmanr"] == pytest.approx(1.0)


# ---- models and runs


def test_the_model_has_one_output_and_the_loss_is_the_squared_error(data_root):
    data = tasks.load(task(), data_root)
    model, tokenizer = sources.load(settings().model, data, seed=0)
    assert (model.config.num_labels, model.config.problem_type, model.config.id2label) == (
        1,
        "regression",
        {0: "label"},
    )
    objective = data.objective(model, tokenizer)
    rows = objective.encode(data.train)
    batch = objective.collate([rows[i] for i in range(4)])
    output = model.eval()(**batch)
    wanted = torch.tensor(data.train["label"][:4])
    assert batch["labels"].tolist() == pytest.approx(wanted.tolist())
    assert output.loss.item() == pytest.approx(((output.logits[:, 0] - wanted) ** 2).mean().item(), rel=1e-5)


def test_models_that_answer_with_text_are_refused(data_root):
    data = tasks.load(task(), data_root)
    config = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    t5 = settings(model={"name": "t5", "source": "random:t5", "config": config}).model
    model, tokenizer = sources.load(t5, data, seed=0)
    with pytest.raises(
        UserError, match=r"a t5 model can't give the answers of the task 'stsb' .*, because it generates text"
    ):
        data.objective(model, tokenizer)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "dense"},
        {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        {"name": "neuroprune", "sparsity": 0.5, "algorithm": "penalties"},
        {"name": "neuroprune", "alpha": 0.1, "beta": 0.1},
        {"name": "l1", "sparsity": 0.5},
        {"name": "taylor", "sparsity": 0.5},
        {"name": "dsp", "heads": 4},
        {"name": "cofi", "sparsity": 0.5, "teacher": "run", "start": 0.2, "end": 0.7},
    ],
    ids=lambda method: "-".join(map(str, list(method.values())[:2])),
)
def test_every_method_trains_a_regression(method, data_root, tmp_path):
    training.train(settings(method=method), tmp_path / "run.json", data_root)
    record = read_record(tmp_path / "run.json")
    assert record.status == "done"
    assert set(record.result.metrics) >= {"pearson", "spearmanr"}
    assert record.result.value == record.result.metrics["spearmanr"] and record.result.majority == 0.0
    assert not (tmp_path / "predictions.safetensors").exists()  # the paired tests are for classes
    reloaded = neuroprune.from_pretrained(tmp_path / "model")
    assert reloaded.config.num_labels == 1


def test_passes_and_a_head_that_is_fitted_first(data_root, tmp_path):
    chosen = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-3, "accumulation": 2, "linear_probe": True}
    training.train(settings(method={"name": "dense"}, training=chosen), tmp_path / "run.json", data_root)
    history = [entry["loss"] for entry in read_record(tmp_path / "run.json").result.history if "loss" in entry]
    assert history[0] < np.mean([(similar(i)["label"]) ** 2 for i in range(60)])  # the fitted head begins near the mean


def test_cofi_distils_numbers_by_their_difference():
    assert number_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [1.0]])).item() == 2.5


def test_the_tables_show_the_correlation(data_root, tmp_path):
    for name in ("dense", "small"):
        method = {"name": "dense"} if name == "dense" else settings().method
        training.train(settings(run=name, method=method), tmp_path / "study" / "runs" / name / "run.json", data_root)
    collect(tmp_path / "study", None)
    write("summary", tmp_path / "study")
    text = (tmp_path / "study" / "tables" / "summary.md").read_text()
    assert "spearmanr" in text and "stsb" in text


def test_the_command_prunes_on_a_regression(data_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "config" / "tasks").mkdir(parents=True)
    (tmp_path / "config" / "models.yaml").write_text(
        yaml.safe_dump({"tiny": {"source": "random:bert", "config": BERT}})
    )
    row = STSB | {"training": {"epochs": 2, "batch_size": 8}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(row))
    monkeypatch.chdir(tmp_path)
    words = ["prune", "--model", "tiny", "--task", "mine.yaml", "--sparsity", "0.5", "--out", "small"]
    assert main([*words, "--data-root", str(data_root)]) == 0
    assert "small: spearmanr " in capsys.readouterr().out
    card = (tmp_path / "small" / "README.md").read_text()
    assert "| pearson |" in card and "Labels, in order" not in card
    answer = transformers.pipeline("text-classification", model="small", device="cpu", function_to_apply="none")("a")
    assert math.isfinite(answer[0]["score"])
    assert json.loads((tmp_path / "small" / "run.json").read_text())["result"]["labels"] == ["label"]
