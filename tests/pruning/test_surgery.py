"""Surgery: a cut model equals the masked one, can be trained further, and records its removed units."""

import copy

import pytest
import torch
import transformers
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.models import HEAD_DIM, NAMES, ROWS, WIDTH, each_model, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.models import pretrained
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import pack_positions, unpack_positions
from neuroprune.pruning.surgery import kept_units, remove, remove_zero_units

each_backend = pytest.mark.parametrize("backend", ["eager", "sdpa"])
each_length = pytest.mark.parametrize("length", [7, 8])


def mask(model, heads, neurons):
    """Return a copy of the model in which these units' outgoing weights are zero."""
    model = copy.deepcopy(model)
    blocks = find_blocks(model)
    with torch.no_grad():
        for i, positions in heads.items():
            for head in positions:
                blocks.attentions[i].o.weight[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0
        for i, positions in neurons.items():
            blocks.mlps[i].out.weight[:, positions] = 0
    return model


def uneven_cut(name):
    """Return heads and neurons to remove: different numbers per layer, one layer uncut, one with a single unit left."""
    row = ROWS[name]
    choices = [[0, 1, 3], [], [2]] if row.groups == 1 else [[0, 1, 3, 4, 6], [2, 3], []]
    heads = {i: choices[i % 3] for i in range(row.attentions)}
    neurons = {i: [list(range(5)), [], list(range(1, WIDTH))][i % 3] for i in range(row.mlps)}
    return heads, neurons


def train(model, optimizer, batch, steps=2):
    model.train()
    for _ in range(steps):
        model(**batch).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


# ---- exactness


@each_model
@each_backend
@each_length
def test_cut_model_computes_what_the_masked_one_does(name, backend, length):
    model, batch = make_model(name, backend), make_batch(name, length=length)
    heads, neurons = uneven_cut(name)
    expected = logits(mask(model, heads, neurons), batch)
    before = sum(p.numel() for p in model.parameters())
    remove(model, heads, neurons)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < before


@given(name=st.sampled_from(NAMES), data=st.data())
@settings(max_examples=25, deadline=None)
def test_random_cuts(name, data):
    row, model = ROWS[name], make_model(name)
    batch = make_batch(name, rows=data.draw(st.integers(1, 3)), length=data.draw(st.integers(4, 9)))
    groups, size = row.heads // row.groups, row.groups
    heads, neurons = {}, {}
    for i in range(row.attentions):
        gone = data.draw(st.sets(st.integers(0, groups - 1), max_size=groups - 1))
        heads[i] = [head for group in gone for head in range(group * size, (group + 1) * size)]
    for i in range(row.mlps):
        neurons[i] = sorted(data.draw(st.sets(st.integers(0, WIDTH - 1), max_size=WIDTH - 1)))
    expected = logits(mask(model, heads, neurons), batch)
    remove(model, heads, neurons)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert [a.heads for a in find_blocks(model).attentions] == [row.heads - len(gone) for gone in heads.values()]
    assert [m.width for m in find_blocks(model).mlps] == [WIDTH - len(gone) for gone in neurons.values()]


@pytest.mark.parametrize("name", [name for name in NAMES if ROWS[name].generates])
@each_backend
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_generation_is_the_masked_models(name, backend, cache):
    model, batch = make_model(name, backend), make_batch(name)
    batch.pop("decoder_input_ids", None)
    how = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache, "disable_compile": True}
    heads, neurons = uneven_cut(name)
    expected = mask(model, heads, neurons).generate(**batch, **how)
    remove(model, heads, neurons)
    assert model.generate(**batch, **how).tolist() == expected.tolist()


@each_model
def test_cutting_twice_is_cutting_once(name):
    heads, neurons = uneven_cut(name)
    once, twice, batch = make_model(name), make_model(name), make_batch(name)
    remove(once, heads, neurons)
    remove(twice, {}, {i: positions[:3] for i, positions in neurons.items()})
    remove(twice, heads, {i: _rest(positions) for i, positions in neurons.items()})
    torch.testing.assert_close(logits(twice, batch), logits(once, batch), atol=0, rtol=0)
    assert kept_units(twice).heads == kept_units(once).heads
    assert all(a.equal(b) for a, b in zip(kept_units(twice).neurons, kept_units(once).neurons, strict=True))


