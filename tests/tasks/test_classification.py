"""A task's rows: found in every source, equal for all runs, and rejected in one sentence if unsuitable."""

import copy
import json
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from datasets import Dataset, Features, Value
from transformers import BertConfig, EvalPrediction

from helpers.data import GLUE, ROOT, glue_features, glue_rows, write_glue, write_hub
from neuroprune import tasks
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.models.sources import train_tokenizer
from neuroprune.tasks.class_head import ClassHead

SHARED = ROOT.parent / "shared" / "data"


def glue(name, **changes):
    settings = yaml.safe_load((ROOT / "config" / "tasks" / f"{name}.yaml").read_text())
    return TaskSettings(name=name, **(settings | changes))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


HEAD = SimpleNamespace(config=BertConfig())  # all that an objective looks at: the type


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([row["sentence"] for row in glue_rows("sst2", 50)], 60)


# ------------------------------------------------------------------ finding and reading


@pytest.mark.parametrize("name", GLUE)
def test_glue_tasks_are_read_from_a_mirror_of_the_hub(tmp_path, name, tokenizer):
    task = glue(name)
    data = tasks.load(task, write_glue(tmp_path, *GLUE))
    assert (len(data.train), len(data.eval)) == (12, 6)
    assert data.labels == GLUE[name][1]
    assert data.train[1] == {c: glue_rows(name, 2)[1][c] for c in (*GLUE[name][0], "label")}
    encoded = data.objective(HEAD, tokenizer).encode(data.train)
    assert set(encoded["labels"]) == set(range(len(data.labels)))


def test_a_mirror_without_a_card_is_read_by_its_folders(tmp_path):
    write_glue(tmp_path, "sst2", "mrpc")
    (tmp_path / "nyu-mll/glue/README.md").unlink()
    data = tasks.load(glue("mrpc"), tmp_path)
    assert len(data.train) == 12
    assert data.labels == GLUE["mrpc"][1]


def test_a_rewritten_file_is_read_anew(tmp_path):
    before = tasks.load(glue("rte"), write_glue(tmp_path, "rte"))
    splits = {
        "train": [row | {"label": 1 - row["label"]} for row in glue_rows("rte", 12)],
        "validation": glue_rows("rte", 6),
        "test": glue_rows("rte", 3, -1),
    }
    write_hub(tmp_path / "nyu-mll/glue", {"rte": (glue_features("rte"), splits)})
    after = tasks.load(glue("rte"), tmp_path)
    assert before.train["label"][:2] == [0, 1]
    assert after.train["label"][:2] == [1, 0]
    assert before.sha256 != after.sha256


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_a_folder_of_ones_own_is_a_task(tmp_path, suffix):
    rows = {"train": [["good", "yes"], ["bad", "no"], ["fine", "yes"]], "validation": [["poor", "no"], ["nice", "yes"]]}
    for split, pairs in rows.items():
        write_file(tmp_path / f"{split}.{suffix}", [{"text": text, "answer": answer} for text, answer in pairs])
    task = TaskSettings(name="own", source=str(tmp_path), inputs=("text",), label="answer")
    data = tasks.load(task, tmp_path / "nowhere")
    assert data.labels == ("no", "yes")
    assert data.train["answer"][:] == [1, 0, 1]
    assert data.eval["answer"][:] == [0, 1]


def write_file(path, rows):
    from datasets import Dataset

    getattr(Dataset.from_list(rows), f"to_{path.suffix[1:]}")(path)


def test_a_class_that_was_never_trained_on_is_refused(tmp_path):
    write_file(tmp_path / "train.csv", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}])
    write_file(tmp_path / "validation.csv", [{"text": "so so", "label": "perhaps"}])
    task = TaskSettings(name="own", source=str(tmp_path), inputs=("text",))
    with pytest.raises(UserError, match="class 'perhaps' is not among those of the training rows: no, yes"):
        tasks.load(task, tmp_path)


def test_a_dataset_s_script_is_never_run(tmp_path):
    root = write_glue(tmp_path, "sst2")
    trap = tmp_path / "trap"
    (root / "nyu-mll/glue/glue.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    try:
        tasks.load(glue("sst2"), root)
    except UserError as error:
        assert "glue.py" in str(error)
    assert not trap.exists()


# ------------------------------------------------------------------ errors


def error_of(task, data_root):
    with pytest.raises(UserError) as caught:
        tasks.load(task, data_root)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"task {task.name}")
    return text


def test_an_absent_dataset_is_one_sentence_at_once(tmp_path):
    started = time.perf_counter()
    text = error_of(glue("cola"), tmp_path / "data")
    assert time.perf_counter() - started < 5
    assert str(tmp_path / "data/nyu-mll/glue") in text
    assert "put a copy in the hub's layout there, or run once with a network" in text


