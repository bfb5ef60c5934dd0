"""Token classification: words and their classes are read as they are, and every method trains them."""

import json

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Features, List, Value
from sklearn.metrics import f1_score

import neuroprune
from helpers.data import WORDS, sentence, write_hub
from neuroprune import tasks
from neuroprune.cli import main
from neuroprune.config.settings import RunSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.models import sources
from neuroprune.models.sources import train_text_tokenizer, train_tokenizer
from neuroprune.results.records import read_record
from neuroprune.tasks.metrics import tagging
from neuroprune.tasks.token_head import TokenHead
from neuroprune.training import run as training

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
NAMES = ["adjective", "other"]
FEATURES = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=NAMES))})
ADJECTIVES = ("dull", "great", "long", "warm")


def row(number):
    words = sentence(17 * number).split()
    return {"tokens": words, "tags": [int(word not in ADJECTIVES) for word in words]}


@pytest.fixture
def data_root(tmp_path):
    splits = {"train": [row(i) for i in range(60)], "validation": [row(i) for i in range(100, 124)]}
    write_hub(tmp_path / "data" / "me" / "tags", {"all": (FEATURES, splits)})
    return tmp_path / "data"


def task(**changes):
    values = {"kind": "token_classification", "source": "me/tags", "config": "all", "inputs": ["tokens"]}
    values |= {"name": "tags", "label": "tags", "metric": "token_accuracy", "max_length": 32}
    return TaskSettings(**(values | changes))


def settings(**changes):
    values = {
        "run": "tiny",
        "model": {"name": "tiny", "source": "random:bert", "config": BERT},
        "task": task(),
        "method": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        "training": {"epochs": 4, "batch_size": 8, "learning_rate": 5e-3},
        "seed": 0,
    }
    return RunSettings.model_validate(values | changes)


def own_folder(folder, train, validation=None):
    """Write json lines of words and classes; return the settings of a task on them."""
    for split, rows in (("train", train), ("validation", validation or train)):
        lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return task(source=str(folder), config=None)


# ---- data


def test_words_and_classes_are_those_of_the_dataset(data_root):
    data = tasks.load(task(), data_root)
    assert data.train[0] == row(0) and data.labels == tuple(NAMES)
    shares = np.concatenate([row(i)["tags"] for i in range(100, 124)])
    assert data.majority == pytest.approx(shares.mean())
    constant = f1_score(shares, np.ones_like(shares), average="macro", zero_division=0.0)
    assert tasks.load(task(metric="macro_f1"), data_root).majority == pytest.approx(constant)
    assert tasks.load(task(eval_rows=12), data_root).sha256 != data.sha256 == tasks.load(task(), data_root).sha256


