"""Blocks: equal shapes for every architecture, and views that write to the parameters."""

import pytest
import torch
from torch import nn

from helpers.models import HEAD_DIM, ROWS, WIDTH, each_model, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.pruning.architectures import ARCHITECTURES
from neuroprune.pruning.blocks import Projection, find_blocks
from neuroprune.pruning.surgery import kept_units, remove


@each_model
def test_every_attention_and_mlp_is_found(name):
    row, blocks = ROWS[name], find_blocks(make_model(name))
    assert (len(blocks.attentions), len(blocks.mlps)) == (row.attentions, row.mlps)
    assert [block.index for block in blocks.attentions] == list(range(row.attentions))
    for attention in blocks.attentions:
        assert (attention.heads, attention.groups, attention.head_dim) == (row.heads, row.groups, HEAD_DIM)
        inner, keys = row.heads * HEAD_DIM, row.heads // row.groups * HEAD_DIM
        assert [len(p.weight) for p in (attention.q, attention.k, attention.v)] == [inner, keys, keys]
        assert attention.o.weight.shape[1] == inner
    for mlp in blocks.mlps:
        assert mlp.width == WIDTH
        assert {p.weight.shape for p in mlp.ins} == {(WIDTH, 16)} and mlp.out.weight.shape == (16, WIDTH)


def test_the_tests_know_every_row_of_the_table():
    assert {make_model(name).config.model_type for name in ROWS} == set(ARCHITECTURES)


@each_model
def test_names_are_paths_in_the_model(name):
    model = make_model(name)
    for block in (*find_blocks(model).attentions, *find_blocks(model).mlps):
        assert model.get_submodule(block.name) is block.module


def test_encoder_comes_first_and_self_attention_before_cross_attention():
    assert [a.cross for a in find_blocks(make_model("t5")).attentions] == [False, False, False, True, False, True]


@each_model
def test_head_owns_rows_of_v_and_columns_of_o(name):
    """Without the value rows of a key/value head, the columns of O of its query heads have no effect."""
    model, batch = make_model(name), make_batch(name)
    attention = find_blocks(model).attentions[-1]
    with torch.no_grad():
        attention.v.weight[HEAD_DIM : 2 * HEAD_DIM] = 0
        if attention.v.bias is not None:
            attention.v.bias[HEAD_DIM : 2 * HEAD_DIM] = 0
        before = logits(model, batch)
        own = slice(attention.groups * HEAD_DIM, 2 * attention.groups * HEAD_DIM)
        attention.o.weight[:, own] = 0
        torch.testing.assert_close(logits(model, batch), before, atol=1e-6, rtol=1e-5)
        attention.o.weight[:, :HEAD_DIM] = 0
    assert (logits(model, batch) - before).abs().max() > 1e-4


@each_model
def test_neuron_owns_rows_of_ins_and_a_column_of_out(name):
    model, batch = make_model(name), make_batch(name)
    mlp = find_blocks(model).mlps[-1]
    with torch.no_grad():
        for projection in mlp.ins:
            projection.weight[3] = 0
            if projection.bias is not None:
                projection.bias[3] = 0
        before = logits(model, batch)
        mlp.out.weight[:, 3] = 0
    torch.testing.assert_close(logits(model, batch), before, atol=1e-6, rtol=1e-5)


@each_model
def test_views_keep_the_autograd_graph_and_show_the_gradient(name):
    model = make_model(name)
    blocks = find_blocks(model)
    projections = [p for a in blocks.attentions for p in (a.q, a.k, a.v, a.o)]
    projections += [p for m in blocks.mlps for p in (*m.ins, m.out)]
    assert all(projection.grad is None for projection in projections)
    sum(projection.weight.square().sum() for projection in projections).backward()
    for projection in projections:
        torch.testing.assert_close(projection.grad, 2 * projection.weight.detach())
        with torch.no_grad():
            projection.grad.zero_()
        assert not projection.module.weight.grad.equal(2 * projection.module.weight.detach())


def test_a_fused_projection_keeps_its_parts_apart():
    attention = find_blocks(make_model("gpt2")).attentions[0]
    assert attention.q.module is attention.k.module is attention.v.module
    joined = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
    torch.testing.assert_close(joined, attention.q.module.weight.t())
    torch.testing.assert_close(
        torch.cat([p.bias for p in (attention.q, attention.k, attention.v)]), attention.q.module.bias
    )


def test_a_projection_without_bias_says_so():
    assert Projection(nn.Linear(2, 3, bias=False)).bias is None


@pytest.mark.parametrize("of", ["BertModel", "T5EncoderModel", "BartForCausalLM", "BartForSequenceClassification"])
def test_other_heads_of_a_known_type(of):
    import transformers

    values = next(row for row in ROWS.values() if of.startswith(row.config.removesuffix("Config")))
    config = getattr(transformers, values.config)(vocab_size=99, **values.values)
    found = find_blocks(getattr(transformers, of)(config))
    assert (len(found.attentions), len(found.mlps)) == {
        "BertModel": (2, 2),
        "T5EncoderModel": (2, 2),
        "BartForCausalLM": (2, 2),
        "BartForSequenceClassification": (6, 4),
    }[of]


def test_an_unknown_type_names_the_known_ones_and_the_table():
    model = make_model("bert")
    model.config.model_type = "berd"
    model.bert.encoder.layer[1].intermediate = nn.Identity()  # so that no row describes it
    with pytest.raises(UserError, match=r"'berd' .*did you mean 'bert'.*qwen3.*architectures\.py"):
        find_blocks(model)


def test_not_a_transformers_model():
    with pytest.raises(UserError, match="Linear is not a transformers model"):
        find_blocks(nn.Linear(2, 2))


def test_layers_that_are_elsewhere():
    model = make_model("bert")
    model.config.model_type = "opt"
    with pytest.raises(UserError, match=r"not at decoder\.layers"):
        find_blocks(model)


class Wrapper(nn.Module):
    """A custom model around two transformers models."""

    def __init__(self):
        super().__init__()
        self.encoder, self.other = make_model("bert").bert, make_model("bert").bert
        self.config = self.encoder.config


def test_a_wrapper_is_told_how_to_name_the_model_inside():
    with pytest.raises(UserError, match=r"Wrapper.*base_model_prefix.*merge_and_unload"):
        find_blocks(Wrapper())
    Wrapper.base_model_prefix = "encoder"
    model = Wrapper()
    assert all(attention.name.startswith("encoder.encoder.layer.") for attention in find_blocks(model).attentions)
    remove(model, {0: [1]})
    assert kept_units(model).heads == kept_units(model.encoder).heads == [[0, 2, 3], [0, 1, 2, 3]]
