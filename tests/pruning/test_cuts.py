"""Shared parameters are cut at equal positions or not at all."""

import copy

import pytest
import torch
from test_surgery import mask
from torch import nn

from helpers.models import logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.surgery import remove, remove_zero_units


def shared_layer():
    model = make_model("bert")
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    return model


def shared_weight():
    model = make_model("bert")
    one, other = (mlp.ins[0].module for mlp in find_blocks(model).mlps)
    other.weight = one.weight
    return model


def shared_bias():
    model = make_model("bert")
    one, other = (attention.v.module for attention in find_blocks(model).attentions)
    other.bias = one.bias
    return model


def shared_outside():
    model = make_model("bert")
    model.extra = nn.Linear(16, 16)
    model.extra.weight = find_blocks(model).attentions[0].q.module.weight
    return model


def shared_in_and_out():
    """Return a model in which one MLP's expanding matrix is another's contracting one."""
    model = make_model("bert", intermediate_size=16)
    find_blocks(model).mlps[1].out.module.weight = find_blocks(model).mlps[0].ins[0].module.weight
    return model


CASES = {
    "a layer, other heads": (
        shared_layer,
        {0: [0], 1: [1, 2]},
        {},
        "layer.0.attention.self.query is used by two layers",
    ),
    "a layer, one asked": (shared_layer, {0: [0]}, {}, "used by two layers"),
    "a layer, other neurons": (shared_layer, {}, {0: [0], 1: [1]}, "used by two layers"),
    "a weight, other neurons": (shared_weight, {}, {0: range(4), 1: range(4, 8)}, "0.* and .*1.* share their weight"),
    "a weight, one asked": (shared_weight, {}, {1: [0]}, "share their weight"),
    "a bias": (shared_bias, {0: [0], 1: [1]}, {}, "value share their bias"),
    "a weight outside": (shared_outside, {0: [0]}, {}, "query and extra share their weight"),
    "in and out": (shared_in_and_out, {}, {0: [3], 1: [3]}, "share their weight"),
}


@pytest.mark.parametrize("case", CASES)
def test_sharing_layers_that_lose_other_positions_are_refused(case):
    make, heads, neurons, message = CASES[case]
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    before = (
        copy.deepcopy(model.state_dict()),
        dict(model.named_parameters()),
        list(optimizer.param_groups[0]["params"]),
    )
    with pytest.raises(UserError, match=rf"{message}.*pass the same positions .*copy\.deepcopy"):
        remove(model, heads, neurons, optimizer)
    assert all(value.equal(before[0][name]) for name, value in model.state_dict().items())
    assert all(value is before[1][name] for name, value in model.named_parameters())
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], before[2], strict=True))
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("make", [shared_layer, shared_weight, shared_bias])
def test_sharing_layers_that_lose_the_same_positions_stay_shared_and_exact(make):
    model, batch = make(), make_batch("bert")
    heads, neurons = {0: [1], 1: [1]}, {0: [2, 5], 1: [2, 5]}
    expected = logits(mask(model, heads, neurons), batch)
    parameters = len(list(model.parameters()))
    optimizer = torch.optim.AdamW(model.parameters())
    remove(model, heads, neurons, optimizer)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert len(list(model.parameters())) == parameters
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_layers_beside_the_shared_ones_are_cut_freely():
    model, batch = shared_weight(), make_batch("bert")
    expected = logits(mask(model, {0: [0], 1: [1, 2]}, {}), batch)
    remove(model, {0: [0], 1: [1, 2]})
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_a_constant_of_a_shared_layer_is_folded_once():
    model, batch = shared_layer(), make_batch("bert")
    with torch.no_grad():
        find_blocks(model).mlps[0].ins[0].weight[3] = 0
    expected = logits(model, batch)
    remove_zero_units(model)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert find_blocks(model).mlps[0].width == find_blocks(model).mlps[1].width == 23
