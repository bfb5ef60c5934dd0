"""Demo data: the same rows everywhere, built from real packages, without partially written folders."""

import functools
import io
import json
import tarfile
import zipfile
from collections import Counter

import pytest

from helpers.data import ROOT
from neuroprune import tasks
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.files.packages import fetch
from neuroprune.tasks import demo_data, docstrings, home_messages, movie_snippets, verse_pairs
from neuroprune.tasks.text import key, rank, rows_sha256, words

RESOURCES = ROOT / "resources"  # shared with the demo: what it has fetched is not fetched again

# The content of each split, as `rows_sha256` tells it.
GOLDEN = {
    "movie_snippets": {
        "train": (9105, "f89802e3e64706af7bcb884cebbffc9e7b5ad8b06aae50a3c272365663e210af"),
        "validation": (900, "2e39c8b6363ad0ae8d4149fc2dee68677aa0172ac49b099ff9c24d9c4e815a23"),
    },
    "verse_pairs": {
        "train": (3620, "b54263c6680c9b83836973faf2ab4d8f3017c552390266232bb33e040f83f1f3"),
        "validation": (534, "eadc653b55eaf36dd1ec3c99ddc5f079fa86ecc2dcd3f5521f8383cef569f6ff"),
    },
    "docstrings": {
        "train": (2127, "14ca72dae783421d7b33238c9c876523ea44fce076e82f6466cd13a7b5381904"),
        "validation": (300, "1514799f4f20932153c6205b4b89181730856c3a65294fb80eeb275d9b6a0e91"),
    },
    "home_messages": {
        "train": (8824, "a46d3ff16ac35034647cdbb05742a14ac1ae182e79b681e0d0773e8ee13652c9"),
        "validation": (600, "39e23a515b686e8bf9bf861375e5d6bba2f70589760bfbb48fc8863b5c9320ba"),
    },
}


@functools.cache
def rows_of(name):
    """The rows of a set, built from its packages; skip if these are unavailable."""
    try:
        for package in demo_data.SETS[name].packages:
            fetch(package, RESOURCES)
    except UserError as error:
        if "could not be downloaded" in str(error):
            pytest.skip(f"the packages of {name} are not here and the index cannot be reached")
        raise
    return demo_data.SETS[name].rows(RESOURCES)


# ------------------------------------------------------------------ real packages


