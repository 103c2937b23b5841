"""The alias table: exact against its rounded weights, whatever their number and shape."""

import numpy as np
import pytest
import torch
from scipy import stats

from hf_icl.philox import draw_words
from hf_icl.sequences.alias import TOTAL, AliasTable, _fill_buckets, _round_weights


@pytest.mark.parametrize(
    "weights",
    [
        [1.0],
        [1, 1],
        [3, 1],
        [1, 1, 1],
        [5, 0.1, 2, 2, 9],
        list(range(1, 130)),
        [k**-2.0 for k in range(1, 1000)],
    ],
)
def test_buckets_give_every_value_exactly_its_units(weights):
    units = _round_weights(torch.tensor(weights, dtype=torch.float64))
    n_buckets = 2 << (len(weights) - 1).bit_length()
    limits, aliases = _fill_buckets(units.tolist(), n_buckets)
    received = [0] * n_buckets
    for own, (limit, alias) in enumerate(zip(limits, aliases, strict=True)):
        assert 0 <= limit <= TOTAL // n_buckets
        received[own] += limit
        received[alias] += TOTAL // n_buckets - limit
    assert received[: len(weights)] == units.tolist()
    assert not any(received[len(weights) :])


def test_rounding_is_to_the_nearest_unit_and_sums_to_one():
    weights = np.arange(1, 50_001) ** -1.0
    units = _round_weights(torch.tensor(weights)).numpy()
    assert units.sum() == TOTAL
    assert np.abs(units - weights / weights.sum() * TOTAL).max() <= 1


def test_no_value_is_lost_to_rounding():
    units = _round_weights(torch.tensor([1.0, 1e-12, 1e-15], dtype=torch.float64))
    assert units.tolist() == [TOTAL - 2, 1, 1]


def test_a_bucket_changes_hands_at_its_limit():
    """Weights 3 : 1 in two buckets of 2^31: the second is value 20 for the first half, then value 10."""
    table = AliasTable(torch.tensor([3.0, 1.0]), torch.tensor([10, 20]))
    words = torch.tensor([0, 2**31 - 1, 2**31, 2**31 + 2**30 - 1, 2**31 + 2**30, 2**32 - 1])
    assert table.draw(words).tolist() == [10, 10, 20, 20, 10, 10]


def test_one_value_is_always_drawn():
    assert AliasTable(torch.tensor([0.3]), torch.tensor([7])).draw(torch.tensor([0, 2**32 - 1])).tolist() == [
        7,
        7,
    ]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_frequencies(exponent):
    p = np.arange(1, 101) ** -exponent
    p /= p.sum()
    table = AliasTable(torch.tensor(p), torch.arange(100).flip(0))
    drawn = table.draw(draw_words(torch.arange(200_000), 1, seed=0, stream=int(exponent))[:, 0])
    assert stats.chisquare(drawn.bincount(minlength=100).numpy()[::-1], 200_000 * p).pvalue > 1e-3
