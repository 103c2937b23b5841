"""Orders of places: listed or shuffled, every distinct order equally often."""

import collections
import itertools

import pytest
import torch
from scipy import stats

from hf_icl.philox import draw_words
from hf_icl.sequences.order import PlaceOrder


def draw_orders(order, n_rows, seed=0):
    words = draw_words(torch.arange(n_rows), order.n_words, seed=seed, stream=0)
    return order.draw(iter(words.T.contiguous()), n_rows)


@pytest.mark.parametrize(
    ("copies", "alike", "n_orders"),
    [
        ([3, 3, 1, 1], [2, 3], 560),  # 8! / (3! 3! 2!)
        ([3, 3, 1, 1], [], 1120),
        ([4, 4], [], 70),
        ([0, 1, 1, 1], [1, 2, 3], 1),  # fillers alone keep their order
        ([0, 1], [1], 1),
        ([2, 1], [1], 3),
        ([1], [], 1),
    ],
)
def test_all_orders_are_listed_once(copies, alike, n_orders):
    order = PlaceOrder(copies, alike=alike)
    rows = [tuple(row) for row in order.listed.tolist()]
    assert len(rows) == len(set(rows)) == n_orders and order.n_words == 1
    for row in rows:
        counts = collections.Counter(row[:-1])
        assert [counts[slot] for slot in range(len(copies))] == copies and row[-1] == 0
        assert [slot for slot in row[:-1] if slot in alike] == alike


def test_listed_orders_are_all_orders():
    listed = {tuple(row[:-1]) for row in PlaceOrder([2, 2, 1]).listed.tolist()}
    assert listed == set(itertools.permutations([0, 0, 1, 1, 2]))


def test_long_contexts():
    order = PlaceOrder([1] + [1] * 1023, alike=range(1, 1024))
    assert order.listed.shape == (1024, 1025)
    shuffled = PlaceOrder([1] * 300)
    assert shuffled.listed is None and shuffled.n_words == 299
    assert (draw_orders(shuffled, 5)[:, :-1].sort(1).values == torch.arange(300)).all()


def test_shuffled_orders_are_equally_likely():
    order = PlaceOrder([1] * 7)  # 5,040 orders: too many to list
    assert order.listed is None
    rows = draw_orders(order, 60_000)
    assert (rows[:, -1] == 0).all()
    counts = collections.Counter(map(tuple, rows[:, :-1].tolist()))
    observed = [counts[row] for row in itertools.permutations(range(7))]
    assert sum(observed) == 60_000 and stats.chisquare(observed).pvalue > 1e-3


def test_shuffle_with_copies():
    order = PlaceOrder([5, 5, 1, 1, 1, 1])
    assert order.listed is None
    rows = draw_orders(order, 20_000)[:, :-1]
    assert ((rows == 0).sum(1) == 5).all() and ((rows == 1).sum(1) == 5).all()
    for slot, n_copies in enumerate([5, 5, 1, 1, 1, 1]):
        share = (rows == slot).to(torch.float64).mean(0)
        assert float((share - n_copies / 14).abs().max()) < 0.015  # four standard errors


def test_listed_orders_are_equally_likely():
    order = PlaceOrder([2, 2, 1])
    counts = collections.Counter(map(tuple, draw_orders(order, 30_000).tolist()))
    assert len(counts) == 30 and stats.chisquare(list(counts.values())).pvalue > 1e-3