def test_every_set_is_pinned():
    assert {name: demo.sha256 for name, demo in demo_data.SETS.items()} == {
        name: {split: sha256 for split, (_, sha256) in splits.items()} for name, splits in GOLDEN.items()
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_the_rows_are_the_same_everywhere(name):
    assert {split: (len(rows), rows_sha256(rows)) for split, rows in rows_of(name).items()} == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_no_text_is_in_both_splits(name):
    demo = demo_data.SETS[name]
    columns = demo.inputs if demo.labels else (*demo.inputs, demo.answer)
    texts = {s: [(c, key(row[c])) for row in rows for c in columns] for s, rows in rows_of(name).items()}
    assert len(set(texts["train"])) == len(texts["train"])
    assert not set(texts["train"]) & set(texts["validation"])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_verse_pairs_cannot_be_told_by_overlap_or_length(split):
    bins = {0: Counter(), 1: Counter()}
    for row in rows_of("verse_pairs")[split]:
        a, b = (row[c] for c in ("sentence1", "sentence2"))
        overlap = len({*words(a)} & {*words(b)}) / len({*words(a)} | {*words(b)})
        gap = abs(len(a.split()) - len(b.split()))
        bins[row["label"]][int(overlap * 20), (gap > 1) + (gap > 3) + (gap > 6)] += 1
    assert bins[0] == bins[1]


def test_movie_snippets_are_in_no_order_of_feeling():
    labels = [row["label"] for row in rows_of("movie_snippets")["train"]]
    thirds = [labels[i : i + 3035] for i in range(0, 9105, 3035)]
    assert all(0.4 < sum(third) / 3035 < 0.6 for third in thirds)


def test_messages_that_begin_alike_lie_in_one_split():
    first = {s: {" ".join(words(row["en"])[:4]) for row in rows} for s, rows in rows_of("home_messages").items()}
    assert not first["train"] & first["validation"]


def test_pages_are_long_and_their_summaries_short():
    for row in (row for rows in rows_of("docstrings").values() for row in rows):
        assert 60 <= len(row["body"].split()) <= 300
        assert 5 <= len(row["summary"].split()) <= 30
        assert not {">>>", "`", "%("} & {*row["body"].split()}


# ------------------------------------------------------------------ small archives made here


def tar_of(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_snippets_without_a_verdict_and_doubles_are_left_out(tmp_path):
    lines = [
        "1\t2.5\tA warm ,  funny film .",
        "2\t-0.4\tneither good nor bad",
        "3\t-3.0\ta warm, funny film!",
        "4\t-1.5\tway too long",
    ]
    lines.append("5\t3.0\ttoo short")
    inner = tar_of(tmp_path / "in.tgz", {"x/movieReviewSnippets_GroundTruth.txt": "\r\n".join(lines).encode()})
    outer = tar_of(tmp_path / "out.tgz", {movie_snippets.ARCHIVE: inner.read_bytes()})
    splits = movie_snippets.build(outer)
    assert splits["train"] == []
    assert sorted(splits["validation"], key=str) == [
        {"sentence": "A warm , funny film .", "label": 1},
        {"sentence": "way too long", "label": 0},
    ]


def test_a_bible_is_read_without_running_its_module(tmp_path):
    text = '1. In [the]\nbeginning. 2. "And God`s"'
    starts, ends = {1001001: 3, 1001002: text.index('"')}, {1001001: text.index(" 2."), 1001002: len(text)}
    source = f"raise SystemExit\nbible = Bible(V.X, {text!r}, {starts}, {ends})"
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as wheel:
        wheel.writestr(f"pythonbible_x/{verse_pairs.MEMBER}", source)
    assert verse_pairs.read_bible(tmp_path / "b.whl").text == {1001001: "In the beginning.", 1001002: "And God's"}


PAGE = '''
class Graph:
    """Return the graph that a `list` of edges makes.

    %s

    Parameters
    ----------
    edges : list of :class:`~graphs.Edge`

    Examples
    --------
    Nothing of this.

    Returns
    -------
    >>> not_this()
    graph : ``Graph``
    """
'''


def test_pages_are_read_without_running_their_modules(tmp_path):
    prose = " ".join(["word"] * 60)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/graph.py", f"raise SystemExit\n{PAGE % prose}")
        wheel.writestr("a/twin.py", PAGE % prose)  # begins alike
        wheel.writestr("a/short.py", PAGE.replace("the graph", "another graph") % "Too short.")
        wheel.writestr("a/tests/more.py", PAGE.replace("graph", "test") % prose)
        wheel.writestr("a/broken.py", "def (")
    splits = docstrings.build(tmp_path / "a.whl")
    body = f"{prose} Parameters: edges : list of graphs.Edge Returns: graph : Graph"
    assert [*splits["train"], *splits["validation"]] == [
        {"body": body, "summary": "Return the graph that a list of edges makes."}
    ]


def test_messages_are_paired_by_their_keys(tmp_path):
    german = {"a": {"b": "Das Gerät  ist nicht bereit", "c": "Nur auf Deutsch ist dies", "d": "Kurz und gut eins"}}
    english = {"a": {"b": "The device is not ready", "d": "Short, good", "e": "Only in English is this"}}
    german["link"], english["link"] = "Siehe bitte [hier nach](x)", "Please look it [up here](x)"
    german["twin"], english["twin"] = "Das Gerät ist nicht bereit!", "This is the same message"
    with zipfile.ZipFile(tmp_path / "h.whl", "w") as wheel:
        for language, messages in (("de", german), ("en", english)):
            wheel.writestr(f"homeassistant/components/lamp/translations/{language}.json", json.dumps(messages))
        wheel.writestr("homeassistant/components/bell/translations/en.json", json.dumps(english))
    splits = home_messages.build(tmp_path / "h.whl")
    assert [*splits["train"], *splits["validation"]] == [
        {"de": "Das Gerät ist nicht bereit", "en": "The device is not ready"}
    ]


def test_an_archive_without_the_text_is_refused(tmp_path):
    (tmp_path / "c.whl").write_bytes(b"PK and then nothing")
    for build in (docstrings.build, home_messages.build):
        with pytest.raises(UserError, match=r"c\.whl is not a wheel that can be read"):
            build(tmp_path / "c.whl")
    with zipfile.ZipFile(tmp_path / "d.whl", "w") as wheel:
        wheel.writestr("x.py", "")
    with pytest.raises(UserError, match="does not contain Home Assistant's translations"):
        home_messages.build(tmp_path / "d.whl")
    with pytest.raises(UserError, match=r"does not contain movieReviewSnippets_GroundTruth\.txt"):
        movie_snippets.build(tar_of(tmp_path / "a.tgz", {"x": b""}))
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as wheel:
        wheel.writestr("x.py", "")
    with pytest.raises(UserError, match="does not contain a Bible"):
        verse_pairs.read_bible(tmp_path / "b.whl")


def test_the_order_is_that_of_sha256():
    # int(first 13 digits of `printf 'mrpc\x1f1001' | sha256sum`, 16) / 16**13
    assert rank("mrpc", 1001) == 0.9669731575861049
    assert rank("mrpc", 1001) != rank("mrpc1", "001")


# ------------------------------------------------------------------ the folder


@pytest.fixture
def small(monkeypatch):
    """A set of three rows that is made without a package."""
    rows = {
        "train": [{"sentence": "good", "label": 1, "idx": 0}, {"sentence": "worse", "label": 0, "idx": 1}],
        "validation": [{"sentence": "bad", "label": 0, "idx": 0}],
    }
    built = []

    class Small(demo_data.DemoSet):
        def rows(self, resources):
            built.append(resources)
            return rows

    hashes = {split: rows_sha256(found) for split, found in rows.items()}
    demo = Small("", (), ("sentence",), ("negative", "positive"), "Two words.", hashes)
    monkeypatch.setitem(demo_data.SETS, "small", demo)
    return built


def test_a_set_is_written_in_the_hub_s_layout_and_read_as_a_task(small, tmp_path):
    folder = demo_data.prepare("small", tmp_path)
    assert folder == tmp_path / "data/neuroprune/demo/small"
    names = ["README.md", "train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names
    data = tasks.load(TaskSettings(name="small", source="demo", inputs=("sentence",)), tmp_path / "elsewhere", tmp_path)
    assert data.labels == ("negative", "positive")
    assert data.train[0] == {"sentence": "good", "label": 1}
    assert len(small) == 1


def test_a_damaged_set_is_built_again(small, tmp_path):
    folder = demo_data.prepare("small", tmp_path)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    demo_data.prepare("small", tmp_path)
    (folder / "README.md").unlink()
    demo_data.prepare("small", tmp_path)
    assert len(small) == 3
    assert (folder / "README.md").exists()


def test_rows_that_are_not_the_expected_ones_are_not_written(small, tmp_path):
    demo_data.SETS["small"].sha256["train"] = "0" * 64
    with pytest.raises(UserError, match="demo data small: the generated rows differ from the expected ones"):
        demo_data.prepare("small", tmp_path)
    assert not [path for path in (tmp_path / "data/neuroprune/demo").iterdir() if path.is_dir()]


def test_a_package_that_cannot_be_had_leaves_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"package vaderSentiment==3\.3\.2 could not be downloaded"):
        demo_data.prepare("movie_snippets", tmp_path)
    assert not [path for path in (tmp_path / "data/neuroprune/demo").iterdir() if path.is_dir()]


def test_an_unknown_set_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no demo data 'verse_pair' \(did you mean 'verse_pairs'\?\)"):
        demo_data.prepare("verse_pair", tmp_path)
