"""Classification with text-to-text and decoder models, and complete runs of every kind of task with tiny models."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

import neuroprune
from helpers.data import glue_rows, write_glue
from neuroprune import tasks
from neuroprune.config.settings import ModelSettings, RunSettings, TaskSettings, TimingSettings
from neuroprune.errors import UserError
from neuroprune.models import sources
from neuroprune.models.sources import train_text_tokenizer
from neuroprune.results.records import read_record, read_timing
from neuroprune.tasks.label_words import LabelWords, label_tokens, score_names
from neuroprune.training import inference_time, run

SIZES = {"d_model": 32, "vocab_size": 300}
BART = {f"{s}_{part}": size for s in ("encoder", "decoder") for part, size in (("attention_heads", 4), ("ffn_dim", 64))}
CONFIGS = {
    "t5": SIZES | {"num_heads": 4, "d_ff": 64, "d_kv": 8},
    "bart": SIZES | BART,
    "marian": SIZES | BART,
    "opt": {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_attention_heads": 4, "vocab_size": 90},
}
MRPC = {"name": "mrpc", "source": "nyu-mll/glue", "config": "mrpc", "inputs": ["sentence2", "sentence1"]}
WORDS = (["rain", "storm", "snow"], ["sun", "warm", "clear"])
GERMAN = ["Das Gerät ist nicht bereit.", "Bitte später erneut versuchen!", "Die Küche ist warm.", "Tür zu"]
ENGLISH = ["The device is not ready.", "Please try again later!", "The kitchen is warm.", "Door shut"]


def row_of(kind):
    return ModelSettings(name=kind, source=f"random:{kind}", layers=2, config=CONFIGS[kind])


# ------------------------------------------------------------------ classes as words


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """GLUE's MRPC, a tiny T5 for it, and how it is asked."""
    task = TaskSettings(**MRPC)
    data = tasks.load(task, write_glue(tmp_path_factory.mktemp("glue"), "mrpc"))
    model, tokenizer = sources.load(row_of("t5"), data, seed=0)
    objective = data.objective(model, tokenizer)
    return SimpleNamespace(data=data, model=model.eval(), tokenizer=tokenizer, objective=objective)


def test_inputs_name_the_task_and_its_columns_as_t5_was_trained(words):
    encoded = words.objective.encode(words.data.train)
    first = glue_rows("mrpc", 1)[0]
    text = words.tokenizer.decode(encoded[0]["input_ids"], skip_special_tokens=True).strip()
    assert text == f"mrpc sentence1: {first['sentence1']} sentence2: {first['sentence2']}"
    assert encoded["labels"][:] == words.data.train["label"][:]


@torch.no_grad()
def test_scores_are_the_log_likelihoods_of_the_names(words):
    """Compared with a naive implementation: one unpadded pass per class and row."""
    rows = list(words.objective.encode(words.data.eval))[:3]
    rows[1]["input_ids"], rows[1]["attention_mask"] = rows[1]["input_ids"][:5], rows[1]["attention_mask"][:5]
    batch = words.objective.question(rows)
    names = label_tokens(words.data.labels, words.tokenizer)
    assert (names == -100).any()  # the names differ in length
    found = score_names(words.model, names, **batch)
    for row, scores in zip(rows, found, strict=True):
        for name, score in zip(words.data.labels, scores, strict=True):
            labels = torch.tensor([words.tokenizer(text_target=name)["input_ids"]])
            loss = words.model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
            assert float(score) == pytest.approx(-float(loss) * labels.shape[1], rel=1e-4)
    assert torch.equal(words.objective.answer(words.model, **batch), found)


def test_classes_that_the_tokenizer_cannot_tell_apart_are_refused():
    tokenizer = train_text_tokenizer(["yes no"], 300)
    assert label_tokens(["yes", "no"], tokenizer).shape[0] == 2
    with pytest.raises(UserError, match="classes 'no' and 'no' have the same tokens"):
        label_tokens(["yes", "no", "no"], tokenizer)


def test_three_classes_are_judged_without_f1():
    objective = LabelWords(TaskSettings(**MRPC), ("a", "b", "c"), None)
    values = objective.compute_metrics(SimpleNamespace(predictions=np.eye(3), label_ids=np.array([0, 1, 1])))
    assert set(values) == {"accuracy", "matthews_correlation"}
    assert values["accuracy"] == pytest.approx(2 / 3)


# ------------------------------------------------------------------ whole runs


