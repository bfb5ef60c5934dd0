"""The tutorials' code runs unchanged, with a tiny model instead of the one on the hub."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import peft
import pytest
import torch
from test_pretrained import tokenizer  # noqa: F401  (a fixture)
from transformers import Trainer, TrainingArguments

from helpers.loops import labelled_batch
from helpers.models import make_batch, make_model
from neuroprune.cli import main
from neuroprune.models.pretrained import from_pretrained
from neuroprune.models.sources import train_text_tokenizer
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity

ROOT = Path(__file__).parents[1]
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "neuroprune":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
"""
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
    """Return the language and text of a tutorial's blocks, with a local folder instead of the hub's model."""
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


@pytest.fixture
def decoder(place):
    """The decoder tutorial's blocks, in a folder with its data and a small Llama in place of SmolLM2."""
    texts = [" ".join("abcdef"[: 3 + row % 4]) for row in range(80)]
    tokenizer = train_text_tokenizer(texts, 280)  # noqa: F811
    model = make_model("llama", hidden_size=64, head_dim=16, tie_word_embeddings=True)
    model.resize_token_embeddings(len(tokenizer))
    save(model, tokenizer, place / "model")
    Path("texts.txt").write_text("\n".join(texts))
    Path("data").mkdir()
    for split in ("train", "validation"):
        Path("data", f"{split}.csv").write_text("\n".join(["text", *texts[:40]]))
    blocks = tutorial("decoder", "HuggingFaceTB/SmolLM2-135M-Instruct", place / "model")
    return [(language, text.replace("multiple_of=64", "multiple_of=4")) for language, text in blocks]


def test_the_decoder(decoder, capsys):
    names = run(decoder)
    assert measure_sparsity(names["small"]).weights == pytest.approx(0.3, abs=1e-3)
    assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1]
    assert {mlp.units for mlp in find_blocks(names["uniform"]).mlps} <= {4, 8, 12, 16, 20}
    (task,) = [text for language, text in decoder if language == "yaml"]
    Path("my_task.yaml").write_text(task.replace("512", "32"))
    assert [main(words) for words in commands(decoder)] == [0, 0], capsys.readouterr().err
    assert measure_sparsity(from_pretrained("small-too")).weights == pytest.approx(0.3, abs=1e-3)
    generate, llama = (text for language, text in decoder if language == "py")
    assert said_without_the_package(generate).startswith("The")
    if find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp's package xllamacpp is not installed: the last block of the page did not run")
    assert said_without_the_package(llama)


def said_without_the_package(code):
    """Run a block as a program of its own in which neuroprune can't be imported; return what it prints."""
    done = subprocess.run([sys.executable, "-c", BLOCKER + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_faq_s_recipe_for_adapters(place):
    blocks = BLOCK.findall((ROOT / "docs" / "faq.md").read_text())
    (code,) = [text for language, text in blocks if language == "py" and text.startswith("import peft")]
    adapters = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    rows = [{key: value[0] for key, value in labelled_batch("llama", seed=i, rows=1).items()} for i in range(24)]
    args = TrainingArguments("out", num_train_epochs=1, per_device_train_batch_size=4, report_to="none", use_cpu=True)
    names = {"adapted": peft.get_peft_model(make_model("llama"), adapters), "args": args, "train_dataset": rows}
    names["Trainer"] = Trainer
    exec(compile(code, "faq", "exec"), names)
    assert measure_sparsity(from_pretrained("small")).weights == pytest.approx(0.5, abs=0.01)
    batch = make_batch("llama")
    with torch.no_grad():
        found, trained = (names[name].eval()(**batch).logits for name in ("again", "adapted"))
        untouched = from_pretrained("small")(**batch).logits
    assert torch.equal(found, trained) and not torch.equal(found, untouched)
