"""Invalid datasets: `neuroprune prepare-data` reports task and problem in one sentence and writes nothing."""

# ruff: noqa: E501 (the table has one case a line)

import gzip
import io
import json
import os
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroprune.cli import main

SECONDS = 20  # seconds of processor time: far above a rejection, far below a hang
TASK = {"name": "t", "source": "folder", "inputs": ["text"]}
ROWS = "text,label\ngood film,1\nbad film,0\nwarm story,1\ndull story,0\n"
LINES = [{"text": f"film {number}", "label": number % 2} for number in range(6)]
SUMMARIES = {"kind": "summarization", "metric": "rouge1", "label": "summary"}
GERMAN = {"kind": "translation", "metric": "bleu", "inputs": ["de"], "label": "en"}
WORDS = {"kind": "language_modeling", "metric": "token_accuracy"}
TAGS = {"kind": "token_classification", "metric": "token_accuracy"}
SCORES = {"kind": "regression", "metric": "spearmanr"}


def lines(*rows):
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def relabelled(*labels):
    """Rows with these labels, as JSON lines."""
    return lines(*({"text": f"film {number}", "label": label} for number, label in enumerate(labels)))


def retold(*texts):
    """Rows with these texts, as JSON lines."""
    return lines(*({"text": text, "label": number % 2} for number, text in enumerate(texts)))


def parquet(columns, metadata=None):
    """A parquet file of columns, with the features of `datasets` if given."""
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def classes(names, values):
    """A parquet file whose label is a ClassLabel."""
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
    texts = [f"film {number}" for number in range(len(values))]
    return parquet({"text": texts, "label": pa.array(values, pa.int64())}, features)


