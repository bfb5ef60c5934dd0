"""Model types from outside the table: suggested, registered, or refused with the reason."""

import subprocess
import sys

import pytest
import torch
import transformers

import neuroprune
from helpers.models import _BART, _BERT, _LLAMA, logits, make_model
from neuroprune.errors import UserError
from neuroprune.models import pretrained
from neuroprune.pruning import architectures
from neuroprune.pruning.architectures import ARCHITECTURES, find_architecture
from neuroprune.pruning.blocks import find_blocks

OTHERS = {
    "granite": ("Granite", _LLAMA, "llama"),
    "smollm3": ("SmolLM3", _LLAMA, "llama"),
    "camembert": ("Camembert", _BERT, "bert"),
    "blenderbot": ("Blenderbot", _BART, "bart"),
}


@pytest.fixture
def own_table(monkeypatch):
    """Undo registrations."""
    before = dict(architectures._ROWS)
    yield
    architectures._ROWS.clear()
    architectures._ROWS.update(before)


def other(name):
    prefix, values, _ = OTHERS[name]
    torch.manual_seed(0)
    heads = {"Blenderbot": "ForConditionalGeneration", "Camembert": "ForSequenceClassification"}
    config = getattr(transformers, f"{prefix}Config")(vocab_size=99, **values)
    return getattr(transformers, prefix + heads.get(prefix, "ForCausalLM"))(config).eval()


@pytest.mark.parametrize("name", OTHERS)
def test_an_unknown_type_that_looks_like_a_known_one_is_told_so(name):
    advice = rf"looks like {OTHERS[name][2]}: .*register_architecture\('{name}', '{OTHERS[name][2]}'\)"
    with pytest.raises(UserError, match=f"{name}' .*{advice}"):
        find_blocks(other(name))


def test_a_registered_type_is_cut_saved_and_loaded(own_table, tmp_path):
    neuroprune.register_architecture("granite", "llama")
    model, ids = other("granite"), torch.tensor([[5, 6, 7, 8]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        find_blocks(model).attentions[0].o.weight[:, :8] = 0
        find_blocks(model).mlps[1].out.weight[:, 3] = 0
    expected = logits(model, batch)
    neuroprune.remove(model, {0: [0, 1]}, {1: [3]})
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    neuroprune.save_pretrained(model, tmp_path)
    assert torch.equal(logits(pretrained.from_pretrained(tmp_path), batch), logits(model, batch))


def test_loading_a_pruned_model_of_an_unregistered_type_says_what_to_register(own_table, tmp_path):
    neuroprune.register_architecture("granite", "llama")
    model = other("granite")
    neuroprune.remove(model, {0: [0, 1]})
    neuroprune.save_pretrained(model, tmp_path)
    code = "import sys, neuroprune\ntry: neuroprune.from_pretrained(sys.argv[1])\nexcept Exception as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert "looks like" in done.stdout and "register_architecture('granite'" in done.stdout


def test_a_row_of_ones_own(own_table):
    neuroprune.register_architecture("berd", ARCHITECTURES["bert"])
    model = make_model("bert")
    model.config.model_type = "berd"
    assert len(find_blocks(model).attentions) == 2


def test_rows_are_not_replaced_and_other_types_must_exist(own_table):
    neuroprune.register_architecture("llama", "llama")
    with pytest.raises(UserError, match=r"'llama' already has a different row"):
        neuroprune.register_architecture("llama", "bert")
    with pytest.raises(UserError, match=r"'lama' is not supported \(did you mean 'llama'\?\)"):
        neuroprune.register_architecture("granite", "lama")


@pytest.mark.parametrize(
    ("name", "reason"), [("albert", "share one set of weights"), ("mixtral", "experts"), ("phi3", "configuration")]
)
def test_types_that_the_table_cannot_describe_are_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=f"'{name}' is not supported: .*{reason}"):
        find_architecture(name)


def test_a_matrix_that_the_row_does_not_list_is_refused():
    """DeBERTa-v2 has separate matrices for relative positions; version 3 has none."""
    with pytest.raises(UserError, match=r"does not list the matrix \S*pos_key_proj"):
        find_blocks(make_model("deberta-v3", share_att_key=False))