def _rest(positions):
    """Return the new positions of positions[3:] after removing positions[:3]."""
    return [position - sum(gone < position for gone in positions[:3]) for position in positions[3:]]


@each_model
def test_sizes_and_counts_follow(name):
    model = make_model(name)
    heads, neurons = uneven_cut(name)
    remove(model, heads, neurons)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
    for attention in find_blocks(model).attentions:
        assert attention.heads == ROWS[name].heads - len(heads[attention.index])
        for name_, what in attention.row.counts.items():
            if what == "heads":
                assert getattr(attention.module, name_) == attention.heads


def test_copies_of_a_cut_model_are_independent():
    model, batch = make_model("t5"), make_batch("t5")
    remove(model, {0: [0]})
    twin = copy.deepcopy(model)
    remove(twin, {0: [0], 2: [1]})
    assert [a.heads for a in find_blocks(model).attentions] == [3, 4, 4, 4, 4, 4]
    assert [len(kept) for kept in kept_units(twin).heads] == [2, 4, 3, 4, 4, 4]
    logits(model, batch), logits(twin, batch)


def test_t5_hands_its_position_bias_on_when_checkpointing_gradients():
    plain, saving, batch = make_model("t5"), make_model("t5"), make_batch("t5")
    for model in (plain, saving):
        remove(model, {0: [0], 1: [1, 2], 2: [3], 3: [0], 5: [1]})
    saving.gradient_checkpointing_enable()
    saving.train()
    for module in saving.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    plain(**batch).logits.square().mean().backward()
    saving(**batch, use_cache=False).logits.square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)
    copy.deepcopy(saving)


# ---- further training


