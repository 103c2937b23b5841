"""The generator: published vectors, what a word depends on, and the distributions made from words."""

import itertools
import math

import pytest
import torch
from scipy import stats

from hf_icl.errors import ConfigError
from hf_icl.philox import (
    check_key,
    distinct_below,
    draw_words,
    normals,
    philox_4x32,
    stream_of,
    uniform_below,
)

ALL_ONES = 0xFFFFFFFF
# The vectors for philox4x32-10 that the Random123 library publishes (its file kat_vectors).
KNOWN_ANSWERS = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ALL_ONES] * 4, (ALL_ONES, ALL_ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter, key, words):
    assert philox_4x32(torch.tensor(counter), key).tolist() == words
    assert philox_4x32(torch.tensor([[counter] * 3] * 2), key).tolist() == [[words] * 3] * 2


def test_place_of_each_part_in_counter_and_key():
    """The counter is index low, index high, block, stream; the key seed low, seed high."""
    counter, key = [0xFFFFFFF1, 0x05A308D3, 0x13198A2E, 0xF3707344], (0xA4093822, 0xF99F31D0)
    words = draw_words(
        torch.tensor([counter[0] | counter[1] << 32]),
        8,
        seed=key[0] | key[1] << 32,
        stream=counter[3],
        first_block=counter[2],
    )
    assert words[0, :4].tolist() == philox_4x32(torch.tensor(counter), key).tolist()
    counter[2] += 1
    assert words[0, 4:].tolist() == philox_4x32(torch.tensor(counter), key).tolist()
    assert draw_words(torch.tensor([0]), 4, seed=0, stream=0)[0].tolist() == KNOWN_ANSWERS[0][2]


def test_counters_are_left_as_they_were():
    counter = torch.arange(8).view(2, 4)
    philox_4x32(counter, (1, 2))
    assert counter.tolist() == torch.arange(8).view(2, 4).tolist()


def test_words_do_not_depend_on_batch_or_number_of_words():
    index = torch.arange(40_000)
    whole = draw_words(index, 11, seed=3, stream=4)
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:999]
    assert torch.equal(draw_words(index[order], 11, seed=3, stream=4), whole[order])
    assert torch.equal(draw_words(index, 6, seed=3, stream=4), whole[:, :6])
    assert torch.equal(draw_words(index[:10], 3, seed=3, stream=4, first_block=2), whole[:10, 8:])
    many = draw_words(index[:3], 40_001, seed=3, stream=4)  # more blocks than are worked on at once
    assert torch.equal(many[:, :11], whole[:3]) and len(many[0].unique()) > 40_000 - 5


def test_a_block_for_each_index():
    index, blocks = torch.tensor([7, 7, 8]), torch.tensor([5, 6, 5])
    words = draw_words(index, 4, seed=1, stream=1, first_block=blocks)
    alone = [
        draw_words(index[i : i + 1], 4, seed=1, stream=1, first_block=int(block))
        for i, block in enumerate(blocks)
    ]
    assert torch.equal(words, torch.cat(alone))


def test_every_part_of_the_counter_and_key_matters():
    base = {"index": 0, "seed": 0, "stream": 0, "first_block": 0}
    changes = [
        ("index", 1),
        ("index", 1 << 32),
        ("seed", 1),
        ("seed", 1 << 32),
        ("stream", 1),
        ("first_block", 1),
    ]
    seen = set()
    for name, value in [("index", 0), *changes]:
        arguments = base | {name: value}
        words = draw_words(torch.tensor([arguments.pop("index")]), 4, **arguments)
        seen.add(tuple(words[0].tolist()))
    assert len(seen) == 1 + len(changes)


def test_words_are_32_bit_and_uniform():
    words = draw_words(torch.arange(20_000), 4, seed=9, stream=0).flatten()
    assert 0 <= int(words.min()) and int(words.max()) < 1 << 32
    for bits in (words >> 24, words & 0xFF):
        assert stats.chisquare(bits.bincount(minlength=256).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 1 << 31])
def test_uniform_below_by_hand(n):
    words = torch.tensor([0, 1 << 31, ALL_ONES])
    assert uniform_below(words, n).tolist() == [0, n // 2, n - 1]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 3), (4, 2), (5, 3), (6, 1)])
def test_distinct_below_draws_every_ordered_choice_equally(n, k):
    columns = list(draw_words(torch.arange(30_000), k, seed=n, stream=k).unbind(1))
    picked = torch.stack(distinct_below(columns, n), dim=1).tolist()
    counts = dict.fromkeys(itertools.permutations(range(n), k), 0)
    for row in picked:
        counts[tuple(row)] += 1  # a repeated or foreign value would be a KeyError
    assert sum(counts.values()) == 30_000
    assert len(counts) == 1 or stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_distinct_below_among_many_values():
    columns = list(draw_words(torch.arange(500), 40, seed=0, stream=0).unbind(1))
    picked = torch.stack(distinct_below(columns, 41), dim=1)
    assert all(len(set(row)) == 40 and set(row) < set(range(41)) for row in picked.tolist())


def test_normals_by_hand():
    """Box and Muller: sqrt(-2 ln u) times cosine and sine of 2 pi v,
    u and v at the middle of a word's interval."""
    words = draw_words(torch.tensor([12]), 4, seed=5, stream=6, first_block=1 << 30)[0].tolist()
    u = [(word + 0.5) / 2**32 for word in words]
    radius, angle = math.sqrt(-2 * math.log(u[0])), 2 * math.pi * u[1]
    third = math.sqrt(-2 * math.log(u[2])) * math.cos(2 * math.pi * u[3])
    expected = [radius * math.cos(angle), radius * math.sin(angle), third]
    assert normals(torch.tensor([12]), 3, seed=5, stream=6)[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_normals_are_normal_and_independent_of_the_batch():
    z = normals(torch.arange(3_001), 7, seed=1, stream=2)
    assert z.dtype == torch.float32
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    correlations = torch.corrcoef(z.T) - torch.eye(7)
    assert float(correlations.abs().max()) < 0.08  # four standard errors
    assert torch.equal(normals(torch.arange(3_001)[17:23], 7, seed=1, stream=2), z[17:23])


def test_streams_of_names():
    assert stream_of("123456789") == 0xCBF43926  # the check value that defines CRC-32
    assert len({stream_of(name) for name in ("train", "icl", "icl_holdout", "iwl", "ciwl", "flip")}) == 6


@pytest.mark.parametrize(
    ("seed", "stream", "text"),
    [
        (-1, 0, "seed = -1: seed must be in"),
        (1 << 64, 0, "seed = "),
        (0, 1 << 32, "stream = 4294967296: stream must"),
    ],
)
def test_keys_out_of_range(seed, stream, text):
    with pytest.raises(ConfigError, match=text):
        check_key(seed, stream)