def zipped(name, data):
    """A zip archive with one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def card(text):
    """A dataset card with valid files."""
    return {"README.md": f"---\n{text}\n---\n", "train.csv": ROWS, "validation.csv": ROWS}


def both(data, name="jsonl"):
    """The same content in both splits."""
    return {f"train.{name}": data, f"validation.{name}": data}


def judged(data, name="csv", train=ROWS):
    """Valid training rows with the given evaluation rows."""
    return {"train.csv" if train is ROWS else f"train.{name}": train, f"validation.{name}": data}


GOOD = parquet({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})

# name: files, changes of the task, a part of the sentence
BAD = {
    # ---- files
    "no folder": (None, {}, "folder"),
    "empty folder": ({}, {}, "can't be read"),
    "empty csv": (both("", "csv"), {}, "empty"),
    "white csv": (both("\n\n\n", "csv"), {}, "empty"),
    "header alone": (both("text,label\n", "csv"), {}, "train.csv is empty or has no row"),
    "header alone, training": ({"train.csv": "text,label\n", "validation.csv": ROWS}, {}, "train.csv is empty or has no row"),
    "one empty split": (judged("text,label\n"), {}, "row"),
    "two files of one split": ({"train.csv": ROWS, "train_old.csv": ROWS, "validation.csv": ROWS}, {}, "has several files for the split train: train.csv, train_old.csv; keep one, or list them in README.md"),
    "two files of the evaluation split": ({"train.csv": ROWS, "validation.csv": ROWS, "val.csv": ROWS}, {}, "split validation: val.csv, validation.csv; keep"),
    "two files of one split in a folder with both": ({"data/train.csv": ROWS, "data/train-old.csv": ROWS, "data/validation.csv": ROWS}, {}, "split train: data/train-old.csv, data/train.csv; keep"),
    "parts of two versions": ({"train-00000-of-00001.csv": ROWS, "train_old-00000-of-00001.csv": ROWS, "validation.csv": ROWS}, {}, "split train: train-00000-of-00001.csv, train_old-00000-of-00001.csv; keep"),
    "files without a split": ({"a.csv": ROWS, "b.csv": ROWS}, {}, "split train: a.csv, b.csv"),
    "card: no list of the files": ({**card("license: mit"), "train2.csv": ROWS}, {}, "split train: train.csv, train2.csv"),
    "two columns of one name": (both(ROWS.replace("text,label", "text,label,label").replace(",1", ",1,0").replace(",0\n", ",0,1\n"), "csv"), {}, "train.csv has two columns named 'label'; rename or delete one"),
    "two columns of one name, later": (judged("text,label,text\na,1,b\nc,0,d\n"), {}, "validation.csv has two columns named 'text'"),
    "two columns of one name, marked": (both("\ufeff\"text\",text,label\na,b,1\nc,d,0\n".encode(), "csv"), {}, "train.csv has two columns named 'text'"),
    "two columns of one name, tabs": (both("text\ttext\tlabel\na\tb\t1\nc\td\t0\n", "tsv"), {}, "train.tsv has two columns named 'text'"),
    "two columns of one name, gzip": (both(gzip.compress(b"text,text,label\na,b,1\nc,d,0\n"), "csv.gz"), {}, "train.csv.gz has two columns named 'text'"),
    "no validation split": ({"train.csv": ROWS}, {}, "no split 'validation'"),
    "misspelled split": ({"train.csv": ROWS, "validatoin.csv": ROWS}, {}, "no split 'validation'"),
    "text file": (both("good film\n", "txt"), {}, "label"),
    "ragged csv": (both("text,label\na,1,2,3\nb,0\n", "csv"), {}, "more cells"),
    "ragged csv, last row": (both("text,label\na,1\nb,0,2,3\n", "csv"), {}, "train.csv: Error tokenizing data. C error: Expected 2 fields in line 3, saw 4; put texts with commas"),
    "unclosed quote": (judged('text,label\n"good,1\nbad,0\n'), {}, "validation.csv: Error tokenizing data"),
    "semicolons": (both(ROWS.replace(",", ";"), "csv"), {}, "no column"),
    "tabs": (both(ROWS.replace(",", "\t"), "csv"), {}, "no column"),
    "latin-1 csv": (both("text,label\nfür,1\nbös,0\n".encode("latin-1"), "csv"), {}, "UTF-8"),
    "utf-16 csv": (both(ROWS.encode("utf-16"), "csv"), {}, "UTF-8"),
    "binary csv": (both(bytes(range(256)) * 9, "csv"), {}, "can't be read"),
    "json: not json": (both("good film, 1\n"), {}, "can't be read"),
    "json: cut": (both(relabelled(1, 0, 1, 0)[:-20]), {}, "can't be read"),
    "json: empty": (both(""), {}, ""),
    "json: a number": (both("5\n"), {}, "can't be read"),
    "json: a list of numbers": (both("[1, 2]\n", "json"), {}, "no column"),
    "json: text and numbers": (both(relabelled(1, "a", 0, "b")), {}, "label"),
    "json: latin-1": (both('{"text": "für", "label": 1}\n'.encode("latin-1")), {}, ""),
    "json: half a character": (both('{"text": "\\ud800", "label": 1}\n{"text": "b", "label": 0}\n'), {}, ""),
    "parquet: empty": (both(b"", "parquet"), {}, "can't be read"),
    "parquet: noise": (both(b"PAR1" + bytes(100) + b"PAR1", "parquet"), {}, "can't be read"),
    "parquet: cut": (both(GOOD[:-30], "parquet"), {}, "can't be read"),
    "parquet: damaged": (both(GOOD[:40] + bytes(200) + GOOD[240:], "parquet"), {}, ""),
    "gzip: damaged": (both(gzip.compress(ROWS.encode())[:-12], "csv.gz"), {}, "can't be read"),
    "zip: noise": (both(b"PK\x03\x04" + bytes(50), "zip"), {}, "can't be read"),
    "zip: a program": (both(zipped("x.py", "print(1)"), "zip"), {}, ""),
    "two formats": ({"train.csv": ROWS, "validation.jsonl": relabelled("x", "y")}, {}, ""),
    "a folder called csv": ({"train.csv/x": "", "validation.csv/x": ""}, {}, ""),
    "a loading script": ({"folder.py": "raise SystemExit(7)\n", "train.txt": "x"}, {}, ""),
    # ---- cards
    "card: no YAML": (card("configs: [\n"), {}, "README.md"),
    "card: a list": (card("- 1\n- 2"), {}, "README.md"),
    "card: a word": (card("words"), {}, "README.md"),
    "card: configs is a word": (card("configs: default"), {}, "README.md"),
    "card: configs without files": (card("configs:\n- config_name: default"), {}, None),
    "card: an absent file": (card("configs:\n- config_name: d\n  data_files: nothing.csv"), {}, ""),
    "card: a tag that runs code": (card("x: !!python/object/apply:os.getcwd []"), {}, "README.md"),
    "card: other numbers of rows": (
        card("dataset_info:\n  splits:\n  - {name: train, num_examples: 9, num_bytes: 9}"), {}, "README.md",
    ),
    "card: features that are none": (card("dataset_info:\n  features: 5"), {}, "README.md"),
    "card: another type": (
        card("dataset_info:\n  features:\n  - {name: text, dtype: int64}\n  - {name: label, dtype: int64}"), {}, "",
    ),
    "card: latin-1": ({**both(ROWS, "csv"), "README.md": "---\nx: für\n---\n".encode("latin-1")}, {}, "README.md"),
    "card: a file above the folder": (card("configs:\n- {config_name: d, data_files: ../../t.csv}"), {}, "'../../t.csv', which is not in this folder"),
    "card: a file elsewhere": (card("configs:\n- {config_name: d, data_files: [{split: train, path: [/t.csv]}]}"), {}, "'/t.csv', which is not in this folder"),
    "card: a file of the web": (card("configs:\n  config_name: d\n  data_files: {train: 'http://localhost:9/t.csv'}"), {}, "not in this folder"),
    "card: a folder above": (card("configs:\n- {config_name: d, data_dir: ..}"), {}, "'..', which is not in this folder"),
    "card: an unknown configuration": (card("license: mit"), {"config": "big"}, "big"),
    # ---- columns
    "misspelled column": (both(ROWS, "csv"), {"inputs": ["txt"]}, "did you mean 'text'"),
    "misspelled label": (both(ROWS, "csv"), {"label": "lable"}, "did you mean 'label'"),
    "column of one split alone": (judged("sentence,label\na,1\nb,0\n"), {}, ""),
    "text: numbers": (both("text,label\n1,1\n2,0\n", "csv"), {}, "2 rows of column 'text' have no text but 1; leave them out, or name a column of text"),
    "text: all empty": (both('{"text": "", "label": 0}\n{"text": " ", "label": 1}\n'), {}, "all 2 rows of column 'text' (split train of folder) are empty"),
    "text: missing": (both("text,label\n,1\nb,0\n", "csv"), {}, "1 rows of column 'text'"),
    "text: null": (both(retold("a", None, "c")), {}, "no text"),
    "text: lists": (both(retold(["a", "b"], ["c"])), {}, "no text but ['a', 'b']"),
    "text: mappings": (both(retold({"a": "b"}, {"a": "c"})), {}, ""),
    "text: bytes": (both(parquet({"text": [b"a", b"b"], "label": [0, 1]}), "parquet"), {}, "no text"),
    "text: nested mappings": (both(retold({"a": {"b": "c"}}, {"a": {"b": "d"}})), {}, "no column"),
    "text: mappings with the label's name": (both(retold({"label": "a"}, {"label": "c"})), {}, "no column"),
    "text: a million dashes": (both(retold("-" * 1_000_000, "b")), {}, "1,000,000 letters or signs"),
    "text: a million joiners": (both(retold("\u200d" * 1_000_000, "b")), {}, "letters or signs"),
    "text: a million underscores and dashes": (both(retold("_-" * 500_000, "b")), {}, "letters or signs"),
    "text: a word of a million letters": (both(retold("a" * 1_000_000, "b")), {}, "letters"),
    "text: never in training": ({"train.csv": "text,label\n,1\n,0\n", "validation.csv": ROWS}, {}, "column 'text' of train.csv is empty in all rows, but not in other files"),
    "text: never when judged": (judged("text,label\n,1\n,0\n"), {}, "all 2 rows of column 'text' (split validation of folder) are empty"),
    "text: always missing": (both("text,label\n,1\n,0\n", "csv"), {}, "all 2 rows of column 'text' (split train of folder) are empty; name the column with the text in inputs"),
    "text: always null in training": ({"train.jsonl": retold(None, None), "validation.jsonl": retold("a", "b")}, {}, "column 'text' of train.jsonl is empty in all rows"),
    "another column: never in training": ({"train.csv": "text,label,x\na,1,\nb,0,\n", "validation.csv": "text,label,x\na,1,q\nb,0,w\n"}, {}, "column 'x' of train.csv is empty"),
    # ---- labels
    "label: never": (both("text,label\na,\nb,\n", "csv"), {}, "all 2 rows of column 'label' (split train of folder) are empty; set label or the split"),
    "label: spaces": (both("text,label\na,x\nb, x\nc,y\n", "csv"), {}, "the classes ' x' and 'x' of column 'label' differ only in spaces"),
    "label: -1": (both("text,label\na,-1\nb,0\n", "csv"), {}, "hidden"),
    "label: -2": (both("text,label\na,-2\nb,0\n", "csv"), {}, "-2"),
    "label: a fraction": (both("text,label\na,0.5\nb,1\n", "csv"), {}, "not classes"),
    "label: missing": (both("text,label\na,\nb,x\nc,y\n", "csv"), {}, "hidden"),
    "label: null": (both(relabelled("x", None, "y")), {}, "hidden"),
    "label: always null": (both(relabelled(None, None)), {}, "all 2 rows of column 'label' (split train of folder) are empty"),
    "label: NA among numbers": (both("text,label\na,0\nb,1\nc,NA\n", "csv"), {}, "'NA'"),
    "label: lists": (both(relabelled([0], [1])), {}, "label"),
    "label: mappings": (both(relabelled({"a": 0}, {"a": 1})), {}, "label"),
    "label: bytes": (both(parquet({"text": ["a", "b"], "label": [b"x", b"y"]}), "parquet"), {}, "label"),
    "label: infinite": (both(parquet({"text": ["a", "b"], "label": [float("inf"), 1.0]}), "parquet"), {}, "not classes"),
    "label: missing among numbers": (both("text,label\na,\nb,0\nc,1\n", "csv"), {}, "1 rows of column 'label' of folder have no label"),
    "label: NaN among numbers": (both('{"text": "a", "label": NaN}\n{"text": "b", "label": 1}\n'), {}, "1 rows of column 'label'"),
    "label: a million letters": (both(relabelled("x" * 1_000_000, "y")), {}, "letters"),
    "label: classes without names": (both(classes([], [0, 1]), "parquet"), {}, "classes without names"),
    "no row in parquet": (both(parquet({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), "parquet"), {}, "empty or has no row"),
    "label: one class": (both("text,label\na,1\nb,1\n", "csv"), {}, "only one class"),
    "label: one class in the used rows": (both(ROWS, "csv"), {"train_rows": 1}, "only one class"),
    "label: unknown when judged": (judged("text,label\na,2\nb,0\n"), {}, "class '2'"),
    "label: text when judged": (judged("text,label\na,x\nb,y\n"), {}, ""),
    "label: 5 of 2": (both(classes(["no", "yes"], [0, 1, 5]), "parquet"), {}, "5"),
    "label: 5 of 2 when judged": (judged(classes(["no", "yes"], [0, 5]), "parquet", classes(["no", "yes"], [0, 1])), {}, "5"),
    "label: -2 of 2": (both(classes(["no", "yes"], [0, 1, -2]), "parquet"), {}, "-2"),
    "label: two classes of one name": (both(classes(["no", "no"], [0, 1]), "parquet"), {}, ""),
    "label: a class for each row": (both(relabelled(*(f"answer {number}" for number in range(200)))), {}, "200 classes"),
    "f1 of three classes": (both(relabelled("a", "b", "c")), {"metric": "f1"}, "f1"),
    "another number of rows": (both(ROWS, "csv"), {"expected_rows": 9}, "expected_rows"),
    # ---- tasks with text or numeric labels
    "summary: missing": (both(lines({"text": "a", "summary": None}, {"text": "b", "summary": "c"})), SUMMARIES, "summary"),
    "summary: a number": (both(lines({"text": "a", "summary": 5}, {"text": "b", "summary": 6})), SUMMARIES, "summary"),
    "summary: always empty": (both(lines({"text": "a", "summary": ""}, {"text": "b", "summary": ""})), SUMMARIES, "summary"),
    "translation: null": (both(lines({"translation": {"de": "a", "en": None}}, {"translation": {"de": "b", "en": "c"}})), GERMAN, "en"),
    "translation: another language": (both(lines({"translation": {"de": "a", "fr": "b"}})), GERMAN, "no column"),
    "number: text": (both(relabelled("x", "y")), SCORES, "number"),
    "number: missing": (both(relabelled(1.5, None)), SCORES, ""),
    "number: infinite": (both(parquet({"text": ["a", "b"], "label": [float("inf"), 1.0]}), "parquet"), SCORES, ""),
    "number: always the same": (both(relabelled(1.5, 1.5, 1.5)), SCORES, ""),
    "next token: no text": (both(lines({"text": None}, {"text": "b"})), WORDS, ""),
    "next token: numbers": (both(lines({"text": 1}, {"text": 2})), WORDS, ""),
    "next token: empty": (both(lines({"text": ""}, {"text": " "})), WORDS, ""),
    "next token: lists": (both(lines({"text": ["a"]}, {"text": ["b"]})), WORDS, ""),
    "completion: missing": (both(lines({"text": "a", "label": None}, {"text": "b", "label": "c"})), WORDS | {"inputs": ["text", "label"]}, ""),
    "completion: a number": (both(lines({"text": "a", "label": 1}, {"text": "b", "label": 2})), WORDS | {"inputs": ["text", "label"]}, ""),
    "completion: empty": (both(lines({"text": "a", "label": ""}, {"text": "b", "label": ""})), WORDS | {"inputs": ["text", "label"]}, ""),
    "words: label -100": (both(lines({"text": ["a", "b"], "label": [-100, 1]}, {"text": ["c"], "label": [0]})), TAGS, "label -100 is not a class"),
    "words: a million letters": (both(lines({"text": ["a" * 1_000_000], "label": ["x"]}, {"text": ["c"], "label": ["y"]})), TAGS, "letters"),
    "words: too few classes": (both(lines({"text": ["a", "b"], "label": ["x"]})), TAGS, "2 words in column 'text' but 1 classes"),
    "words: lists of lists": (both(lines({"text": [["a"]], "label": [["x"]]})), TAGS, "holds no words"),
    "summary: a word of a million letters": (both(lines({"text": "a", "summary": "b" * 1_000_000})), SUMMARIES, "letters"),
    # ---- sources
    "unknown demo data": (None, {"source": "demo", "config": "movie_snipets"}, "did you mean 'movie_snippets'"),
    "no hub id": (None, {"source": "a/b/c/d"}, "neither a folder"),
    "absent from the hub": (None, {"source": "no-such/dataset"}, "can't be had from the hub"),
}  # fmt: skip


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Prepare a dataset of these files: exit code, output on the standard error, and the manifest if there is one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)

    def call(files, **changes):
        if files is not None:
            (tmp_path / "data" / "folder").mkdir(parents=True)
        for name, data in (files or {}).items():
            path = tmp_path / "data" / "folder" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        settings = json.dumps(TASK | changes)
        code = main(["prepare-data", "--settings", settings, "--data-root", "data", "--output", "made/t.json"])
        made = tmp_path / "made" / "t.json"
        return code, capsys.readouterr().err, json.loads(made.read_text()) if made.exists() else None

    return call


@pytest.mark.parametrize("name", BAD)
def test_a_bad_dataset_is_refused_in_a_sentence(prepare, tmp_path, name):
    files, changes, part = BAD[name]
    if part is None:
        assert prepare(files, **changes)[0] == 0
        return
    begun = time.process_time()
    code, sentence, made = prepare(files, **changes)
    assert time.process_time() - begun < SECONDS
    assert (code, made) == (1, None)
    assert sentence.startswith("task t") and sentence.count("\n") == 1 and len(sentence) < 1000, sentence
    assert part in sentence, sentence
    assert not list((tmp_path / "tmp").iterdir())
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "tmp", "resources"}


def test_words_that_look_like_missing_values_are_text(prepare):
    text = "text,label\nNone,NA\nNA,null\nnull,NA\nnan,null\nN/A,NA\n"
    code, _, made = prepare(both(text, "csv"))
    assert (code, made["labels"], made["splits"]["train"]) == (0, ["NA", "null"], 5)


SEVERAL = {
    "numbered": {
        "train-00000-of-00002.csv": ROWS,
        "train-00001-of-00002.csv": ROWS,
        "validation-00000-of-00001.csv": ROWS,
    },
    "counted": {"train-0.csv": ROWS, "train-1.csv": ROWS, "validation.csv": ROWS},
    "in a folder": {"train/old.csv": ROWS, "train/new.csv": ROWS, "validation/all.csv": ROWS},
    "in folders": {"train/a/rows.csv": ROWS, "train/b/rows.csv": ROWS, "validation/all.csv": ROWS},
    "listed": {
        **card(
            "configs:\n- config_name: d\n  data_files: [{split: train, path: train*.csv}, {split: validation, path: validation.csv}]"
        ),
        "train_old.csv": ROWS,
    },
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_parts_of_a_split_are_read_together(prepare, kind):
    code, sentence, made = prepare(SEVERAL[kind])
    assert (code, sentence) == (0, "")
    assert made["splits"] == {"train": 8, "validation": 4}


def test_files_of_splits_that_the_task_does_not_read_do_not_matter(prepare):
    assert prepare(both(ROWS, "csv") | {"test_a.csv": ROWS, "test_b.csv": ROWS})[0] == 0


def test_columns_without_a_name_do_not_matter(prepare):
    rows = ROWS.replace("\n", ",,\n")
    assert rows.startswith("text,label,,\n")
    assert prepare(both(rows, "csv"))[0] == 0


@pytest.mark.parametrize(
    "text", ["\ufeff" + ROWS, ROWS.replace("\n", "\r\n"), ROWS.replace("good film", '"good\nfilm"')]
)
def test_marks_and_line_ends_of_other_systems_change_nothing(prepare, text):
    code, _, made = prepare(both(text.encode(), "csv"))
    assert (code, made["labels"], made["splits"]) == (0, ["0", "1"], {"train": 4, "validation": 4})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(prepare, tmp_path):
    (tmp_path / "data" / "folder").mkdir(parents=True)
    secret = tmp_path / "data" / "folder" / "train.csv"
    secret.write_text(ROWS)
    secret.chmod(0)
    assert "Permission denied" in prepare(None)[1]
