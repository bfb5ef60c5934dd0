"""Model cards: sizes, metrics, loading instructions, and metadata that the hub can read."""

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from test_surgery import uneven_cut

from helpers.models import each_model, make_model
from neuroprune.models.card import Facts, read_facts, write_card
from neuroprune.models.pretrained import save_pretrained
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import remove

FACTS = {
    "metrics": {"eval_accuracy": 0.875, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, "epoch": 2.0},
    "base_model": "google-bert/bert-base-uncased",
    "dataset": "nyu-mll/glue",
    "task": "sst2",
    "labels": ("negative", "positive"),
}


@pytest.fixture
def cut():
    model = make_model("bert", id2label={0: "no", 1: "maybe", 2: "yes"})
    remove(model, {0: [1, 2]}, {1: [0, 5, 6]})
    return model


def text_of(folder):
    return (folder / "README.md").read_text()


def test_it_tells_what_is_left_in_every_layer(cut, tmp_path):
    save_pretrained(cut, tmp_path / "small")
    text, found = text_of(tmp_path / "small"), measure_sparsity(cut)
    assert "# small" in text
    assert f"{found.weights:.1%} of the dense model's weights" in text
    assert f"| parameters | {found.dense_parameters:,} | {found.parameters:,} |" in text
    assert "| attention heads | 8 | 6 |" in text and "| MLP neurons | 48 | 45 |" in text
    assert "| `bert.encoder.layer.0.attention.self` | 2 of 4 heads |" in text
    assert "| `bert.encoder.layer.1.intermediate` | 21 of 24 neurons |" in text


def test_it_tells_metrics_labels_and_origin(cut, tmp_path):
    save_pretrained(cut, tmp_path, **FACTS)
    text = text_of(tmp_path)
    assert "made from `google-bert/bert-base-uncased`, fine-tuned on sst2 (nyu-mll/glue)" in text
    assert "| accuracy | 0.875 |" in text and "runtime" not in text and "epoch" not in text
    assert text.index("0. negative") < text.index("1. positive")
    assert read_facts(tmp_path) == Facts({"accuracy": 0.875}, *[FACTS[k] for k in ("base_model", "dataset", "task")])


def test_metrics_that_are_no_numbers_are_left_out(cut, tmp_path):
    numbers = {
        "eval_f1": np.float64(0.5),
        "eval_loss": np.float32(0.25),
        "rows": np.int64(7),
        "bleu": torch.tensor(2.0),
    }
    others = {
        "eval_PER": {"precision": 0.5, "number": 3},
        "eval_matrix": [[1, 2], [3, 4]],
        "eval_by_class": np.array([0.1, 0.2]),
        "eval_nothing": None,
        "eval_model": "small",
        "eval_better": True,
    }
    save_pretrained(cut, tmp_path, **(FACTS | {"metrics": numbers | others}))
    shown = [line for line in text_of(tmp_path).split("## Results")[1].split("##")[0].splitlines() if "|" in line]
    assert shown[2:] == ["| f1 | 0.5 |", "| loss | 0.25 |", "| rows | 7 |", "| bleu | 2 |"]
    assert read_facts(tmp_path).metrics == {"f1": 0.5, "loss": 0.25, "rows": 7, "bleu": 2.0}
    save_pretrained(cut, tmp_path, metrics=others)
    assert "## Results" not in text_of(tmp_path)


def test_labels_come_from_the_model_in_their_order(cut, tmp_path):
    save_pretrained(cut, tmp_path)
    assert "0. no\n1. maybe\n2. yes" in text_of(tmp_path)


def test_the_hub_can_read_it(cut, tmp_path):
    save_pretrained(cut, tmp_path, **FACTS)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model == FACTS["base_model"] and data.datasets == [FACTS["dataset"]]
    assert data.pipeline_tag == "text-classification" and data.library_name == "transformers"
    assert "pruned" in data.tags
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results] == [("sst2", "accuracy", 0.875)]
    assert isinstance(yaml.safe_load(text_of(tmp_path).split("---\n")[1]), dict)


def test_what_is_no_hub_id_stays_out_of_the_metadata(cut, tmp_path, monkeypatch):
    (tmp_path / "my" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for base in ("my/model", "package:x==1", "/home/me/model", "random:bert"):
        save_pretrained(cut, tmp_path, base_model=base, dataset="my own")
        data = ModelCard.load(tmp_path / "README.md").data
        assert data.base_model is None and data.datasets is None
        assert base in text_of(tmp_path)


@each_model
def test_its_line_loads_the_model(name, tmp_path):
    model = make_model(name)
    remove(model, *uneven_cut(name))
    save_pretrained(model, tmp_path)
    line = text_of(tmp_path).split("```python\n")[1].split("\n```")[0]
    assert line.count("\n") == 0 and line.startswith("import neuroprune, transformers; ")
    loaded = {}
    exec(line.replace("path/to/this/folder", str(tmp_path)), loaded)
    for one, other in zip(model.parameters(), loaded["model"].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_dense_model_needs_nothing_but_transformers(tmp_path):
    save_pretrained(make_model("bert"), tmp_path)
    assert "import transformers; model" in text_of(tmp_path) and "Nothing was pruned." in text_of(tmp_path)


def test_it_replaces_its_own_card_and_no_other(cut, tmp_path):
    save_pretrained(cut, tmp_path, task="first")
    save_pretrained(cut, tmp_path, task="second")
    assert "second" in text_of(tmp_path) and "first" not in text_of(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(cut, tmp_path)
    assert text_of(tmp_path) == "mine"
    assert read_facts(tmp_path) == Facts()


def test_a_model_of_another_kind_is_saved_without_a_card(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    save_pretrained(CLIPTextModel(config), tmp_path)
    assert not (tmp_path / "README.md").exists() and (tmp_path / "config.json").exists()


def test_texts_in_a_card_are_no_markup(tmp_path):
    facts = Facts(
        {"accuracy": 0.5, "a|b": 1.0},
        base_model="x`\n# y",
        dataset="<script>",
        task="[t](javascript:x)",
        labels=["<img src=x onerror=y>", "a\n\n# b", "snake_case", "*c*"],
    )
    write_card(make_model("bert"), tmp_path, "name\n<b>", facts)
    text = (tmp_path / "README.md").read_text().split("---\n", 2)[2]
    assert not [part for part in ("<script", "<img", "<b>", "\n# b", "\n# y", "[t](", " *c*") if part in text]
    assert "0. &lt;img src=x onerror=y>\n1. a \\# b\n2. snake_case\n3. \\*c\\*" in text
    assert "| a\\|b | 1 |" in text
