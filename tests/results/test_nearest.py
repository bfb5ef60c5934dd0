"""Selection of runs from a grid of penalties: nearest to each wanted sparsity, the better of two equally near ones."""

import pandas as pd
import pytest

from neuroprune.results.tables.nearest import nearest_to_wanted, out_of_reach


def grid(values):
    """Return means of one grid of penalties from metric by sparsity."""
    same = {"model": "minilm", "task": "sst2", "method": "l1", "form": "penalty"}
    return pd.DataFrame([same | {"sparsity": sparsity, "value": value} for sparsity, value in values.items()])


@pytest.mark.parametrize("better", [0.75, 0.85])
def test_of_two_equally_near_runs_the_better_is_kept(better):
    values = dict.fromkeys((0.1, 0.75, 0.85), 0.6) | {better: 0.7}  # in floats 0.85 - 0.8 is below 0.8 - 0.75
    assert list(nearest_to_wanted(grid(values), (0.1, 0.8))["sparsity"]) == [0.1, better]


def test_a_grid_with_no_more_runs_than_wanted_sparsities_is_kept_whole():
    assert list(nearest_to_wanted(grid({0.1: 0.8, 0.2: 0.7}), (0.8, 0.9))["sparsity"]) == [0.1, 0.2]
    assert list(nearest_to_wanted(grid({0.1: 0.8, 0.2: 0.7, 0.76: 0.6}), (0.8, 0.9))["sparsity"]) == [0.76]


def test_a_run_more_than_five_points_away_does_not_stand_for_a_sparsity():
    far = grid({0.1: 0.8, 0.2: 0.7, 0.749: 0.6, 0.95: 0.5})
    assert list(nearest_to_wanted(far, (0.15, 0.8, 0.9))["sparsity"]) == [0.1, 0.95]
    assert out_of_reach(far, (0.15, 0.8, 0.9)) == (0.8,)
    assert out_of_reach(far, (0.15, 0.75, 0.8, 0.9)) == ()  # no larger than what is wanted: shown whole


def test_each_method_has_a_grid_of_its_own():
    both = pd.concat([grid({0.1: 0.8, 0.5: 0.7}), grid({0.45: 0.8, 0.9: 0.6}).assign(method="neuroprune")])
    found = nearest_to_wanted(both.reset_index(drop=True), (0.5,))
    assert dict(zip(found["method"], found["sparsity"], strict=True)) == {"l1": 0.5, "neuroprune": 0.45}
