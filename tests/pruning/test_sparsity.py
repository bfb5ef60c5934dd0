"""Exact counts, schedules and thresholds, including after cuts, with ties and in very short runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.models import ROWS, each_model, make_model
from neuroprune.pruning import sparsity
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.surgery import remove

GATED = {"t5-gated", "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "modernbert"}


def dense_weights(name: str) -> int:
    """Count the weights of Q, K, V, O and the MLP from the shapes in the test's table."""
    row = ROWS[name]
    inner, keys = row.heads * 4, row.heads // row.groups * 4
    mlp = 3 if name in GATED else 2
    return row.attentions * 16 * 2 * (inner + keys) + row.mlps * mlp * 16 * 24


@each_model
def test_a_dense_model_has_lost_nothing(name):
    model = make_model(name)
    found = sparsity.measure_sparsity(model)
    assert sparsity.prunable_weights(model) == dense_weights(name)
    assert (found.weights, found.heads, found.neurons) == (0, 0, 0)
    assert found.parameters == found.dense_parameters == sum(p.numel() for p in model.parameters())
    assert found.heads_per_layer == (ROWS[name].heads,) * ROWS[name].attentions


@each_model
def test_removed_and_zero_weights_count_alike(name):
    model, groups = make_model(name), ROWS[name].groups
    dense = sum(p.numel() for p in model.parameters())
    blocks = find_blocks(model)
    head, neuron = sparsity.unit_size(blocks.attentions[0]), sparsity.unit_size(blocks.mlps[1])
    total = sparsity.prunable_weights(model)
    remove(model, heads={0: list(range(groups))}, neurons={1: [3, 5]})
    with torch.no_grad():
        blocks.mlps[0].out.weight[2, :4] = 0
    found = sparsity.measure_sparsity(model)
    assert sparsity.prunable_weights(model) == total
    assert found.weights == pytest.approx((head + 2 * neuron + 4) / total)
    assert found.dense_parameters == dense
    assert found.parameters == sum(p.numel() for p in model.parameters()) < dense
    assert found.heads_per_layer[0] == ROWS[name].heads - groups
    assert found.neurons_per_layer == (24, 22, *(24,) * (ROWS[name].mlps - 2))


def test_biases_of_shared_key_heads_count_once():
    model = make_model("llama", attention_bias=True)
    dense = sum(p.numel() for p in model.parameters())
    remove(model, heads={0: [0, 1]})
    assert sparsity.measure_sparsity(model).dense_parameters == dense


@each_model
def test_units_without_a_way_in_or_out_count_as_gone(name):
    model = make_model(name)
    blocks = find_blocks(model)
    attention, mlp = blocks.attentions[0], blocks.mlps[0]
    with torch.no_grad():
        attention.v.weight[0:2] = 0  # half of head 0's channels have no way in, the other half no way out
        attention.o.weight[:, 2:4] = 0
        mlp.ins[0].weight[1] = 0
        mlp.out.weight[:, 2] = 0
        mlp.out.weight[1:, 4] = 0  # one connection is left
    found = sparsity.measure_sparsity(model)
    assert found.heads_per_layer[0] == ROWS[name].heads - 1
    assert found.neurons_per_layer[0] == 22


def test_the_record_is_plain_json():
    record = sparsity.measure_sparsity(make_model("bert")).as_dict()
    assert record["heads_per_layer"] == [4, 4] and record["neurons_per_layer"] == [24, 24]


def test_schedule_by_hand():
    assert sparsity.cubic_schedule(0.8, 3) == pytest.approx([0.8 * 19 / 27, 0.8 * 26 / 27, 0.8])
    assert sparsity.cubic_schedule(0.7, 1) == [0.7]


def test_events_by_hand():
    assert sparsity.event_steps(300, 1 / 3, 1 / 2, 3) == [100, 125, 150]
    assert sparsity.event_steps(300, 1 / 3, 1 / 2, 1) == [150]
    assert sparsity.event_steps(4, 1 / 3, 1 / 2, 3) == [1, 2]  # coinciding events are merged
    assert sparsity.event_steps(1, 1 / 3, 1 / 2, 3) == [1]


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1), st.integers(1, 12))
def test_events_rise_and_stay_inside_the_run(total, first, second, events):
    steps = sparsity.event_steps(total, min(first, second), max(first, second), events)
    assert steps == sorted(set(steps)) and steps[0] >= 1 and steps[-1] <= total
    assert steps[-1] == min(total, max(1, round(max(first, second) * total)))


numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e-45]),
    st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(numbers, min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_the_smallest_are_marked_exactly(rows, data):
    tensors = [torch.tensor(row) for row in rows]
    magnitudes = torch.cat(tensors).abs()
    count = data.draw(st.integers(0, len(magnitudes)))
    marks = torch.cat(sparsity.smallest(tensors, count))
    assert int(marks.sum()) == count
    if 0 < count < len(magnitudes):
        assert magnitudes[marks].max() <= magnitudes[~marks].min()
    if count:
        threshold, ties = sparsity.magnitude_threshold(tensors, count)
        assert threshold == magnitudes.sort().values[count - 1]
        assert ties == count - int((magnitudes < threshold).sum())


def test_ties_are_taken_in_order_of_position():
    marks = sparsity.smallest([torch.tensor([[2.0, 1.0], [-1.0, 1.0]]), torch.tensor([1.0, 0.5])], 3)
    assert [mark.int().tolist() for mark in marks] == [[[0, 1], [1, 0]], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_kinds_of_float_are_compared_too(dtype):
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    mark = sparsity.smallest([tensor], 137)[0]
    assert int(mark.sum()) == 137 and tensor[mark].abs().max() <= tensor[~mark].abs().min()


def test_a_transposed_view_is_marked_like_its_copy():
    tensor = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sparsity.smallest([tensor.T], 99)[0], sparsity.smallest([tensor.T.contiguous()], 99)[0])


@pytest.mark.parametrize("count", [0, 4])
def test_counts_out_of_range_are_refused(count):
    with pytest.raises(ValueError, match="not between 1"):
        sparsity.magnitude_threshold([torch.ones(3)], count)


def test_single_queries_that_went_from_a_group_are_counted():
    """Eight query heads use four key/value heads of 4 x 16 weights each; one query of each group is removed."""
    model = make_model("llama")
    total = sparsity.prunable_weights(model)
    remove(model, heads={0: [0, 2, 4, 6]})
    assert sparsity.prunable_weights(model) == total
    assert sparsity.removed_weights(model) == 4 * 4 * (16 + 16)