def weather(folder):
    """Sentences in which two words determine the class."""
    draw = random.Random(0)
    for split, count in (("train", 192), ("validation", 40)):
        labels = [i % 2 for i in range(count)]
        texts = [" ".join(draw.choices("abcdef", k=3) + draw.choices(WORDS[label], k=2)) for label in labels]
        names = [("bad", "good")[label] for label in labels]
        Dataset.from_dict({"text": texts, "label": names}).to_json(folder / f"{split}.json")
    return {"name": "weather", "source": str(folder), "inputs": ["text"]}


def messages(folder):
    """Four sentences in two languages."""
    for split, count in (("train", 48), ("validation", 8)):
        rows = [{"de": GERMAN[i % 4], "en": ENGLISH[i % 4]} for i in range(count)]
        (folder / f"{split}.json").write_text("\n".join(map(json.dumps, rows)))
    return {"name": "own", "source": str(folder), "inputs": ["de"], "label": "en", "answer_length": 24}


TASKS = {
    "classification": (weather, {}),
    "summarization": (messages, {"kind": "summarization", "metric": "rougeL", "prefix": "summarize: ", "beams": 2}),
    "translation": (messages, {"kind": "translation", "metric": "bleu", "label_smoothing": 0.1}),
}
RUNS = [
    ("t5", "classification"),
    ("marian", "classification"),
    ("opt", "classification"),
    ("t5", "summarization"),
    ("marian", "translation"),
    ("bart", "translation"),
]
METHODS = {"dense": {"name": "dense"}, "neuroprune": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16}}


def train(folder, kind, task, method, **values):
    write, more = TASKS[task]
    (folder / "data").mkdir(exist_ok=True)
    settings = RunSettings(
        run=f"{kind}-{task}",
        model=row_of(kind),
        task=write(folder / "data") | more,
        method=METHODS[method],
        training={"epochs": 3, "batch_size": 16, "learning_rate": 1e-2} | values,
        seed=0,
    )
    run.train(settings, folder / "run" / "run.json", folder)
    return read_record(folder / "run" / "run.json")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "task"), RUNS)
def test_a_run_of_every_kind(tmp_path, kind, task, method):
    record = train(tmp_path, kind, task, method)
    result = record.result
    assert record.status == "done" and result.value == result.metrics[record.settings.task.metric]
    assert result.sparsity.weights == pytest.approx(0.5 if method == "neuroprune" else 0.0, abs=1e-3)
    if task == "classification":
        assert (result.labels, result.majority, result.copied) == (["bad", "good"], 0.5, None)
    else:
        assert (result.labels, result.majority) == ([], None)
    data = tasks.load(record.settings.task, tmp_path)
    assert result.copied == data.copied
    model = neuroprune.from_pretrained(tmp_path / "run" / "model")
    objective = data.objective(model, AutoTokenizer.from_pretrained(tmp_path / "run" / "model"))
    with torch.inference_mode():
        answers = objective.answer(model, **{k: v for k, v in ask(objective, data).items() if k != "new_tokens"})
    labels = data.eval[record.settings.task.label][:]
    again = objective.compute_metrics(SimpleNamespace(predictions=answers.numpy(), label_ids=np.array(labels)))
    assert again == pytest.approx({name: result.metrics[name] for name in again})


def ask(objective, data):
    return objective.question(list(objective.encode(data.eval)))


def test_a_written_answer_is_timed_beside_the_dense_model_s(tmp_path):
    train(tmp_path, "marian", "translation", "neuroprune", epochs=1)
    asked = TimingSettings(batch_sizes=(1, 4), examples=6, repeats=2, warmup=1)
    inference_time.measure(asked, tmp_path / "run" / "run.json", tmp_path / "timing.json", tmp_path)
    found = read_timing(tmp_path / "timing.json")
    assert found.parameters < found.dense_parameters
    assert [(batch.batch_size, batch.examples) for batch in found.batches] == [(1, 6), (4, 6)]
    assert all(batch.speedup.median > 0 for batch in found.batches)


@pytest.mark.parametrize(("kind", "epochs"), [("opt", 3), ("t5", 8)])
def test_words_of_a_sentence_are_learned_to_tell_its_class(tmp_path, kind, epochs):
    assert train(tmp_path, kind, "classification", "dense", epochs=epochs).result.value > 0.9


def test_four_sentences_are_learned_by_heart(tmp_path):
    """Loss, generation and metric refer to the same answers."""
    assert train(tmp_path, "t5", "translation", "dense", epochs=30).result.value > 0.9
