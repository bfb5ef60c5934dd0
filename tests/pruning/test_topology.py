"""Degrees and degree weights against hand-computed numbers and the literal reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import reference
from neuroprune.pruning.topology import degree_weights, fractional_degree

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, 4.0], [0.0, 5e-5, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])


def test_degrees_by_hand():
    assert fractional_degree(WEIGHT).tolist() == [1.0, 0.5, 0.0]


def test_an_entry_of_exactly_eps_is_present():
    assert fractional_degree(torch.tensor([[0.5, -0.5, 0.25]]), eps=0.5).tolist() == [pytest.approx(2 / 3)]


def test_removed_columns_count_as_absent():
    assert fractional_degree(WEIGHT, length=8).tolist() == [0.5, 0.25, 0.0]


def test_weights_of_both_readings_by_hand():
    assert degree_weights(WEIGHT).tolist() == [1.0, 2.0, 4.0]  # an empty row counts as one connection of four
    assert degree_weights(WEIGHT, degree_weight="missing").tolist() == [0.0, 0.5, 1.0]
    assert degree_weights(WEIGHT, length=8).tolist() == [2.0, 4.0, 8.0]


def test_empty_rows_are_refused():
    with pytest.raises(ValueError, match="at least one entry"):
        fractional_degree(torch.ones(3, 0))


def test_no_gradient_flows_through_a_degree():
    assert not degree_weights(torch.ones(2, 2, requires_grad=True)).requires_grad


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1e-5, -1e-5, 0.3, -2.0]), min_size=3, max_size=3), min_size=1, max_size=5)
)
def test_weights_agree_with_the_reference(rows):
    for reading in ("inverse", "missing", "none"):
        expected = [reference.degree_weight(row, 1e-4, reading) for row in rows]
        assert degree_weights(torch.tensor(rows), 1e-4, reading).tolist() == pytest.approx(expected)