def test_a_csv_of_ones_own_separates_words_and_classes_by_spaces(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text,tags\nAnna lives in Rome,PER O O LOC\nit rains,O O\n")
    data = tasks.load(task(source=str(tmp_path), config=None, inputs=["text"]), tmp_path)
    assert data.labels == ("LOC", "O", "PER")
    assert data.train[0] == {"text": ["Anna", "lives", "in", "Rome"], "tags": [2, 1, 1, 0]}


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([(["a", "b"], ["X"])], None, "row 1 has 2 words in column 'tokens' but 1 classes in column 'tags'"),
        ([([], []), (["a"], ["X"])], None, "row 1 of column 'tokens' holds no words"),
        ([(["a", " "], ["X", "Y"])], None, "row 1 of column 'tokens' holds no words"),
        ([(["a", "b"], ["X", "Y"])], [(["a"], ["Z"])], "split validation .*: class 'Z' in row 1 is not among"),
        ([(["a", "b"], ["X", "X"])], None, "the words of the 1 training rows .* have only one class"),
    ],
)
def test_what_is_not_one_class_for_each_word_is_refused(train, validation, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tasks.load(own_folder(tmp_path, train, validation), tmp_path)


def test_one_column_and_a_metric_of_tokens():
    with pytest.raises(ValueError, match="token_classification reads one text column, not 2"):
        task(inputs=["tokens", "more"])
    with pytest.raises(ValueError, match="metric 'accuracy' is not a metric of token_classification"):
        task(metric="accuracy")


# ---- training


@pytest.mark.parametrize("train_one", [train_tokenizer, train_text_tokenizer], ids=["WordPiece", "byte-level BPE"])
def test_the_first_token_of_a_word_has_its_class(train_one, data_root):
    data = tasks.load(task(), data_root)
    tokenizer = train_one([" ".join(WORDS)], 280)
    words = ["warm", "unheard", "film"]
    given = data.train.select([0]).map(lambda _: {"tokens": words, "tags": [0, 1, 1]})
    found = TokenHead(task(), tokenizer).encode(given)[0]
    marked = [(token, label) for token, label in enumerate(found["labels"]) if label != -100]
    assert [label for _, label in marked] == [0, 1, 1]
    text = " ".join(words)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    starts = [start + text[start:end].startswith(" ") for start, end in (offsets[token] for token, _ in marked)]
    assert starts == [0, 5, 13]
    assert len(found["labels"]) > 3  # the unknown word has several tokens
    short = TokenHead(task(max_length=4), tokenizer).encode(given)[0]
    assert len(short["labels"]) == 4 and max(short["labels"]) <= 1


def test_metrics_are_scikit_learns():
    truth, answers = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    expected = (1 + 2 / 3 + 2 / 3) / 3
    assert tagging(answers, truth) == {"token_accuracy": 0.75, "macro_f1": pytest.approx(expected)}


@pytest.mark.parametrize(
    "method",
    [
        {"name": "dense"},
        {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16, "teacher": "run", "layer_share": 0.5},
        {"name": "taylor", "sparsity": 0.5},
        {"name": "dsp", "heads": 4},
        {"name": "cofi", "sparsity": 0.5},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_methods_train_on_tokens(method, data_root, tmp_path):
    training.train(settings(method=method), tmp_path / "run.json", data_root)
    record = read_record(tmp_path / "run.json")
    assert record.status == "done" and set(record.result.metrics) >= {"token_accuracy", "macro_f1"}
    assert record.result.value == record.result.metrics["token_accuracy"]
    reloaded = neuroprune.from_pretrained(tmp_path / "model")
    assert type(reloaded).__name__ == "BertForTokenClassification" and reloaded.config.id2label[0] == "adjective"


def test_it_learns_which_words_are_adjectives(data_root, tmp_path):
    chosen = {"epochs": 12, "batch_size": 8, "learning_rate": 5e-3}
    training.train(settings(method={"name": "dense"}, training=chosen), tmp_path / "run.json", data_root)
    result = read_record(tmp_path / "run.json").result
    assert result.value > 0.95 > result.majority


def test_types_without_a_head_for_tokens_are_told(data_root):
    model = settings(model={"name": "tiny", "source": "random:bart", "config": {}}).model
    with pytest.raises(UserError, match="model tiny: bart has no head that gives a class to each token"):
        sources.load(model, tasks.load(task(), data_root), 0)


def test_the_command_prunes_on_tokens(data_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "config" / "tasks").mkdir(parents=True)
    (tmp_path / "config" / "models.yaml").write_text(
        yaml.safe_dump({"tiny": {"source": "random:bert", "config": BERT}})
    )
    row = task().model_dump(exclude_defaults=True, exclude={"name"}) | {"training": {"epochs": 2, "batch_size": 8}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(row))))
    monkeypatch.chdir(tmp_path)
    words = ["prune", "--model", "tiny", "--task", "mine.yaml", "--sparsity", "0.5", "--out", "small"]
    assert main([*words, "--data-root", str(data_root)]) == 0
    assert "small: token_accuracy " in capsys.readouterr().out
    model = neuroprune.from_pretrained("small")
    assert model(input_ids=torch.tensor([[2, 5, 6, 3]])).logits.shape == (1, 4, 2)
    assert "token-classification" in (tmp_path / "small" / "README.md").read_text()