@each_model
def test_optimizer_goes_on_with_the_moments_of_the_units_kept(name):
    model, batch = make_model(name), make_batch(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, batch)
    heads, neurons = uneven_cut(name)
    # Weights are cut exactly (above), so cutting a model whose weights are the moments gives the expected moments.
    moments = copy.deepcopy(model)
    with torch.no_grad():
        for moment, parameter in zip(moments.parameters(), model.parameters(), strict=True):
            moment.copy_(optimizer.state[parameter].get("exp_avg_sq", torch.zeros(())))
    remove(moments, heads, neurons)
    remove(model, heads, neurons, optimizer)
    parameters = list(model.parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in parameters}
    for moment, parameter in zip(moments.parameters(), parameters, strict=True):
        state = optimizer.state[parameter]
        if state:
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
            torch.testing.assert_close(state["exp_avg_sq"], moment, atol=0, rtol=0)
    assert set(optimizer.state) <= set(parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    train(model, optimizer, batch, steps=1)
    moved = [not old.equal(new) for old, new in zip(before, parameters, strict=True) if optimizer.state[new]]
    assert all(moved)


def test_moments_of_the_units_kept_are_their_old_ones():
    model, batch = make_model("bert"), make_batch("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, batch)
    blocks = find_blocks(model)
    value, out = blocks.attentions[0].v.module, blocks.mlps[1].out.module
    old_value = optimizer.state[value.weight]["exp_avg"].clone()
    old_out = optimizer.state[out.weight]["exp_avg_sq"].clone()
    remove(model, {0: [1]}, {1: [0, 7]}, optimizer)
    keep = [*range(HEAD_DIM), *range(2 * HEAD_DIM, 4 * HEAD_DIM)]
    assert optimizer.state[value.weight]["exp_avg"].equal(old_value[keep])
    assert optimizer.state[out.weight]["exp_avg_sq"].equal(old_out[:, [*range(1, 7), *range(8, WIDTH)]])


def test_gradients_and_frozen_parameters_stay_what_they_are():
    model = make_model("bert")
    blocks = find_blocks(model)
    blocks.mlps[0].out.module.weight.requires_grad_(False)
    model(**make_batch("bert")).logits.sum().backward()
    grad = blocks.mlps[0].ins[0].grad.clone()
    remove(model, neurons={0: [0]})
    assert blocks.mlps[0].ins[0].grad.equal(grad[1:])
    assert not blocks.mlps[0].out.module.weight.requires_grad


def test_an_optimizer_of_other_parameters_is_refused_before_anything_is_cut():
    model, other = make_model("bert"), make_model("bert")
    with pytest.raises(UserError, match=r"lacks a trainable weight of shape \(16, 16\)"):
        remove(model, {0: [0]}, optimizer=torch.optim.AdamW(other.parameters()))
    assert find_blocks(model).attentions[0].heads == 4
    model.bert.encoder.requires_grad_(False)
    remove(model, {0: [0]}, optimizer=torch.optim.AdamW(model.classifier.parameters()))  # the rest is frozen
    assert find_blocks(model).attentions[0].heads == 3


def test_accelerates_optimizer_is_unwrapped():
    accelerator = Accelerator(cpu=True)
    model = make_model("bert")
    wrapped = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters()))
    remove(model, {0: [0]}, optimizer=wrapped)
    assert {id(p) for p in wrapped.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_trainer_goes_on_after_a_cut(tmp_path):
    class CutInTheMiddle(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            if state.global_step == 2:
                remove(model, {0: [0, 1]}, {1: [0, 1, 2]}, optimizer)

    model = make_model("bert")
    rows = [{"input_ids": torch.tensor([5, 6, 7 + i]), "labels": i % 2} for i in range(12)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=5, per_device_train_batch_size=3, report_to=[], use_cpu=True, save_strategy="no"
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[CutInTheMiddle()])
    assert trainer.train().global_step == 5
    assert kept_units(model).heads == [[2, 3], [0, 1, 2, 3]]


def test_adafactors_factors_are_cut_with_their_weights():
    model = make_model("t5")
    optimizer = transformers.Adafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False)
    train(model, optimizer, make_batch("t5"), steps=1)
    before = dict(optimizer.state[find_blocks(model).attentions[0].o.module.weight])
    remove(model, {0: [0]}, {0: [1, 2]}, optimizer=optimizer)
    after = optimizer.state[find_blocks(model).attentions[0].o.module.weight]
    assert torch.equal(after["exp_avg_sq_col"], before["exp_avg_sq_col"][HEAD_DIM:])
    assert torch.equal(after["exp_avg_sq_row"], before["exp_avg_sq_row"])
    train(model, optimizer, make_batch("t5"), steps=1)


def test_factors_that_keep_the_averaged_dimension_are_cut_as_well():
    """As in torch's Adafactor: `row_var` is [out, 1], `col_var` is [1, in]."""
    model = make_model("t5")
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    train(model, optimizer, make_batch("t5"), steps=1)
    attention = find_blocks(model).attentions[0]
    before = [dict(optimizer.state[projection.module.weight]) for projection in (attention.q, attention.o)]
    remove(model, {0: [0]}, {0: [1, 2]}, optimizer=optimizer)
    query, output = (optimizer.state[projection.module.weight] for projection in (attention.q, attention.o))
    assert torch.equal(query["row_var"], before[0]["row_var"][HEAD_DIM:])
    assert torch.equal(query["col_var"], before[0]["col_var"])
    assert torch.equal(output["col_var"], before[1]["col_var"][:, HEAD_DIM:])
    assert torch.equal(output["row_var"], before[1]["row_var"])
    train(model, optimizer, make_batch("t5"), steps=1)


def test_state_of_another_shape_is_refused_before_anything_is_cut():
    model = make_model("t5")
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, make_batch("t5"), steps=1)
    optimizer.state[find_blocks(model).attentions[0].o.module.weight]["blocks"] = torch.ones(3)
    with pytest.raises(UserError, match=r"AdamW: 'blocks'.*\(AdamW, Adafactor"):
        remove(model, {0: [0]}, optimizer=optimizer)
    assert find_blocks(model).attentions[0].heads == 4


