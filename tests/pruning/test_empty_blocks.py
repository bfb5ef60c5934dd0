"""Attentions without heads and MLPs without neurons: skipped, and otherwise models like any other."""

import copy
import pickle

import pytest
import torch
from test_surgery import mask, train

from helpers.models import NAMES, ROWS, WIDTH, each_model, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.models.export.full import full_size
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.plain_config import to_plain
from neuroprune.pruning.sparsity import measure_sparsity, prunable_weights, removed_weights
from neuroprune.pruning.surgery import kept_units, remove, remove_zero_units
from neuroprune.training import weight_arrays

WRITERS = [name for name in NAMES if ROWS[name].generates]


def emptied(name, which):
    """Return all units of some blocks: the first or the last of each kind, or every block."""
    row = ROWS[name]
    chosen = {"first": slice(0, 1), "last": slice(-1, None), "all": slice(None)}[which]
    heads = {i: list(range(row.heads)) for i in range(row.attentions)[chosen]}
    return heads, {i: list(range(WIDTH)) for i in range(row.mlps)[chosen]}


def cut_model(name, which="first", **changes):
    model = make_model(name, **changes)
    remove(model, *emptied(name, which))
    return model


@each_model
@pytest.mark.parametrize("which", ["first", "last", "all"])
def test_a_model_without_some_blocks_computes_what_the_masked_one_does(name, which):
    model, batch, units = make_model(name), make_batch(name), emptied(name, which)
    expected = logits(mask(model, *units), batch)
    remove(model, *units)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert measure_sparsity(model).heads_per_layer == tuple(
        0 if i in units[0] else ROWS[name].heads for i in range(ROWS[name].attentions)
    )


@each_model
def test_the_forward_pass_does_not_run_what_is_empty(name):
    model = cut_model(name)
    attention, mlp = find_blocks(model).attentions[0], find_blocks(model).mlps[0]
    ran = []
    for projection in (*attention.inputs, *mlp.ins):
        projection.module.register_forward_hook(lambda module, _, output: ran.append(output.numel()))
    logits(model, make_batch(name))
    assert sum(ran) == 0


@each_model
def test_it_loads_bit_by_bit_and_is_cut_again(name, tmp_path):
    model, batch = cut_model(name), make_batch(name)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, batch), logits(model, batch), atol=0, rtol=0)
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    last = {ROWS[name].mlps - 1: [0, 5]}
    for each in (model, loaded):
        remove(each, {}, last)
    torch.testing.assert_close(logits(loaded, batch), logits(model, batch), atol=0, rtol=0)
    assert kept_units(loaded).heads[0] == [] and len(kept_units(loaded).neurons[0]) == 0


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("which", ["first", "all"])
@pytest.mark.parametrize(
    "how", [{}, {"cache_implementation": "static"}, {"num_beams": 3}, {"use_cache": False}], ids=str
)
def test_it_writes_what_the_masked_model_does(name, which, how):
    model, batch, units = make_model(name), make_batch(name), emptied(name, which)
    batch.pop("decoder_input_ids", None)
    how = {"max_new_tokens": 6, "do_sample": False, "disable_compile": True, **how}
    expected = mask(model, *units).generate(**batch, **how)
    remove(model, *units)
    assert model.generate(**batch, **how).tolist() == expected.tolist()


@each_model
def test_it_trains_the_same_with_activation_checkpointing(name):
    batch, weights = make_batch(name), []
    for checkpointing in (False, True):
        model = cut_model(name)
        if checkpointing and not model.supports_gradient_checkpointing:
            pytest.skip("no activation checkpointing")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        train(model, torch.optim.AdamW(model.parameters(), 1e-2), batch)
        weights.append(model.state_dict())
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "bart", "modernbert"])
def test_dynamic_quantization_leaves_what_is_empty_alone(name):
    model, batch = cut_model(name), make_batch(name)
    whole = make_model(name)
    errors = []
    for each in (whole, model):
        quantized = torch.ao.quantization.quantize_dynamic(each, {torch.nn.Linear}, dtype=torch.qint8)
        errors.append((logits(quantized, batch) - logits(each, batch)).abs().max())
    assert errors[1] < 3 * errors[0]


def test_a_pickled_model_skips_the_same_blocks():
    model, batch = cut_model("t5"), make_batch("t5")
    assert logits(pickle.loads(pickle.dumps(model)), batch).equal(logits(model, batch))  # noqa: S301


def test_a_copy_skips_its_own_blocks():
    model, batch = cut_model("bart"), make_batch("bart")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        find_blocks(model).attentions[0].o.bias.add_(1.0)
    assert not torch.equal(logits(twin, batch), logits(model, batch))
    assert find_blocks(twin).attentions[0].module.forward.module is find_blocks(twin).attentions[0].module


def test_an_optimizer_follows():
    model, batch = make_model("bert"), make_batch("bert")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    train(model, optimizer, batch)
    remove(model, *emptied("bert", "first"), optimizer)
    train(model, optimizer, batch)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@each_model
def test_silent_blocks_go_if_they_may(name):
    model, batch = make_model(name), make_batch(name)
    blocks = find_blocks(model)
    with torch.no_grad():
        blocks.attentions[0].o.weight.zero_()
        blocks.mlps[-1].out.weight.zero_()
    expected = logits(model, batch)
    assert remove_zero_units(copy.deepcopy(model)).heads < ROWS[name].heads
    assert remove_zero_units(model, empty=True) == (ROWS[name].heads, WIDTH)
    assert remove_zero_units(model, empty=True) == (0, 0)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert removed_weights(model) + sum(
        p.weight.numel() for b in find_blocks(model).all for p in (*b.inputs, b.output)
    ) == prunable_weights(make_model(name))


@each_model
def test_it_is_written_at_full_size(name):
    model, batch = cut_model(name, "all"), make_batch(name)
    torch.testing.assert_close(logits(full_size(model), batch), logits(model, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_plain_configuration_is_refused(name):
    with pytest.raises(UserError, match=r"has no units left.*--format full"):
        to_plain(cut_model(name, "all"))


@each_model
def test_arrays_of_figures_show_no_units(name):
    model = cut_model(name, "all")
    assert not any(array.any() for array in weight_arrays.degrees(model).values())
    assert not any(array.any() for array in weight_arrays.cells(model).values())
    found = weight_arrays.head_arrays(model)
    assert found["importance.0"].tolist() == [0.0] * ROWS[name].heads and found["distance.0"].shape == (0, 0)
