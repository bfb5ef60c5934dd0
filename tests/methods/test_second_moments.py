"""Second moments in bands, compared with the full matrix, token by token."""

import pytest
import torch

from neuroprune.methods.components.second_moments import BAND, Means, SecondMoments

SIZES = [1, 5, BAND - 2, BAND - 1, BAND, BAND + 1, 2 * BAND, 3 * BAND + 7]


def tokens(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("channels", SIZES)
def test_two_batches_give_the_weighted_sum_of_outer_products(channels, weighted):
    found, expected = SecondMoments(channels), torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
    for seed in range(2):
        x = tokens(9, channels, seed)
        weights = torch.linspace(0.1, 3, len(x)) if weighted else torch.ones(len(x))
        found.add(x, weights if weighted else None)
        for token, weight in zip(x.double(), weights.double(), strict=True):
            extended = torch.cat([token, torch.ones(1)])
            expected += weight * torch.outer(extended, extended)
    assert found.matrix().dtype == torch.float32
    torch.testing.assert_close(found.matrix(), expected.float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.means(), (expected[-1, :-1] / expected[-1, -1]).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_means_alone_are_those_of_the_second_moments(weighted):
    alone, all_ = Means(300), SecondMoments(300)
    for seed in range(2):
        x = tokens(9, 300, seed)
        weights = torch.linspace(0.1, 3, len(x)) if weighted else None
        alone.add(x, weights)
        all_.add(x, weights)
    torch.testing.assert_close(alone.means(), all_.means(), rtol=1e-5, atol=1e-5)
    assert sum(part.numel() for part in alone.sums) == 301


def test_a_matrix_of_some_size_is_stored_in_little_more_than_half():
    channels = 12 * BAND
    stored = sum(part.numel() for part in SecondMoments(channels).sums)
    assert 0.5 < stored / (channels + 1) ** 2 < 0.56


@pytest.mark.parametrize("kind", [Means, SecondMoments])
def test_without_tokens_means_are_zero(kind):
    assert kind(3).means().tolist() == [0.0, 0.0, 0.0]


def test_half_precision_is_summed_in_float32():
    x = torch.full((4096, 1), 1.0, dtype=torch.bfloat16)
    found = SecondMoments(1)
    found.add(x)
    assert found.matrix().tolist() == [[4096.0, 4096.0], [4096.0, 4096.0]]
