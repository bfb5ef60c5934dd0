"""Batch order by seed and epoch, parts of a step, and the weights of their losses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neuroprune.training.batches import ShuffledLengthGroups, SplitSteps, StepParts, split

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(1, 100, 256)]


def test_batches_hold_rows_of_similar_length_and_come_in_random_order():
    order = list(ShuffledLengthGroups(LENGTHS, 8, seed=0))
    assert sorted(order) == list(range(256))
    batches = np.array([[LENGTHS[row] for row in order[i : i + 8]] for i in range(0, 256, 8)])
    assert np.ptp(batches, axis=1).mean() < 25  # of random rows: about 78
    means = batches.mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.5  # neighbours are no more alike than others
    assert 0.25 < (np.diff(means) < 0).mean() < 0.75  # the groups themselves are sorted from long to short


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    def order(seed, epoch):
        rows = ShuffledLengthGroups(LENGTHS, 8, seed)
        rows.set_epoch(epoch)
        return list(rows)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))
    torch.manual_seed(5)
    assert order(1, 0) == orders[2]


def test_no_row_of_an_incomplete_batch_is_lost():
    order = list(ShuffledLengthGroups(LENGTHS[:21], 8, seed=3))
    assert len(order) == 21 and sorted(order) == list(range(21))


def test_parts_of_a_step_are_its_rows():
    order = ShuffledLengthGroups([5] * 21, 8, seed=0)
    parts = [list(StepParts(order, 8, 2, process, 2, lambda: 0)) for process in range(2)]
    assert [len(found) for found in parts] == [len(StepParts(order, 8, 2, 0, 2, lambda: 0))] * 2 == [6, 6]
    rows = list(order)
    for step in range(3):
        read = [row for found in parts for part in found[2 * step : 2 * step + 2] for row in part]
        assert sorted(read) == sorted(rows[8 * step : 8 * step + 8])
    assert split((1, 2), 3) == [[1, 2]] * 3  # no part is empty, and the mean does not change


def test_each_epoch_has_an_order_of_its_own():
    epoch = 0
    parts = StepParts(ShuffledLengthGroups(LENGTHS, 8, 0), 8, 1, 0, 1, lambda: epoch)
    first = list(parts)
    epoch = 1
    assert list(parts) != first
    epoch = 0
    assert list(parts) == first


class Loader:
    """Replacement for the Trainer that returns the parts of one step."""

    callback_handler = SimpleNamespace(callbacks=[])

    def __init__(self, *labels):
        self.parts = [{"labels": torch.tensor(rows)} for rows in labels]

    def get_batch_samples(self):
        return self.parts, None


@pytest.mark.parametrize(
    ("labels", "shifted", "weights"),
    [
        (([0, 1, 1], [1, 0]), False, [6 / 5, 4 / 5]),  # three and two classes
        (([[3, 4, -100]], [[5, 6, 7]]), False, [4 / 5, 6 / 5]),  # two and three tokens
        (([[3, 4, -100]], [[5, 6, 7]]), True, [2 / 3, 4 / 3]),  # a first token is no target of a shifted loss
    ],
)
def test_the_loss_of_a_part_is_weighted_by_its_targets(labels, shifted, weights):
    trainer = type("StepTrainer", (SplitSteps, Loader), {"_loss_shifts_labels": shifted})(*labels)
    trainer.get_batch_samples()
    assert trainer._weights == pytest.approx(weights)