def test_what_a_dataset_lacks_is_named_with_what_it_has(tmp_path):
    root = write_glue(tmp_path, "sst2", "mrpc")
    assert "'snetence' (did you mean 'sentence'?)" in error_of(glue("sst2", inputs=["snetence"]), root)
    assert "no column (split train) 'score'" in error_of(glue("sst2", label="score"), root)
    assert "no split 'dev'; it has train, validation, test" in error_of(glue("sst2", eval_split="dev"), root)
    assert "Available: ['sst2', 'mrpc']" in error_of(glue("sst2", config="qqp"), root)
    assert "'sst2', 'mrpc'" in error_of(glue("sst2", config=None), root)


def test_hidden_labels_are_refused(tmp_path):
    text = error_of(glue("rte", eval_split="test"), write_glue(tmp_path, "rte"))
    assert "split test of nyu-mll/glue: some labels are hidden" in text


@pytest.mark.parametrize("label", [5, -2])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_without_a_class_are_refused(split, label, tmp_path):
    features = glue_features("sst2")
    splits = {"train": glue_rows("sst2", 6), "validation": glue_rows("sst2", 4)}
    write_hub(tmp_path / "a/b", {"c": (features, splits)})
    splits[split][3]["label"] = label
    numbers = Features({**features, "label": Value("int64")})
    rows = Dataset.from_list(splits[split], features=numbers)
    table = rows.data.table.replace_schema_metadata(features.arrow_schema.metadata)  # what the numbers stand for
    pyarrow.parquet.write_table(table, tmp_path / "a/b/c" / f"{split}-00000-of-00001.parquet")
    text = error_of(glue("sst2", source="a/b", config="c"), tmp_path)
    assert f"split {split} of a/b: label {label} is not a class; the 2 classes are 0 to 1" in text


@pytest.mark.parametrize("rows", [{}, {"train_rows": 1}])
def test_training_rows_of_one_class_are_refused(rows, tmp_path):
    label = {} if rows else {"label": 1}
    splits = {"train": glue_rows("sst2", 6, **label), "validation": glue_rows("sst2", 4)}
    write_hub(tmp_path / "a/b", {"c": (glue_features("sst2"), splits)})
    text = error_of(glue("sst2", source="a/b", config="c", **rows), tmp_path)
    assert "to train on (split train) have only one class, " in text


def test_empty_texts_are_refused(tmp_path):
    rows = glue_rows("sst2", 6)
    rows[2]["sentence"] = rows[4]["sentence"] = None
    write_hub(tmp_path / "a/b", {"c": (glue_features("sst2"), {"train": rows, "validation": glue_rows("sst2", 2)})})
    text = error_of(glue("sst2", source="a/b", config="c"), tmp_path)
    assert "split train of a/b: 2 rows of column 'sentence' have no text" in text


def test_a_card_that_disagrees_with_the_files_is_refused(tmp_path):
    root = write_glue(tmp_path, "sst2")
    card = root / "nyu-mll/glue/README.md"
    card.write_text(card.read_text().replace("num_examples: 12", "num_examples: 13"))
    assert "README.md and the files disagree" in error_of(glue("sst2"), root)


