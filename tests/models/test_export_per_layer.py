"""Export with `per_layer_config`: transformers reads the sizes of each layer, and the record restores the model."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import save_file

from helpers.models import NAMES, ROWS, logits, make_batch, make_model
from neuroprune.cli import main
from neuroprune.errors import UserError
from neuroprune.models.export import export
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.models.sources import train_text_tokenizer
from neuroprune.pruning.architectures import ARCHITECTURES
from neuroprune.pruning.plain_config import to_plain
from neuroprune.pruning.surgery import remove

DESCRIBED = [name for name in NAMES if not ROWS[name].seq2seq]


def cut(name, **changes):
    """Return a small model with layers of different sizes; heads are removed where the configuration has their size."""
    model = make_model(name, **changes)
    heads = {0: [0, 1], 1: [2, 3, 4, 5]} if ROWS[name].groups > 1 else {}
    remove(model, heads, {0: range(8), 1: range(5)})
    return model


def exported(name, folder):
    """Save and export such a model; return it."""
    model = cut(name)
    save_pretrained(model, folder / "small", train_text_tokenizer(["a b c"], 280))
    export(folder / "small", "per-layer", folder / "sizes")
    return model


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


READ = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "neuroprune":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import torch, transformers
from safetensors.torch import load_file
transformers.logging.set_verbosity_error()
found = {}
for folder, path in zip(sys.argv[1::2], sys.argv[2::2]):
    config = transformers.AutoConfig.from_pretrained(folder)
    build = getattr(transformers, config.architectures[0])
    layers = [build(layer).base_model.get_submodule(path)[i] for i, layer in enumerate(config.per_layer_config)]
    config.per_layer_config = None
    model = build(config)
    for i, layer in enumerate(layers):
        model.base_model.get_submodule(path)[i] = layer
    missing, unexpected = model.load_state_dict(load_file(folder + "/model.safetensors"), strict=False)
    model.tie_weights()
    batch = load_file(folder + "/batch")
    expected = batch.pop("expected")
    with torch.no_grad():
        distance = (model.eval()(**batch).logits - expected).abs().max()
    shapes = [sorted({tuple(weight.shape) for weight in layer.parameters()}) for layer in layers]
    found[folder] = {"missing": missing, "unexpected": unexpected, "distance": float(distance), "shapes": shapes}
assert not any(name.startswith("neuroprune") for name in sys.modules)
print(json.dumps(found))
"""


def test_layers_that_transformers_builds_by_the_notation_hold_the_weights_and_compute_the_same(tmp_path):
    words, models = [], {}
    for name in DESCRIBED:
        model, folder = exported(name, tmp_path / name), str(tmp_path / name / "sizes")
        batch = make_batch(name)
        with torch.no_grad():
            save_file({**batch, "expected": model(**batch).logits.contiguous()}, folder + "/batch")
        words += [folder, ARCHITECTURES[model.config.model_type].layers[0]]
        models[folder] = model
    done = subprocess.run([sys.executable, "-c", READ, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == models.keys()
    for folder, read in found.items():
        model = models[folder]
        assert read["shapes"][0] != read["shapes"][1] and not read["unexpected"], folder
        assert set(read["missing"]) <= model.all_tied_weights_keys.keys(), folder
        assert read["distance"] <= 1e-6, (folder, read["distance"])


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_record_restores_the_model_and_the_notation_is_not_kept(name, tmp_path):
    model, batch = exported(name, tmp_path), make_batch(name)
    loaded = getattr(transformers, ROWS[name].model).from_pretrained(tmp_path / "sizes")
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    again = from_pretrained(tmp_path / "sizes")
    assert torch.equal(logits(again, batch), logits(model, batch))
    again.save_pretrained(tmp_path / "again")
    assert config_of(tmp_path / "again") == config_of(tmp_path / "small")


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_configuration_is_written_as_transformers_writes_it(name, tmp_path):
    exported(name, tmp_path)
    transformers.AutoConfig.from_pretrained(tmp_path / "sizes").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "sizes/config.json").read_text()
    assert {file.name for file in (tmp_path / "sizes").iterdir()} >= {"README.md", "tokenizer.json"}


def test_the_command_says_that_transformers_does_not_build_layers_by_it(tmp_path, capsys):
    save_pretrained(cut("qwen3"), tmp_path / "m")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "m"), "--format", "per-layer", "--out", str(tmp_path / "p")]) == 0
    said = capsys.readouterr().out
    assert "Qwen3ForCausalLM with the sizes of 2 layers in per_layer_config" in said
    assert "builds no layers by it: load the folder after `import neuroprune`" in said and "reject" not in said


def test_layers_that_are_no_valid_models_are_named(tmp_path):
    """Llama's configuration checks the number of heads of a model, and up to now not those of layers."""
    save_pretrained(cut("llama"), tmp_path / "m")
    *_, last = export(tmp_path / "m", "per-layer", tmp_path / "p")
    assert last.startswith("LlamaConfig would reject layer 0 as a model (")
    assert "hidden size (16) is not a multiple of the number of attention heads (6)" in last


# ---- refused before anything is written


def test_a_model_that_the_notation_cannot_describe(tmp_path):
    model = make_model("bert")
    remove(model, {0: [1]})
    save_pretrained(model, tmp_path / "m")
    with pytest.raises(UserError, match=r"layer\.0\.attention\.self was cut, and BertConfig has no separate value"):
        export(tmp_path / "m", "per-layer", tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("equal", [range(0), range(5)], ids=["uncut", "uniform"])
def test_a_model_that_does_not_need_it(equal, tmp_path):
    model = make_model("bert")
    remove(model, neurons={0: equal, 1: equal})
    to_plain(model)
    save_pretrained(model, tmp_path / "m")
    with pytest.raises(UserError, match="needs no per_layer_config: its configuration gives all sizes"):
        export(tmp_path / "m", "per-layer", tmp_path / "p")
    assert not (tmp_path / "p").exists()
