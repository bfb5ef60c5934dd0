"""The tutorials' code runs as it stands, with a tiny model in place of the one on the hub."""

import re
import shlex
from pathlib import Path

import pytest
from test_pretrained import tokenizer  # noqa: F401  (a fixture)

from helpers.models import make_model
from neuroprune.cli import main
from neuroprune.models.pretrained import from_pretrained
from neuroprune.pruning.sparsity import measure_sparsity

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", flags=re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that looks like the repository to the command line."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    return tmp_path


def tutorial(name, hub_id, folder):
    """Return the language and text of a tutorial's blocks, with a local folder in place of the hub's model."""
    text = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text()
    assert hub_id in text
    return BLOCK.findall(text.replace(hub_id, str(folder)))


def save(model, tokenizer, folder):  # noqa: F811
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(blocks):
    """Run the Python blocks one after another, as one program; return its names."""
    names = {}
    for code in (text for language, text in blocks if language == "python"):
        exec(compile(code, "tutorial", "exec"), names)
    return names


def commands(blocks):
    lines = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_classifier(place, tokenizer, capsys):  # noqa: F811
    save(make_model("bert"), tokenizer, place / "model")
    rows = [f"{'a b' if row % 2 else 'c d e'},{row % 2}" for row in range(70)]
    Path("data").mkdir()
    for split in ("train", "validation"):
        for folder in (".", "data"):
            Path(folder, f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    blocks = tutorial("classifier", "google-bert/bert-base-uncased", place / "model")
    names = run(blocks)
    assert measure_sparsity(names["model"]).weights == pytest.approx(0.8, abs=1e-3)
    assert measure_sparsity(names["dense"].model).weights == 0
    assert all(len(values) == 10 for values in names["times"].values())
    (task,) = [text for language, text in blocks if language == "yaml"]
    Path("my_task.yaml").write_text(task)
    assert [main(words) for words in commands(blocks)] == [0, 0, 0], capsys.readouterr().err
    assert measure_sparsity(from_pretrained("small-too")).weights == pytest.approx(0.8, abs=1e-3)
    assert Path("onnx", "model.onnx").exists()


def test_the_decoder(place, tokenizer, capsys):  # noqa: F811
    save(make_model("qwen3"), tokenizer, place / "model")
    Path("texts.txt").write_text("\n".join("a b c d e f"[: 3 + row % 8] for row in range(80)))
    Path("data").mkdir()
    for split in ("train", "validation"):
        rows = [" ".join("abcdef"[: 3 + row % 4]) for row in range(40)]
        Path("data", f"{split}.csv").write_text("\n".join(["text", *rows]))
    blocks = tutorial("decoder", "Qwen/Qwen3-0.6B-Base", place / "model")
    names = run(blocks)
    assert measure_sparsity(names["small"]).weights == pytest.approx(0.3, abs=1e-3)
    assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1]
    (task,) = [text for language, text in blocks if language == "yaml"]
    Path("my_task.yaml").write_text(task.replace("512", "32"))
    assert [main(words) for words in commands(blocks)] == [0], capsys.readouterr().err
    assert measure_sparsity(from_pretrained("small-too")).weights == pytest.approx(0.3, abs=1e-3)
