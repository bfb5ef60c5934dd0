"""The controller of penalty strengths steers a simulated run to its target."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.methods.components.strength_control import (
    EVERY,
    INTEGRAL,
    LARGEST_LOG,
    PROPORTIONAL,
    StrengthControl,
    absence_threshold,
    absent_entries,
)


def test_the_wanted_share_is_a_ramp_that_is_held():
    control = StrengthControl(0.8, start=0.1, end=0.6)
    assert [control.wanted(x) for x in (0.0, 0.1, 0.6, 1.0)] == [0.0, 0.0, 0.8, 0.8]
    assert control.wanted(0.35) == pytest.approx(0.4)


def test_the_first_updates_by_hand():
    control = StrengthControl(0.5, start=0.0, end=0.5)
    control.update(0.25, absent=0.15)  # wanted .25, error .1
    assert control.factor == pytest.approx(math.exp(PROPORTIONAL * 0.1 + INTEGRAL * 0.1))
    control.update(0.5, absent=0.7)  # error -.2
    assert control.factor == pytest.approx(math.exp(PROPORTIONAL * -0.2 + INTEGRAL * -0.1))


@settings(deadline=None)
@given(st.floats(0.05, 0.95), st.lists(st.floats(0, 1), min_size=1, max_size=500))
def test_the_factor_stays_positive_and_bounded(target, measured):
    control = StrengthControl(target, 0.0, 0.6)
    for number, absent in enumerate(measured):
        control.update(number / len(measured), absent)
        assert math.exp(-LARGEST_LOG) <= control.factor <= math.exp(LARGEST_LOG)


@pytest.mark.parametrize("target", [0.25, 0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("easy", [0.1, 1.0, 10.0])
def test_it_reaches_the_target_of_a_model_that_answers_late(target, easy):
    """The share follows its equilibrium, a saturating function of the factor, with a lag of 200 steps."""
    control, share = StrengthControl(target, 0.0, 0.6), 0.0
    for step in range(2000):
        if step % EVERY == 0:
            control.update(step / 2000, share)
        equilibrium = (control.factor * easy) / (control.factor * easy + 0.3)
        share += (equilibrium - share) / 200
    assert share == pytest.approx(target, abs=0.04)


def test_a_target_that_was_long_out_of_reach_leaves_no_more_than_the_bound():
    control = StrengthControl(0.9, start=0.0, end=0.5)
    for _ in range(1000):
        control.update(1.0, absent=0.0)
    assert control.integral == LARGEST_LOG
    for _ in range(1000):
        control.update(1.0, absent=1.0)
    assert control.factor < 1


def test_its_state_is_restored():
    control, same = StrengthControl(0.8, 0.0, 0.6), StrengthControl(0.8, 0.0, 0.6)
    control.update(0.3, 0.1)
    same.load_state(control.state_dict())
    assert same == control


def test_entries_count_as_absent_below_the_threshold():
    assert absence_threshold(1e-4, 1e-4) == pytest.approx(2e-4)
    assert absence_threshold(1e-4, 1e-6) == 1e-4

    class Matrix:
        weight = torch.tensor([[0.0, 1e-5], [-3e-4, 2.0]])

    assert absent_entries([], []) == 0
    assert absent_entries([Matrix, Matrix], [1e-4, 1e-4]) == 4
