"""Question answering: answers are checked against their context, marked in its tokens, and judged as in SQuAD."""

import json

import numpy as np
import pytest
import yaml

import neuroprune
from helpers.data import WORDS, sentence
from neuroprune import tasks
from neuroprune.cli import main
from neuroprune.config.settings import RunSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.models import sources
from neuroprune.models.sources import train_text_tokenizer, train_tokenizer
from neuroprune.results.records import read_record
from neuroprune.tasks.metrics import answers
from neuroprune.tasks.span_head import SpanHead, best_span
from neuroprune.training import run as training

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def row(number):
    """The adjective, which is the only one, is the answer."""
    adjective = ("dull", "great", "long", "warm")[number % 4]
    words = [word for word in sentence(17 * number).split() if word not in ("dull", "great", "long", "warm")]
    words.insert(number % 3, adjective)
    context = " ".join(words)
    return {"question": "which?", "context": context, "text": adjective, "answer_start": context.index(adjective)}


def write(folder, train, validation=None):
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("validation", validation or train)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return task(source=str(folder))


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "data", [row(i) for i in range(80)], [row(i) for i in range(100, 124)]).source


def task(**changes):
    values = {"name": "find", "kind": "question_answering", "source": "me/questions", "metric": "f1", "max_length": 32}
    return TaskSettings(**(values | {"inputs": ["question", "context"], "label": "text"} | changes))


def settings(source, **changes):
    values = {
        "run": "tiny",
        "model": {"name": "tiny", "source": "random:bert", "config": BERT},
        "task": task(source=source),
        "method": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3},
        "seed": 0,
    }
    return RunSettings.model_validate(values | changes)


# ---- data


def test_answers_are_one_or_several_in_the_form_of_a_table_or_of_squad(tmp_path):
    context = "a warm, long film"
    nested = {"id": "1", "question": "which?", "context": context}
    nested |= {"answers": {"text": ["warm", "warm, long"], "answer_start": [2, 2]}}
    data = tasks.load(write(tmp_path / "squad", [nested]), tmp_path)
    expected = {"question": "which?", "context": context, "text": ["warm", "warm, long"], "answer_start": [2, 2]}
    assert data.train[0] == expected and data.majority is None
    assert data.copied == pytest.approx(2 * 2 / (3 + 2))  # three words, two of them in the longer answer
    (tmp_path / "table").mkdir()
    for split in ("train", "validation"):
        lines = f'question,context,text,answer_start\nwhich?,"{context}",warm,2\n'
        (tmp_path / "table" / f"{split}.csv").write_text(lines)
    data = tasks.load(task(source=str(tmp_path / "table")), tmp_path)
    assert data.train[0] == expected | {"text": ["warm"], "answer_start": [2]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_start": 3}, r"the context of row 2 has no 'great' at character 3 \(column 'answer_start', counted"),
        ({"answer_start": -1}, "the context of row 2 has no"),
        ({"answer_start": [2.0]}, r"'answer_start' of row 2 is 2.0; give the answer's first character as a whole"),
        ({"text": None, "answer_start": None}, "row 2 has 0 answers in column 'text' and 0 in column 'answer_start'"),
        ({"question": " "}, "row 2 has a blank question"),
    ],
)
def test_what_is_no_answer_in_a_context_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tasks.load(write(tmp_path, [row(0), row(1) | changes]), tmp_path)


def test_a_question_a_context_and_a_start_are_needed(tmp_path):
    with pytest.raises(ValueError, match=r"question_answering reads two columns; give \[question, context\]"):
        task(inputs=["context"])
    with pytest.raises(UserError, match=r"no column .* 'answer_start'"):
        tasks.load(
            write(tmp_path, [{k: v for k, v in row(i).items() if k != "answer_start"} for i in (0, 1)]), tmp_path
        )


# ---- objective


