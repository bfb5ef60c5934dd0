"""Language modelling: tokens in the loss, their counts, and runs of every method."""

import csv
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import neuroprune
from helpers.data import WORDS, sentence
from neuroprune import tasks
from neuroprune.cli import main
from neuroprune.config.settings import RunSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.models import sources
from neuroprune.results.collect import collect
from neuroprune.results.records import read_record
from neuroprune.results.tables import write
from neuroprune.tasks.next_token import NextToken, losses_and_hits, pack, perplexity
from neuroprune.training import run as training

LLAMA = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 300, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 32, "n_positions": 64}
TEXT = {"kind": "language_modeling", "inputs": ["text"], "metric": "token_accuracy", "max_length": 32}
PAIR = {**TEXT, "inputs": ["prompt", "completion"]}


@pytest.fixture
def folder(tmp_path):
    """A dataset with a text column, and the same texts as prompts and completions."""
    for split, count, first in (("train", 64, 0), ("validation", 16, 64)):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "prompt", "completion"])
            for i in range(first, first + count):
                words = sentence(17 * i).split()
                rows.writerow([" ".join(words), " ".join(words[:3]), " " + " ".join(words[3:])])
    return tmp_path


def task(folder=".", **changes):
    return TaskSettings(name="texts", source=str(folder), **{**TEXT, **changes})