# ---- remaining units


def test_an_uncut_model_has_everything():
    kept = kept_units(make_model("t5"))
    assert kept.heads == [[0, 1, 2, 3]] * 6 and kept.dense_heads == [4] * 6
    assert all(neurons.tolist() == list(range(WIDTH)) for neurons in kept.neurons) and kept.dense_neurons == [WIDTH] * 4


def test_kept_units_are_the_dense_models_after_two_cuts():
    model = make_model("bert")
    remove(model, {0: [1]}, {1: [0, 5]})
    remove(model, {0: [1], 1: [3]}, {1: [0]})
    kept = kept_units(model)
    assert kept.heads == [[0, 3], [0, 1, 2]] and kept.dense_heads == [4, 4]
    assert kept.neurons[0].tolist() == list(range(WIDTH))
    assert kept.neurons[1].tolist() == [2, 3, 4, *range(6, WIDTH)] and kept.dense_neurons == [WIDTH, WIDTH]


def test_record_holds_without_the_models_head():
    model = make_model("bert")
    remove(model, {1: [1]}, {0: [3]})
    assert kept_units(model.bert).heads == kept_units(model).heads == [[0, 1, 2, 3], [0, 2, 3]]


def test_a_compiled_model_is_cut_and_saved_as_the_plain_one_is(tmp_path):
    compiled, plain = torch.compile(make_model("bert"), backend="eager"), make_model("bert")
    for model in (compiled, plain):
        remove(model, {0: [0]}, {1: [2, 3]})
    assert compiled.config.quantization_config == plain.config.quantization_config
    assert kept_units(compiled).heads == kept_units(plain).heads
    compiled.save_pretrained(tmp_path)
    loaded = pretrained.from_pretrained(tmp_path)
    assert kept_units(loaded).heads == kept_units(plain).heads
    assert torch.equal(logits(loaded, make_batch("bert")), logits(plain, make_batch("bert")))


def test_a_record_that_does_not_fit_is_refused():
    model = make_model("bert")
    remove(model, {1: [1]})
    with pytest.raises(UserError, match=r"layer\.1\.attention\.self has 4 units.*3 of 4 remain"):
        kept_units(transformers.BertModel(model.config))


@given(st.sets(st.integers(0, 200), min_size=1))
@settings(max_examples=20, deadline=None)
def test_positions_survive_packing(positions):
    assert unpack_positions(pack_positions(positions)) == sorted(positions)


