"""Redundant heads: FIND_DOMINATING and merging, against the literal reference and the paper's claims."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import reference
from helpers.models import each_model, logits, make_alike, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.surgery import remove


@st.composite
def relations(draw: st.DrawFn) -> torch.Tensor:
    """Symmetric, reflexive, non-transitive relations, as derived from distances."""
    size = draw(st.integers(1, 9))
    pairs = draw(st.lists(st.booleans(), min_size=size * size, max_size=size * size))
    upper = torch.tensor(pairs).view(size, size).triu()
    return upper | upper.T | torch.eye(size, dtype=torch.bool)


@settings(deadline=None)
@given(relations())
def test_find_dominating_is_the_papers_scan(similar):
    assert heads.find_dominating(similar).tolist() == reference.find_dominating(similar.int().tolist())


@settings(deadline=None)
@given(relations())
def test_every_removed_head_is_similar_to_its_survivor_which_stays(similar):
    dominating = heads.find_dominating(similar).tolist()
    for head, survivor in enumerate(dominating):
        assert similar[head, survivor]
        assert dominating[survivor] == survivor  # no chains


@settings(deadline=None)
@given(relations())
def test_survivors_are_similar_to_at_least_the_same_heads(similar):
    dominating = heads.find_dominating(similar)
    assert (similar <= similar[dominating]).all()


@settings(deadline=None)
@given(relations())
def test_ties_keep_the_later_head(similar):
    dominating = heads.find_dominating(similar).tolist()
    for head in range(len(similar)):
        same = [j for j in range(len(similar)) if torch.equal(similar[j], similar[head])]
        assert head == max(same) or dominating[head] != head


def test_find_dominating_by_hand():
    # a path 0 - 1 - 2 - 3: the ends go into their neighbours, which do not contain each other
    path = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]).bool()
    assert heads.find_dominating(path).tolist() == [1, 1, 2, 2]
    assert heads.find_dominating(torch.ones(3, 3).bool()).tolist() == [2, 2, 2]
    assert heads.find_dominating(torch.eye(3).bool()).tolist() == [0, 1, 2]
    star = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]).bool()
    assert heads.find_dominating(star).tolist() == [0, 0, 0, 0]  # the earlier head, because it is similar to more


def head_slices(attention) -> list[reference.Matrix]:
    """A_H of every head in the paper's layout [d, 3 head_dim]; with grouped queries, all queries of a key head."""
    slices = []
    for head in range(attention.heads // attention.groups):
        rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        queries = slice(rows.start * attention.groups, rows.stop * attention.groups)
        parts = (attention.q.weight[queries], attention.k.weight[rows], attention.v.weight[rows])
        slices.append(reference.side_by_side(*(part.T.tolist() for part in parts)))
    return slices


@each_model
def test_similarity_is_the_largest_difference_of_any_weight(name):
    for attention in find_blocks(make_model(name)).attentions:
        slices = head_slices(attention)
        for theta in (0.0, 0.7, 0.9, 5.0):
            assert heads.similarity(attention, theta).int().tolist() == reference.similarity(slices, theta)


def self_attentions(model):
    """Attentions whose heads differ by nothing but their weights: T5 and MPNet have a position bias for every head."""
    biased = getattr(model.config, "model_type", "") in ("t5", "mpnet")
    return [a for a in find_blocks(model).attentions if a.cross or not biased]


@each_model
def test_merging_equal_heads_leaves_the_model_as_it_was(name):
    model, batch = make_model(name), make_batch(name)
    gone = {}
    for attention in self_attentions(model):
        make_alike(attention, 0, 2)
    expected = logits(model, batch)
    for attention in self_attentions(model):
        dominating = heads.find_dominating(heads.similarity(attention, 1e-6))
        assert dominating.tolist() == [2, 1, 2, 3]  # of two equal heads the later stays
        heads.merge_output(attention, dominating)
        gone[attention.index] = heads.query_heads(attention, [0])
    remove(model, heads=gone)
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-5)


def test_merging_agrees_with_the_reference():
    attention = find_blocks(make_model("bert")).attentions[0]
    for copy in (0, 1):
        make_alike(attention, copy, 2)
    size = attention.head_dim
    columns = [attention.o.weight[:, h * size : (h + 1) * size].tolist() for h in range(4)]
    left, folded = reference.eliminate_heads(head_slices(attention), columns, 1e-6)
    dominating = heads.find_dominating(heads.similarity(attention, 1e-6))
    heads.merge_output(attention, dominating)
    assert left == [head for head, star in enumerate(dominating.tolist()) if head == star] == [2, 3]
    for head, expected in zip(left, folded, strict=True):
        found = attention.o.weight[:, head * size : (head + 1) * size]
        torch.testing.assert_close(found, torch.tensor(expected))


def test_the_papers_letter_adds_columns_of_the_mlp():
    model = make_model("bert")
    blocks = find_blocks(model)
    attention, mlp = blocks.attentions[1], blocks.mlps[1]
    before = mlp.ins[0].weight.detach().clone()
    # the model has lost head 0: its three heads are the dense model's 1, 2 and 3
    heads.merge_mlp_in(attention, mlp, torch.tensor([2, 1, 2]), kept=[1, 2, 3], dense_heads=4)
    expected = before.clone()
    expected[:, 12:16] += before[:, 4:8]
    torch.testing.assert_close(mlp.ins[0].weight.detach(), expected)


def test_the_papers_letter_needs_heads_as_wide_as_the_model():
    blocks = find_blocks(make_model("llama"))  # four key heads of two queries: 32 channels, the model has 16
    with pytest.raises(UserError, match="merge: output"):
        heads.merge_mlp_in(blocks.attentions[0], blocks.mlps[0], torch.arange(4), range(4), 4)


@each_model
def test_an_attention_belongs_to_the_mlp_of_its_layer(name):
    blocks = find_blocks(make_model(name))
    for attention in blocks.attentions:
        layer = next(part for part in attention.name.split(".") if part.isdigit())
        mlp = heads.mlp_of(attention, blocks.mlps)
        assert next(part for part in mlp.name.split(".") if part.isdigit()) == layer
        assert ("decoder" in mlp.name.split(".")) == ("decoder" in attention.name.split("."))