def settings(folder, **changes):
    values = {
        "run": "tiny",
        "model": {"name": "tiny", "source": "random:llama", "config": LLAMA},
        "task": {"name": "texts", "source": str(folder), **TEXT},
        "method": {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
        "seed": 0,
    }
    return RunSettings.model_validate(values | changes)


@pytest.fixture
def words():
    """A tokenizer with words and spaces as tokens, so that expected rows can be written by hand."""
    names = ["<pad>", "<eos>", "<user>", "<bot>", *WORDS]
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    made.model_max_length = 100
    return made


def rows_of(task, words, *texts):
    from datasets import Dataset

    made = NextToken(task, words).encode(Dataset.from_dict(dict(zip(task.inputs, texts, strict=True))))
    return [
        [
            (words.convert_ids_to_tokens(i), label != -100)
            for i, label in zip(row["input_ids"], row["labels"], strict=True)
        ]
        for row in made
    ]


# ---- rows


def test_all_tokens_of_a_text_are_learned_and_its_end_too(words):
    assert rows_of(task(), words, ["a dull film"]) == [[(t, True) for t in ("a", "dull", "film", "<eos>")]]


def test_of_a_pair_the_completion_alone_is_learned(words):
    (row,) = rows_of(task(**PAIR), words, ["a dull"], ["film"])
    assert row == [("a", False), ("dull", False), ("film", True), ("<eos>", True)]


def test_a_chat_template_frames_the_pair(words):
    words.chat_template = (
        "{% for m in messages %}{{ '<user> ' if m.role == 'user' else '<bot> ' }}{{ m.content }}"
        "{{ ' ' if m.role == 'user' else ' <eos>\n' }}{% endfor %}{% if add_generation_prompt %}<bot> {% endif %}"
    )
    (row,) = rows_of(task(**PAIR), words, ["a dull"], ["film"])
    asked = [("<user>", False), ("a", False), ("dull", False), ("<bot>", False)]
    assert row == [*asked, ("film", True), ("<eos>", True)]


def test_a_template_that_writes_prompts_in_two_ways_is_refused(words):
    words.chat_template = "{{ messages | length }} {% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match=r"change tokenizer\.chat_template, or delete it"):
        rows_of(task(**PAIR), words, ["a dull"], ["film"])


def test_long_texts_lose_their_end_and_long_prompts_their_beginning(words):
    assert rows_of(task(max_length=3), words, ["a dull film is long"])[0] == [(t, True) for t in ("a", "dull", "film")]
    (row,) = rows_of(task(**{**PAIR, "max_length": 4}), words, ["a dull film is"], ["long"])
    assert row == [("film", False), ("is", False), ("long", True), ("<eos>", True)]
    (row,) = rows_of(task(**{**PAIR, "max_length": 3}), words, ["a dull"], ["film is long"])
    assert row == [("dull", False), ("film", True), ("is", True)]


def test_packed_texts_have_one_length_and_lose_nothing(words):
    made = rows_of(task(packing=True, max_length=4), words, ["a dull film", "the story is warm", "not"])
    assert [len(row) for row in made] == [4, 4, 3]
    assert [token for row in made for token, _ in row] == [
        *("a", "dull", "film", "<eos>", "the", "story", "is", "warm", "<eos>", "not", "<eos>")
    ]


def test_packing_keeps_which_tokens_are_learned(words):
    made = rows_of(task(**{**PAIR, "packing": True, "max_length": 4}), words, ["a dull", "the"], ["film", "story"])
    learned = "".join(str(int(learned)) for row in made for _, learned in row)
    assert learned == "0011011"


def test_rows_without_a_next_token_are_left_out(words):
    made = rows_of(task(packing=True, max_length=4), words, ["a dull film", "a dull film is"])
    assert [len(row) for row in made] == [4, 4]  # the ninth token is alone
    with pytest.raises(UserError, match="no row has two tokens"):
        words.eos_token = None
        rows_of(task(), words, ["a", "film"])


def test_batches_are_padded_without_labels(words):
    batch = NextToken(task(), words).collate([{"input_ids": [4, 5], "labels": [4, 5], "attention_mask": [1, 1]},
                                              {"input_ids": [6], "labels": [-100], "attention_mask": [1]}])  # fmt: skip
    assert batch["input_ids"].tolist() == [[4, 5], [6, 0]]
    assert batch["labels"].tolist() == [[4, 5], [-100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


# ---- metrics


def test_the_perplexity_is_that_of_the_models_own_loss(words):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**{**GPT2, "vocab_size": len(words)})).eval()
    objective = NextToken(task(), words)
    from datasets import Dataset

    rows = objective.encode(Dataset.from_dict({"text": [sentence(5 * i) for i in range(4)]}))
    batch = objective.collate([rows[i] for i in range(4)])
    with torch.no_grad():
        output = model(**batch)
    judged = losses_and_hits(output.logits, batch["labels"])

    class Prediction:
        predictions = tuple(part.numpy() for part in judged)
        label_ids = batch["labels"].numpy()

    found = objective.compute_metrics(Prediction)
    assert found["perplexity"] == pytest.approx(math.exp(output.loss.item()), rel=1e-5)
    guesses, wanted = output.logits[:, :-1].argmax(-1), batch["labels"][:, 1:]
    assert found["token_accuracy"] == pytest.approx((guesses == wanted)[wanted != -100].float().mean().item())


def test_the_unigram_baseline_knows_frequencies_alone(words):
    objective = NextToken(task(), words)
    objective.counts.update(Counter({4: 6, 5: 2}))
    found = objective._unigram(np.array([4, 4, 5, 6]))
    size = len(words) + 1 + 8
    expected = -np.log(np.array([7, 7, 3, 1]) / size).mean()
    assert found["unigram_perplexity"] == pytest.approx(math.exp(expected))
    assert found["unigram_token_accuracy"] == 0.5


def test_a_huge_loss_is_still_a_number():
    assert math.isfinite(perplexity(np.array([1e6])))


def test_packing_yields_nothing_twice():
    rows = [{"input_ids": [i] * i, "labels": [i] * i} for i in range(1, 9)]
    made = list(pack(rows, 5))
    assert [i for row in made for i in row["input_ids"]] == [i for row in rows for i in row["input_ids"]]
    assert {len(row["input_ids"]) for row in made[:-1]} == {5}


# ---- data and models


def test_blank_texts_are_left_out_and_missing_ones_refused(folder):
    text = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(text + '" ",a,b\n')
    assert len(tasks.load(task(folder), folder).train) == 64
    (folder / "train.csv").write_text(text + ",a,b\n")
    with pytest.raises(UserError, match="1 rows of column 'text' have no text"):
        tasks.load(task(folder), folder)


@pytest.mark.parametrize(("kind", "config"), [("bert", {}), ("t5", {}), ("bart", {})])
def test_models_that_are_no_decoders_are_refused(kind, config, folder):
    model = settings(folder, model={"name": "other", "source": f"random:{kind}", "config": config}).model
    with pytest.raises(UserError, match=f"{kind} can't predict the next token; use a decoder"):
        sources.load(model, tasks.load(task(folder), folder), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "completion"}, "give the prompt and the completion as two inputs"),
        ({"metric": "accuracy"}, "metric 'accuracy' is not a metric of language_modeling; use one of token_accuracy"),
        ({"kind": "classification", "metric": "accuracy", "packing": True}, "packing is for language_modeling"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


def test_what_it_adds_is_no_part_of_other_tasks_settings():
    other = TaskSettings(name="a", source="demo", inputs=["text"]).model_dump()
    assert "packing" not in other and other["label"] == "label"
    assert "label" not in task().model_dump() and task().model_dump()["packing"] is False
    assert TaskSettings(**task(packing=True).model_dump()) == task(packing=True)


# ---- runs


@pytest.mark.parametrize(
    "method",
    [
        {"name": "dense"},
        {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16},
        {"name": "neuroprune", "sparsity": 0.4, "layout": "uniform", "calibration_rows": 16},
        {"name": "neuroprune", "sparsity": 0.5, "algorithm": "penalties"},
        {"name": "neuroprune", "alpha": 0.1, "beta": 0.1},
        {"name": "l1", "sparsity": 0.5},
        {"name": "taylor", "sparsity": 0.5},
        {"name": "random", "sparsity": 0.5},
        {"name": "dsp", "heads": 4},
        {"name": "cofi", "sparsity": 0.5, "teacher": "run", "start": 0.2, "end": 0.7},
    ],
    ids=lambda method: "-".join(map(str, list(method.values())[:3])),
)
def test_every_method_trains_a_language_model(method, folder, tmp_path):
    training.train(settings(folder, method=method), tmp_path / "run.json", folder)
    record = read_record(tmp_path / "run.json")
    assert record.status == "done"
    assert record.result.value == record.result.metrics["token_accuracy"]
    assert record.result.majority == record.result.metrics["unigram_token_accuracy"] > 0
    assert record.result.metrics["perplexity"] > 1
    assert type(neuroprune.from_pretrained(tmp_path / "model")).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("kind", "config", "changes"),
    [("gpt2", GPT2, {}), ("gpt2", GPT2, {"packing": True}), ("llama", LLAMA, PAIR)],
    ids=["gpt2", "gpt2-packed", "llama-pairs"],
)
def test_training_beats_the_unigram_baseline(kind, config, changes, folder, tmp_path):
    """Words consist of several tokens, whose order a unigram model cannot learn."""
    run = settings(
        folder,
        model={"name": "tiny", "source": f"random:{kind}", "config": config},
        task={"name": "texts", "source": str(folder), **TEXT, **changes},
        method={"name": "dense"},
        training={"epochs": 40 if changes.get("packing") else 12, "batch_size": 4, "learning_rate": 1e-2},
    )
    training.train(run, tmp_path / "run.json", folder)
    metrics = read_record(tmp_path / "run.json").result.metrics
    assert metrics["perplexity"] < metrics["unigram_perplexity"]
    if not changes.get("packing"):  # of which there are too few rows to learn more than that the loss falls
        assert metrics["token_accuracy"] > metrics["unigram_token_accuracy"]