def test_a_damaged_file_is_refused(tmp_path):
    root = write_glue(tmp_path, "sst2")
    (root / "nyu-mll/glue/sst2/train-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    assert "can't be read" in error_of(glue("sst2"), root)


def test_regression_and_f1_of_three_classes_are_refused(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": 0.5}]
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": Value("float32")})
    write_hub(tmp_path / "nyu-mll/glue", {"stsb": (features, {"train": rows, "validation": rows})})
    assert "contains numbers (float32), not classes" in error_of(glue("rte", config="stsb"), tmp_path)
    assert "f1 needs two classes" in error_of(glue("mnli", metric="f1"), write_glue(tmp_path, "mnli"))


# ------------------------------------------------------------------ identity and choice of rows


def test_a_smaller_number_of_rows_is_part_of_a_larger_one(tmp_path):
    root = write_glue(tmp_path, "sst2", train=100, evaluated=20)
    few, more = (tasks.load(glue("sst2", train_rows=n, eval_rows=n), root) for n in (5, 10))
    texts = [row["sentence"] for row in glue_rows("sst2", 100)]
    assert more.train["sentence"][:5] == few.train["sentence"][:]
    assert few.train["sentence"][:] != texts[:5]
    # numpy.random.RandomState(0).permutation(100)[:5]: its stream is frozen
    assert few.train["sentence"][:] == [texts[i] for i in (26, 86, 2, 55, 75)]
    assert len(few.eval) == 5


def test_the_hash_is_that_of_the_rows_and_of_nothing_else(tmp_path):
    one = write_glue(tmp_path / "one", "mrpc")
    two = write_glue(tmp_path / "two", "mrpc", "sst2")
    assert tasks.load(glue("mrpc"), one).sha256 == tasks.load(glue("mrpc"), two).sha256
    assert tasks.load(glue("mrpc"), one).sha256 != tasks.load(glue("mrpc", train_rows=11), one).sha256
    # printf '%s\n%s\n%s' '["negative", "positive"]' "$(rows | sha256sum)" "$(rows | sha256sum)" | sha256sum, with
    # rows the lines {"label": 0, "sentence": "a a a a a a"} and {"label": 1, "sentence": "long dull a a a a"}, without
    # a newline at the end
    rows = glue_rows("sst2", 2)
    write_hub(tmp_path / "a/b", {"c": (glue_features("sst2"), {"train": rows, "validation": rows})})
    data = tasks.load(glue("sst2", source="a/b", config="c"), tmp_path)
    assert data.sha256 == "e6761e82ac9b4e607abdbbfc0b4156784ee4b599750f70529868159be2b2235c"


def test_the_manifest_says_which_rows_a_task_gives(tmp_path):
    root = write_glue(tmp_path, "mnli", train=30, evaluated=9)
    manifest = tasks.prepare(glue("mnli", train_rows=20), root)
    assert manifest.pop("sha256") == tasks.load(glue("mnli", train_rows=20), root).sha256
    assert json.loads(json.dumps(manifest)) == {
        "name": "mnli",
        "source": "nyu-mll/glue",
        "config": "mnli",
        "splits": {"train": 20, "validation_matched": 9},
        "labels": ["entailment", "neutral", "contradiction"],
        "majority": 1 / 3,
        "copied": None,
    }


# ------------------------------------------------------------------ what the model reads, and how it is judged


def test_encoded_rows_are_what_a_trainer_takes(tmp_path, tokenizer):
    task = glue("mrpc", max_length=11)
    data = tasks.load(task, write_glue(tmp_path, "mrpc"))
    objective = data.objective(HEAD, tokenizer)
    encoded = objective.encode(data.train)
    assert set(encoded.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert encoded["labels"][:] == data.train["label"][:]
    assert {len(ids) for ids in encoded["input_ids"]} == {11}  # 6 words + 6 words + 3 special tokens, cut
    whole = ClassHead(glue("mrpc"), tokenizer).encode(data.train)[0]
    pair = [data.train[0][column] for column in task.inputs]
    assert tokenizer.decode(whole["input_ids"]) == f"[CLS] {pair[0]} [SEP] {pair[1]} [SEP]"
    batch = objective.collate([whole, encoded[1]])
    assert batch["input_ids"].shape == (2, 15)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert set(objective.question([whole, encoded[1]])) == set(batch) - {"labels"}


@pytest.mark.parametrize("hidden_states", [False, True])
def test_the_trainer_s_judge_gives_all_metrics(hidden_states):
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]])  # answers 0, 1, 1, 0
    predictions = (logits, np.zeros((4, 7, 8))) if hidden_states else logits
    values = ClassHead(glue("mrpc"), None).compute_metrics(EvalPrediction(predictions, np.array([0, 1, 0, 0])))
    # 3 of 4 right; precision 1/2, recall 1; Matthews (1*2 - 1*0) / sqrt(2 * 1 * 3 * 2)
    assert values == pytest.approx({"accuracy": 0.75, "f1": 2 / 3, "matthews_correlation": 2 / 12**0.5})
    three = ClassHead(glue("mnli"), None).compute_metrics(EvalPrediction(np.eye(3), np.array([0, 1, 1])))
    assert set(three) == {"accuracy", "matthews_correlation"}


# ------------------------------------------------------------------ real data, where they are

IN_HOUSE = {"sst2": (67349, 872), "rte": (2490, 277), "wnli": (634, 71), "mrpc": (3668, 408), "mnli": (4500, 500)}


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no mirror of GLUE beside the repository")
@pytest.mark.parametrize("name", IN_HOUSE)
def test_a_real_mirror_is_read(name):
    manifest = tasks.prepare(glue(name), SHARED)
    assert tuple(manifest["splits"].values()) == IN_HOUSE[name]
    assert manifest["labels"] == list(GLUE[name][1])


def test_a_pair_is_read_in_the_order_of_the_tasks_inputs(tokenizer):
    rows = Dataset.from_dict({"a": ["great film"], "b": ["long story"], "label": [1]})
    encoded = ClassHead(glue("mrpc", inputs=("b", "a")), tokenizer).encode(rows)[0]
    assert tokenizer.decode(encoded["input_ids"]) == "[CLS] long story [SEP] great film [SEP]"


@pytest.mark.parametrize(("of_the_task", "of_the_model"), [(4, 6), (6, 4)])
def test_rows_are_truncated_to_the_shorter_limit_of_task_and_model(tokenizer, of_the_task, of_the_model):
    rows = Dataset.from_dict({"sentence": ["a very long story of the film"], "label": [1]})
    limited = copy.copy(tokenizer)
    limited.model_max_length = of_the_model
    (encoded,) = ClassHead(glue("sst2", max_length=of_the_task), limited).encode(rows)
    assert len(encoded["input_ids"]) == 4
