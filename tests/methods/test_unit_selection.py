"""Which units go under a budget of weights."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.methods.components.unit_selection import choose_units


def test_one_order_over_all_blocks_by_score_for_each_weight():
    # for each weight: heads .4, .1 (size 10); neurons .5, .05, .2 (size 2)
    scores, sizes = [torch.tensor([4.0, 1.0]), torch.tensor([1.0, 0.1, 0.4])], [10, 2]
    assert choose_units(scores, sizes, [1, 1], room=1) == [[], []]
    assert choose_units(scores, sizes, [1, 1], room=2) == [[], [1]]
    assert choose_units(scores, sizes, [1, 1], room=12) == [[1], [1]]
    assert choose_units(scores, sizes, [1, 1], room=14) == [[1], [1, 2]]


def test_a_unit_that_is_too_large_is_passed_over():
    scores, sizes = [torch.tensor([0.0, 1.0]), torch.tensor([5.0, 6.0, 7.0])], [10, 2]
    assert choose_units(scores, sizes, [1, 1], room=5) == [[], [0, 1]]


def test_every_block_keeps_what_it_must():
    scores = [torch.zeros(4), torch.ones(8)]
    assert choose_units(scores, [10, 2], [1, 3], room=10**6) == [[0, 1, 2], [0, 1, 2, 3, 4]]


SCORES = st.floats(0, 10, width=32, allow_subnormal=False)  # subnormal ones may count as 0


@given(
    st.lists(st.lists(SCORES, min_size=1, max_size=8), min_size=1, max_size=5),
    st.integers(0, 200),
    st.data(),
)
def test_the_budget_is_kept_and_used(rows, room, data):
    sizes = [data.draw(st.integers(1, 9)) for _ in rows]
    least = [data.draw(st.integers(1, len(row))) for row in rows]
    chosen = choose_units([torch.tensor(row) for row in rows], sizes, least, room)
    spent = sum(len(units) * size for units, size in zip(chosen, sizes, strict=True))
    assert spent <= room
    for units, row, size, few in zip(chosen, rows, sizes, least, strict=True):
        assert len(row) - len(units) >= few
        if len(row) - len(units) > few:
            assert spent + size > room  # nothing that would still fit stays
        left = [value for unit, value in enumerate(row) if unit not in units]
        assert not units or not left or max(row[unit] for unit in units) <= min(left)
