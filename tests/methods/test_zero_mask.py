"""Exact counts of zero and removed weights, also where whole units depend on small weights."""

from functools import partial

import pytest
import torch

from helpers.loops import make_run, train_bare
from helpers.models import make_model
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.l1 import L1
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity, prunable_weights, zero_or_removed
from neuroprune.pruning.surgery import remove_zero_units


def small_outputs(name, factor=1e-3):
    """A model whose output projections have much smaller weights than all others, as at GPT-2's initialisation."""
    model = make_model(name)
    with torch.no_grad():
        for block in find_blocks(model).all:
            block.output.weight.mul_(factor)
    return model


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("share", [0.05, 0.22, 0.5, 0.8, 0.97])
def test_the_count_is_exact_where_the_smallest_weights_are_all_of_a_units_outputs(name, share):
    model = small_outputs(name)
    goal = round(share * prunable_weights(model))
    zero_smallest(make_run(model, steps=4), goal)
    assert zero_or_removed(model) == goal
    remove_zero_units(model)
    assert zero_or_removed(model) == goal


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("method_class", [L1, partial(NeuroPrune, algorithm="penalties")], ids=["l1", "neuroprune"])
def test_such_a_model_ends_at_its_target_and_no_event_overshoots(name, method_class):
    model, method = small_outputs(name), method_class(sparsity=0.3)
    train_bare(method, model, name)
    assert measure_sparsity(model).weights == pytest.approx(0.3, abs=1e-3)
    events = [event for event in method.report["events"] if "asked" in event]
    assert [event["reached"] for event in events] == pytest.approx([event["asked"] for event in events], abs=1e-3)


def test_units_that_do_not_fit_keep_their_largest_weights():
    model = small_outputs("bert")
    goal = round(0.1 * prunable_weights(model))
    zero_smallest(make_run(model, steps=4), goal)
    for block in find_blocks(model).all:
        assert bool((block.output.weight != 0).any(dim=0).all())


def test_a_goal_that_is_reached_already_releases_no_zeros():
    model = make_model("bert")
    with torch.no_grad():
        find_blocks(model).mlps[0].out.weight[0, :3] = 0
    held = zero_smallest(make_run(model, steps=4), 0)
    with torch.no_grad():
        find_blocks(model).mlps[0].out.weight[0] = 1
    held.apply()
    assert find_blocks(model).mlps[0].out.weight[0].tolist()[:4] == [0, 0, 0, 1]