def test_a_step_in_parts_is_the_same_step(folder, tmp_path):
    losses = []
    for accumulation in (1, 2):
        chosen = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "accumulation": accumulation}
        place = tmp_path / str(accumulation)
        training.train(
            settings(
                folder, method={"name": "dense"}, training=chosen, task={"name": "t", "source": str(folder), **PAIR}
            ),
            place / "run.json",
            folder,
        )
        losses.append(read_record(place / "run.json").result.metrics["perplexity"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_tables_show_the_perplexity(folder, tmp_path):
    for name in ("dense", "small"):
        method = {"name": "dense"} if name == "dense" else settings(folder).method
        place = tmp_path / "study" / "runs" / name / "run.json"
        training.train(settings(folder, run=name, method=method), place, folder)
    collect(tmp_path / "study", None)
    write("summary", tmp_path / "study")
    text = (tmp_path / "study" / "tables" / "summary.md").read_text()
    record = read_record(tmp_path / "study" / "runs" / "small" / "run.json")
    assert "token accuracy in %; always the most frequent token:" in text
    assert "perplexity of token frequencies" in text
    assert f"{record.result.metrics['perplexity']:.2f}" in text and re.search(r"\| +Perplexity \|", text)


def test_the_command_prunes_a_language_model_and_it_writes(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "config" / "tasks").mkdir(parents=True)
    rows = {"tiny": {"source": "random:llama", "config": LLAMA}, "encoder": {"source": "random:bert"}}
    (tmp_path / "config" / "models.yaml").write_text(yaml.safe_dump(rows))
    row = {**TEXT, "source": str(folder), "training": {"epochs": 2, "batch_size": 8}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(row))
    monkeypatch.chdir(tmp_path)
    words = ["prune", "--model", "tiny", "--task", "mine.yaml", "--sparsity", "0.5", "--out", "small"]
    assert main(words) == 0, capsys.readouterr().err
    assert "small: token_accuracy " in capsys.readouterr().out
    assert "| perplexity |" in (tmp_path / "small" / "README.md").read_text()
    assert json.loads((tmp_path / "small" / "run.json").read_text())["settings"]["task"]["kind"] == TEXT["kind"]
    model = neuroprune.from_pretrained("small")
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False).shape == (1, 7)
    words[2:3] = ["encoder"]
    assert main([*words[:-1], "other"]) == 1
    assert "--model: the model 'encoder' (bert) can't predict the next token" in capsys.readouterr().err
