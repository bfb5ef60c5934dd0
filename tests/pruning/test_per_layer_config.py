"""Sizes of single layers in transformers' notation."""

import pytest
import torch
import transformers

from helpers.models import NAMES, ROWS, make_model
from neuroprune.errors import UserError
from neuroprune.pruning.per_layer_config import READABLE, per_layer_entries
from neuroprune.pruning.residual_stream import remove_hidden
from neuroprune.pruning.surgery import remove

TWO_LISTS = [name for name in NAMES if ROWS[name].seq2seq]
FIXED_HEADS = [name for name in NAMES if not ROWS[name].seq2seq and ROWS[name].groups == 1 and name != "bert-decoder"]


def test_only_cut_sizes_of_cut_layers_are_listed():
    model = make_model("llama", num_hidden_layers=11, layer_types=None)
    remove(model, {1: [2, 3, 4, 5]}, {1: range(5), 10: range(8)})
    both = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 19}
    entries = {"per_layer_config": {"01": both, "10": {"intermediate_size": 16}}, "head_dim": 4, READABLE: True}
    assert per_layer_entries(model) == entries


def test_fewer_query_heads_of_each_key_head():
    model = make_model("qwen3")
    remove(model, {0: [0, 2, 4, 6]})
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4}
    assert per_layer_entries(model)["per_layer_config"] == {"0": sizes}


def test_a_size_of_heads_that_was_derived_is_written():
    """Qwen2 divides the hidden size by the number of heads unless its configuration gives the size of a head."""
    config = transformers.Qwen2Config(
        vocab_size=9,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=24,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.Qwen2ForCausalLM(config)
    assert not hasattr(config, "head_dim")
    remove(model, {0: [0, 1]})
    assert per_layer_entries(model)["head_dim"] == 4 and not hasattr(config, "head_dim")


def test_neurons_alone_need_no_other_entry():
    model = make_model("gpt2")
    remove(model, neurons={1: range(5)})
    assert per_layer_entries(model) == {"per_layer_config": {"1": {"n_inner": 19}}}
    assert per_layer_entries(make_model("gpt2")) == {}


# ---- what the notation can't describe


@pytest.mark.parametrize("name", TWO_LISTS)
def test_two_lists_of_layers(name):
    model = make_model(name)
    remove(model, neurons={0: range(5)})
    with pytest.raises(UserError, match=r"per_layer_config: it describes one list of layers, and \S+ has two"):
        per_layer_entries(model)


@pytest.mark.parametrize("name", FIXED_HEADS)
def test_heads_whose_size_follows_from_their_number(name):
    model = make_model(name)
    remove(model, {1: [0]}, {0: range(5)})
    with pytest.raises(UserError, match=r"1\.\S* was cut, and \w+Config has no separate value for its size"):
        per_layer_entries(model)


def test_cross_attentions():
    model = make_model("bert-decoder")
    remove(model, {1: [0]})
    with pytest.raises(UserError, match=r"layer\.0\.crossattention\.self was cut, and BertConfig has no"):
        per_layer_entries(model)


@pytest.mark.parametrize(("heads", "neurons"), [({1: range(8)}, {}), ({}, {1: range(24)})], ids=["heads", "neurons"])
def test_empty_parts_of_a_layer(heads, neurons):
    model = make_model("llama")
    remove(model, heads, neurons)
    with pytest.raises(UserError, match=r"layers\.1\.\w+ has no units left, and transformers can't leave out"):
        per_layer_entries(model)


def test_a_cut_hidden_dimension():
    model = make_model("bert")
    remove_hidden(model, torch.arange(12))
    with pytest.raises(UserError, match="can't have per_layer_config: its hidden dimension was cut"):
        per_layer_entries(model)
