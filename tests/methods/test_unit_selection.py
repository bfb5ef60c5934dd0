"""Selection of units under a budget of weights; blocks are represented by numbers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.loops import make_run
from helpers.models import make_model
from neuroprune.methods.components.unit_selection import UnitGroup, choose_units, fewest_units
from neuroprune.pruning.surgery import remove


def groups(*rows):
    """Rows of scores, size and fewest units."""
    return [UnitGroup(block, torch.tensor(row), size, fewest) for block, (row, size, fewest) in enumerate(rows)]


def test_one_ranking_over_all_blocks_by_score_per_weight():
    # per weight: heads .4, .1 (size 10); neurons .5, .05, .2 (size 2)
    found = groups(([4.0, 1.0], 10, 1), ([1.0, 0.1, 0.4], 2, 1))
    assert choose_units(found, room=1) == {0: [], 1: []}
    assert choose_units(found, room=2) == {0: [], 1: [1]}
    assert choose_units(found, room=12) == {0: [1], 1: [1]}
    assert choose_units(found, room=14) == {0: [1], 1: [1, 2]}


def test_a_unit_that_is_too_large_is_skipped():
    assert choose_units(groups(([0.0, 1.0], 10, 1), ([5.0, 6.0, 7.0], 2, 1)), room=5) == {0: [], 1: [0, 1]}


def test_every_block_keeps_its_fewest_units():
    found = groups(([0.0] * 4, 10, 1), ([1.0] * 8, 2, 3))
    assert choose_units(found, room=10**6) == {0: [0, 1, 2], 1: [0, 1, 2, 3, 4]}


SCORES = st.floats(0, 10, width=32, allow_subnormal=False)  # subnormal ones may count as 0
ROW = st.lists(SCORES, min_size=1, max_size=8).flatmap(
    lambda row: st.tuples(st.just(row), st.integers(1, 9), st.integers(1, len(row)))
)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.integers(0, 200))
def test_the_budget_is_kept_and_used(rows, room):
    chosen = choose_units(groups(*rows), room)
    spent = sum(len(chosen[block]) * size for block, (_, size, _) in enumerate(rows))
    assert spent <= room
    for block, (row, size, fewest) in enumerate(rows):
        units = chosen[block]
        assert len(row) - len(units) >= fewest
        if len(row) - len(units) > fewest:
            assert spent + size > room  # nothing that would still fit remains
        left = [value for unit, value in enumerate(row) if unit not in units]
        assert not units or not left or max(row[unit] for unit in units) <= min(left)


def test_an_mlp_keeps_a_fraction_of_the_neurons_of_the_dense_model():
    model = make_model("bert")  # 24 neurons
    remove(model, neurons={0: list(range(10))})
    run = make_run(model, steps=1)
    fewest = fewest_units(run, min_share=0.3)
    assert [fewest[mlp] for mlp in run.blocks.mlps] == [8, 8]
    assert [fewest[attention] for attention in run.blocks.attentions] == [1, 1]