# ---- rejected cuts


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ({2: [0]}, {}, "attention 2 does not exist; the model's are numbered 0 to 1"),
        ({}, {-1: [0]}, "MLP -1 does not exist"),
        ({0: [4]}, {}, r"attention 0 .* has no head 4; its 4 are numbered 0 to 3"),
        ({}, {0: [-1]}, "has no neuron -1"),
        ({0: torch.tensor([True, False, False, False])}, {}, "expected positions, got a boolean mask"),
    ],
)
def test_impossible_cuts_are_refused_and_change_nothing(heads, neurons, message):
    model = make_model("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        remove(model, {1: [0], **heads}, neurons)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("gone", [[0], [0, 1, 2], [0, 2, 5]])
def test_unequal_groups_are_refused(gone):
    with pytest.raises(UserError, match=r"every 2 query heads share .* whole groups, or the same number in each"):
        remove(make_model("llama"), {0: gone})


@pytest.mark.parametrize(("gone", "groups", "keys"), [([0, 1], 2, 3), ([1, 2, 4, 7], 1, 4), ([0, 1, 2, 3, 4, 7], 1, 2)])
def test_grouped_heads_go_with_whole_groups_or_evenly(gone, groups, keys):
    model = make_model("qwen3")
    remove(model, {0: gone})
    attention = find_blocks(model).attentions[0]
    assert (attention.groups, len(attention.k.weight) // HEAD_DIM) == (groups, keys)
    assert attention.module.num_key_value_groups == groups


def test_quantized_models_are_refused():
    model = make_model("bert")
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(UserError, match=r"quantized \(gptq\)"):
        remove(model, {0: [0]})


# ---- units that contribute nothing


@each_model
def test_silent_units_are_removed_exactly(name):
    model, batch = make_model(name), make_batch(name)
    heads, neurons = uneven_cut(name)
    model = mask(model, heads, neurons)
    expected = logits(model, batch)
    removed = remove_zero_units(model)
    assert removed == (sum(map(len, heads.values())), sum(map(len, neurons.values())))
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert remove_zero_units(model) == (0, 0)


@each_model
def test_constant_units_are_folded_into_the_next_bias(name):
    """Zero incoming weights leave a constant; without a next bias only constants of zero may go."""
    row, model, batch = ROWS[name], make_model(name), make_batch(name)
    blocks = find_blocks(model)
    with torch.no_grad():
        blocks.attentions[-1].v.weight[:HEAD_DIM] = 0
        for mlp in blocks.mlps:
            for projection in mlp.ins:
                projection.weight[[2, 9]] = 0
    expected, last = logits(model, batch), blocks.attentions[-1]
    goes = last.v.bias is None or last.o.bias is not None
    assert remove_zero_units(model) == (row.groups if goes else 0, 2 * row.mlps)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_a_constant_without_a_next_bias_stays():
    model = make_model("llama", mlp_bias=True)
    mlp = find_blocks(model).mlps[0]
    mlp.out.module.bias = None
    with torch.no_grad():
        for projection in mlp.ins:
            projection.weight[[1, 2]] = 0
        mlp.ins[1].bias[2] = 0
    assert remove_zero_units(model) == (0, 1)
    assert kept_units(model).neurons[0].tolist() == [0, 1, *range(3, WIDTH)]


def test_an_activation_that_is_not_zero_at_zero():
    model, batch = make_model("opt", activation_function="sigmoid"), make_batch("opt")
    mlp = find_blocks(model).mlps[0]
    with torch.no_grad():
        mlp.ins[0].weight[4] = 0
        mlp.ins[0].bias[4] = 0
    expected = logits(model, batch)
    assert remove_zero_units(model) == (0, 1)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [0, 1])
def test_a_gated_neuron_goes_if_one_of_its_factors_is_zero(factor):
    model, batch = make_model("llama"), make_batch("llama")
    with torch.no_grad():
        find_blocks(model).mlps[0].ins[factor].weight[[2, 9]] = 0
    expected = logits(model, batch)
    assert remove_zero_units(model) == (0, 2)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)


@each_model
def test_every_layer_keeps_a_head_and_a_neuron(name):
    model, batch = make_model(name), make_batch(name)
    for parameter in (p.module.weight for b in find_blocks(model).attentions for p in (b.o,)):
        nn.init.zeros_(parameter)
    for parameter in (m.out.module.weight for m in find_blocks(model).mlps):
        nn.init.zeros_(parameter)
    expected = logits(model, batch)
    remove_zero_units(model)
    blocks = find_blocks(model)
    assert {a.heads for a in blocks.attentions} == {1} and {m.width for m in blocks.mlps} == {1}
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_grouped_heads_that_can_not_go_alone_stay():
    model = make_model("llama")
    attention = find_blocks(model).attentions[0]
    with torch.no_grad():
        for head in (0, 1, 2, 4):
            attention.o.weight[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0
    assert remove_zero_units(model) == (2, 0)
    assert kept_units(model).heads[0] == [2, 3, 4, 5, 6, 7]


def test_a_zero_query_is_not_a_head_without_effect():
    model = make_model("bert")
    attention = find_blocks(model).attentions[0]
    with torch.no_grad():
        attention.q.weight[:HEAD_DIM] = 0
        attention.q.bias[:HEAD_DIM] = 0
    assert remove_zero_units(model) == (0, 0)