@pytest.mark.parametrize("train_one", [train_tokenizer, train_text_tokenizer], ids=["WordPiece", "byte-level BPE"])
def test_the_marked_tokens_are_those_of_the_answer(train_one, tmp_path):
    found = {"question": "is it so?", "context": "not the unheard film", "text": "unheard", "answer_start": 8}
    data = tasks.load(write(tmp_path, [found, row(1)]), tmp_path)
    head = SpanHead(task(), train_one([" ".join(WORDS)], 280), rows=data.eval)
    first, last = head.encode(data.train)[0]["labels"]
    assert last > first  # the unknown word has several tokens
    scores = np.zeros((2, 40))
    scores[0, first] = scores[1, last] = 1.0
    assert head._answer(0, *scores) == "unheard"
    assert SpanHead(task(max_length=6), head.tokenizer, rows=data.eval).encode(data.train)[0]["labels"] == [0, 0]


def test_the_best_span_is_in_order_and_not_too_long():
    firsts, lasts = np.array([0.0, 5.0, 1.0, 0.0]), np.array([9.0, 0.0, 0.0, 4.0])
    assert best_span(firsts, lasts) == (0, 0)
    assert best_span(firsts, lasts - [9, 0, 0, 0]) == (1, 3)
    assert best_span(firsts, lasts - [9, 0, 0, 0], longest=2) == (1, 1)


def test_metrics_by_hand():
    references = [["The warm film."], ["a film", "film noir"], ["long"]]
    found = answers(["warm film", "noir", "short"], references)
    assert found == {"f1": pytest.approx((1 + 2 / 3 + 0) / 3), "exact_match": pytest.approx(1 / 3)}
    assert answers(["the"], [["a"]]) == {"f1": 1.0, "exact_match": 1.0}


def test_types_without_a_head_for_answers_are_told(source, tmp_path):
    model = settings(source, model={"name": "tiny", "source": "random:marian", "config": {}}).model
    with pytest.raises(UserError, match="model tiny: marian has no head that marks an answer in a text"):
        sources.load(model, tasks.load(task(source=source), tmp_path), 0)


# ---- training


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ({"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16}, {"accumulation": 2}),
        ({"name": "taylor", "sparsity": 0.5}, {}),
        ({"name": "dsp", "heads": 4}, {}),
        ({"name": "cofi", "sparsity": 0.5}, {}),
    ],
    ids=lambda value: value.get("name", ""),
)
def test_methods_train_on_answers(method, changes, source, tmp_path):
    chosen = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3} | changes
    training.train(settings(source, method=method, training=chosen), tmp_path / "run.json", tmp_path)
    record = read_record(tmp_path / "run.json")
    assert record.status == "done" and set(record.result.metrics) >= {"f1", "exact_match"}
    assert type(neuroprune.from_pretrained(tmp_path / "model")).__name__ == "BertForQuestionAnswering"


def test_it_learns_to_find_the_adjective(source, tmp_path):
    chosen = {"epochs": 12, "batch_size": 8, "learning_rate": 5e-3}
    training.train(settings(source, method={"name": "dense"}, training=chosen), tmp_path / "run.json", tmp_path)
    result = read_record(tmp_path / "run.json").result
    assert result.metrics["exact_match"] > 0.9 > result.copied


def test_the_command_prunes_and_exports_on_answers(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "config" / "tasks").mkdir(parents=True)
    models = {"tiny": {"source": "random:bert", "config": BERT}}
    (tmp_path / "config" / "models.yaml").write_text(yaml.safe_dump(models))
    chosen = task(source=source).model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(chosen | {"training": {"epochs": 2, "batch_size": 8}}))
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--model", "tiny", "--task", "mine.yaml", "--sparsity", "0.5", "--out", "small"]) == 0
    assert "small: f1 " in capsys.readouterr().out
    assert "question-answering" in (tmp_path / "small" / "README.md").read_text()
    assert main(["export", "small", "--format", "full", "--out", "full"]) == 0
