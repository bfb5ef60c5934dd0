"""Full-size export: equal outputs without this package, and clear errors if impossible."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from test_pretrained import tokenizer  # noqa: F401  (a fixture)
from test_surgery import uneven_cut

from helpers.models import ROWS, each_model, logits, make_batch, make_model
from neuroprune.cli import main
from neuroprune.models.export.full import full_size
from neuroprune.models.pretrained import save_pretrained
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import remove


def cut_model(name, **changes):
    model = make_model(name, **changes)
    remove(model, *uneven_cut(name))
    return model


def export(folder, form, out, *more):
    return main(["export", str(folder), "--format", form, "--out", str(out), *more])


# ---- full size


@each_model
def test_full_size_computes_what_the_cut_model_does(name):
    for changes in ({}, {"attention": "eager"}):
        model = cut_model(name, **changes)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        full = full_size(model)
        for length in (7, 8):
            batch = make_batch(name, length=length)
            torch.testing.assert_close(logits(full, batch), logits(model, batch), atol=1e-5, rtol=0)
        assert {n: p.shape for n, p in full.named_parameters()} == {
            n: p.shape for n, p in make_model(name).named_parameters()
        }
        assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@each_model
def test_plain_transformers_loads_the_full_checkpoint_without_this_package(name, tmp_path):
    model, batch = cut_model(name), make_batch(name)
    save_pretrained(model, tmp_path / "small")
    assert export(tmp_path / "small", "full", tmp_path / "full") == 0
    assert "quantization_config" not in json.loads((tmp_path / "full" / "config.json").read_text())
    plain, info = getattr(transformers, ROWS[name].model).from_pretrained(tmp_path / "full", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(plain, batch), logits(model, batch), atol=1e-5, rtol=0)
    assert "import transformers; model" in (tmp_path / "full" / "README.md").read_text()


def test_the_full_checkpoint_brings_tokenizer_and_metrics_along(tmp_path, tokenizer):  # noqa: F811
    model = cut_model("bert")
    save_pretrained(model, tmp_path / "small", tokenizer, metrics={"accuracy": 0.9}, dataset="a/b", task="c")
    assert export(tmp_path / "small", "full", tmp_path / "full") == 0
    code = (
        "import sys, transformers\n"
        "print(transformers.pipeline('text-classification', model=sys.argv[1], device='cpu')('a b')[0]['score'])\n"
        "assert 'neuroprune' not in sys.modules"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "full")]
    score = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    with torch.no_grad():
        expected = model(**tokenizer("a b", return_tensors="pt")).logits.softmax(-1).max()
    assert score == pytest.approx(float(expected), abs=1e-5)
    card = (tmp_path / "full" / "README.md").read_text()
    assert "# small" in card and "| accuracy | 0.9 |" in card
    assert f"{measure_sparsity(model).weights:.1%} of the dense model's weights" in card


def test_all_chat_templates_of_the_tokenizer_are_copied(tmp_path, tokenizer):  # noqa: F811
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "T{{ messages }}"}
    save_pretrained(cut_model("bert"), tmp_path / "small", tokenizer)
    assert export(tmp_path / "small", "full", tmp_path / "full") == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "full").chat_template == tokenizer.chat_template


def test_files_of_every_kind_of_tokenizer_are_copied(tmp_path):
    save_pretrained(cut_model("bert"), tmp_path / "small")
    names = {"bpe.codes", "qwen.tiktoken", "spiece.model", "source.spm", "target_vocab.json", "merges.txt"}
    for name in names:
        (tmp_path / "small" / name).write_text("{}")
    assert export(tmp_path / "small", "full", tmp_path / "full") == 0
    assert names <= {file.name for file in (tmp_path / "full").iterdir()}


def test_half_precision_stays_and_tied_weights_stay_tied():
    model = cut_model("gpt2").to(torch.bfloat16)
    full = full_size(model)
    assert {parameter.dtype for parameter in full.parameters()} == {torch.bfloat16}
    assert full.lm_head.weight is full.transformer.wte.weight


# ---- mistakes


@pytest.mark.parametrize(
    ("folder", "form", "out", "sentence"),
    [
        ("small", "ful", "new", "format 'ful': unknown (did you mean 'full'?); known: full, gguf, onnx, per-layer"),
        ("nowhere", "full", "new", "nowhere contains no saved model: there is no such folder"),
        (
            "me/small",
            "gguf",
            "new",
            "me/small contains no saved model: there is no such folder; download a model of the hub first: hf d",
        ),
        (
            "wide",
            "full",
            "new",
            "can't load the model in wide: bert.encoder.layer.0.intermediate.dense.bias has the shap",
        ),
        ("small", "full", "small/config.json/new", "small/config.json/new can't be written (Not a directory)"),
        ("other", "full", "new", "model type 'clip_text_model' is not supported"),
        ("other", "onnx", "new", "model type 'clip_text_model' is not supported"),
        ("small", "full", "small", "small is not empty; give a new folder"),
    ],
)
def test_a_mistake_is_one_sentence(folder, form, out, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_pretrained(cut_model("bert"), tmp_path / "small")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.CLIPTextConfig(vocab_size=9, bos_token_id=1, eos_token_id=2, **sizes)
    save_pretrained(transformers.CLIPTextModel(config), tmp_path / "other")
    save_pretrained(make_model("bert"), tmp_path / "wide")
    values = json.loads((tmp_path / "wide" / "config.json").read_text())
    (tmp_path / "wide" / "config.json").write_text(json.dumps(values | {"intermediate_size": 99}))
    capsys.readouterr()
    assert export(folder, form, out) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(sentence)
    assert not (tmp_path / "new").exists()
