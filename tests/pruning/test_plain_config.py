"""Plain configurations: a process without this package loads the model; further cuts use the record."""

import copy
import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import save_file

from helpers.loops import labelled_batch, train_bare
from helpers.models import NAMES, each_model, logits, make_batch, make_model
from neuroprune.cli import main
from neuroprune.errors import UserError
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.models.export.full import full_size
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.models.reload_check import check_reloadable
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import kept_units, read_record
from neuroprune.pruning.plain_config import is_plain, to_plain, to_recorded
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import remove, remove_zero_units

WITHOUT_THE_PACKAGE = """
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
for folder in sys.argv[1:]:
    batch = load_file(folder + "/batch")
    expected = batch.pop("expected")
    name = json.load(open(folder + "/config.json"))["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder)
    for weight in model.parameters():  # memory of their own: sums over unaligned memory round otherwise
        weight.data = weight.data.clone()
    with torch.no_grad():
        found[folder] = torch.equal(model(**batch).logits, expected)
assert not any(name.startswith("neuroprune") for name in sys.modules)
print(json.dumps(found))
"""

HEADS_TOO = ("t5", "t5-gated", "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3")


def uniform(name, sparsity=0.5, **fields):
    """A trained model with the same shapes in all layers."""
    model = make_model(name)
    train_bare(NeuroPrune(sparsity=sparsity, layout="uniform", **fields), model, name)
    return model.eval()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Architecture -> whether plain transformers computes the same logits from the saved model."""
    folders = {}
    for name in NAMES:
        folders[name] = str(tmp_path_factory.mktemp(name))
        model, batch = uniform(name), make_batch(name)
        save_pretrained(model, folders[name])
        with torch.no_grad():
            save_file({**batch, "expected": model(**batch).logits.contiguous()}, f"{folders[name]}/batch")
    command = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, *folders.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {name: found[folder] for name, folder in folders.items()}


@each_model
def test_plain_transformers_loads_a_uniform_model(name, loaded):
    assert loaded[name]


@pytest.mark.parametrize("name", HEADS_TOO)
def test_heads_are_removed_where_the_configuration_can_say_so(name):
    model = uniform(name, sparsity=0.8)
    attentions = find_blocks(model).attentions
    assert {attention.heads for attention in attentions} == {attentions[0].heads}
    assert attentions[0].heads < (4 if name.startswith("t5") else 8)
    assert is_plain(model)


@each_model
def test_a_plain_model_is_still_known_as_a_cut_one(name, tmp_path):
    model = uniform(name)
    before, kept = measure_sparsity(model), kept_units(model)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert measure_sparsity(loaded) == before
    assert kept_units(loaded).heads == kept.heads
    assert before.dense_parameters == sum(parameter.numel() for parameter in make_model(name).parameters())
    assert getattr(loaded.config, "quantization_config", None) is None
    check_reloadable(loaded)


@each_model
def test_the_record_and_back_changes_nothing(name):
    model = uniform(name)
    batch, record = make_batch(name), read_record(model)
    expected, config = logits(model, batch), model.config.to_dict()
    optimizer = torch.optim.AdamW(model.parameters())
    to_recorded(model, optimizer)
    assert not is_plain(model)
    assert torch.equal(logits(model, batch), expected)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    assert {key: read_record(model)[key] for key in ("heads", "neurons")} == {
        key: record[key] for key in ("heads", "neurons")
    }
    to_plain(model, optimizer)
    assert torch.equal(logits(model, batch), expected)
    assert model.config.to_dict() == config


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_an_optimizer_can_be_saved_after_the_record_is_restored(name):
    model = uniform(name)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**labelled_batch(name, seed=0)).loss.backward()
    optimizer.step()
    for change in (to_recorded, to_plain):
        change(model, optimizer)
        saved = optimizer.state_dict()
        assert saved["state"].keys() <= {*saved["param_groups"][0]["params"]}


@pytest.mark.parametrize("name", ["t5", "llama", "bert", "gpt2"])
def test_a_plain_model_can_be_cut_again_and_saved(name, tmp_path):
    model = uniform(name, 0.3)
    dense = make_model(name).config.to_dict()
    remove(model, {}, {0: iter([0])})
    assert find_blocks(model).mlps[0].width == find_blocks(model).mlps[1].width - 1
    assert not is_plain(model)
    changed = {"quantization_config", "problem_type"}  # the second by transformers, with the first loss
    assert {key for key, value in model.config.to_dict().items() if value != dense.get(key)} <= changed
    save_pretrained(model, tmp_path)
    assert torch.equal(logits(from_pretrained(tmp_path), make_batch(name)), logits(model, make_batch(name)))


@pytest.mark.parametrize("name", ["t5", "llama", "bert"])
def test_a_removal_that_fails_or_removes_nothing_leaves_the_configuration_plain(name):
    model = uniform(name, sparsity=0.3)
    optimizer = torch.optim.AdamW(model.parameters())
    config, parameters = model.config.to_dict(), [*model.parameters()]
    for fails in (
        lambda: remove(model, {99: [0]}, optimizer=optimizer),
        lambda: remove(model, {}, {0: [99]}, optimizer=optimizer),
        lambda: remove(model, {}, {0: [0]}, torch.optim.AdamW([torch.zeros(1)])),
    ):
        with pytest.raises(UserError):
            fails()
    remove(model, {0: []}, {1: []}, optimizer)
    assert remove_zero_units(model, optimizer) == (0, 0)
    assert model.config.to_dict() == config and is_plain(model)
    assert [id(now) for now in model.parameters()] == [id(before) for before in parameters]
    find_blocks(model).mlps[0].out.weight.data[:, 1] = 0
    expected = logits(model, make_batch(name))
    assert remove_zero_units(model, optimizer) == (0, 1)
    assert not is_plain(model)
    torch.testing.assert_close(logits(model, make_batch(name)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["t5", "llama", "bert"])
def test_a_plain_model_can_be_written_at_full_size(name):
    model = uniform(name)
    full = full_size(model)
    assert [p.shape for p in full.parameters()] == [p.shape for p in make_model(name).parameters()]
    torch.testing.assert_close(logits(full, make_batch(name)), logits(model, make_batch(name)))
    assert is_plain(model)


def test_a_plain_model_is_pruned_on(tmp_path):
    save_pretrained(uniform("llama", 0.4), tmp_path)
    model = from_pretrained(tmp_path)
    train_bare(NeuroPrune(sparsity=0.7, layout="uniform"), model, "llama")
    assert measure_sparsity(model).weights == pytest.approx(0.7, abs=1e-3)
    assert is_plain(model)


def test_layers_that_differ_have_no_plain_configuration():
    model = make_model("llama")
    remove(model, {}, {0: [0, 1]})
    before = copy.deepcopy(model.config.to_dict())
    with pytest.raises(UserError, match=r"different numbers of neurons \(22, 24\).*layout='uniform'"):
        to_plain(model)
    assert model.config.to_dict() == before


@pytest.mark.parametrize(
    ("name", "heads", "message"),
    [
        ("bert", {0: [0], 1: [0]}, "BertConfig has no separate value for its size"),
        ("t5", {0: [0], 1: [1], 2: [0], 3: [0], 4: [0], 5: [0]}, "share a position bias keep different heads"),
        ("llama", {0: [0, 1], 1: [0, 1]}, "not a multiple of the number of attention heads"),
    ],
)
def test_heads_that_a_configuration_can_not_give_are_refused(name, heads, message):
    model = make_model(name)
    remove(model, heads)
    with pytest.raises(UserError, match=message):
        to_plain(model)
    assert not is_plain(model)


def test_a_dense_model_stays_as_it_is():
    model = make_model("llama")
    to_plain(model)
    assert not is_plain(model)


def test_the_command_line_writes_plain_folders(tmp_path, capsys):
    model = make_model("qwen3")
    remove(model, {0: [0, 1], 1: [2, 3]}, {0: range(8), 1: range(8, 16)})
    save_pretrained(model, tmp_path / "small")
    command = ["export", str(tmp_path / "small"), "--format", "plain", "--out", str(tmp_path / "plain")]
    assert main(command) == 0, capsys.readouterr().err
    loaded = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (6, 3)
    assert loaded.config.intermediate_size == 16
    assert torch.equal(logits(loaded, make_batch("qwen3")), logits(model, make_batch("qwen3")))
    assert "import transformers;" in (tmp_path / "plain" / "README.md").read_text()
