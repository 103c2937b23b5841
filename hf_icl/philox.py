"""Philox 4x32-10, a counter-based random generator, in integer tensor operations.

A word is a function of (seed, stream, index, block) and of nothing else, with the same bits on every device:
the i-th sequence is the same whoever draws it, in whatever batch, after whatever came before. Words are
32-bit unsigned numbers held in int64.

The `block` numbers of one index are shared out as follows: below 2^24 the sampler's draws, from
`POLYSEMY_BLOCK` one block per class, from `NOISE_BLOCK` the within-class noise.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import zlib

import torch

from hf_icl.errors import ConfigError

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
N_ROUNDS = 10

POLYSEMY_BLOCK = 1 << 24
NOISE_BLOCK = 1 << 30

SLAB_ITEMS = 16_384  # blocks worked on at once: the six buffers then stay in a core's L2 cache


def philox_4x32(counter: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """Encrypt counters: ten rounds of Philox.

    Args:
        counter: int64, shape (..., 4), each in [0, 2^32).
        key: Two numbers in [0, 2^32).

    Returns:
        Words, int64, shape (..., 4), each uniform in [0, 2^32).

    >>> words = philox_4x32(torch.zeros(1, 4, dtype=torch.int64), (0, 0))
    >>> [f"{word:08x}" for word in words[0].tolist()]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    columns = [column.clone(memory_format=torch.contiguous_format) for column in counter.unbind(-1)]
    _encrypt(columns, key)
    return torch.stack(columns, dim=-1)


def _encrypt(columns: list[torch.Tensor], key: tuple[int, int]) -> None:
    """Ten rounds in place on four tensors of one shape.

    A product of two 32-bit numbers wraps in int64 without losing a bit. Only the two words that the next
    round multiplies are cut back to 32 bits; the other two stay as whole products until the end.
    """
    c0, c1, c2, c3 = columns
    k0, k1 = key
    p0, p1 = torch.empty_like(c0), torch.empty_like(c0)
    for _ in range(N_ROUNDS):
        torch.mul(c0, MULTIPLIERS[0], out=p0)
        torch.mul(c2, MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=c0).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(MASK)
        torch.bitwise_right_shift(p0, 32, out=c2).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(MASK)
        c1, p1 = p1, c1
        c3, p0 = p0, c3
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    # An even number of rounds swaps the buffers back, so c1 and c3 are the caller's again.
    c1.bitwise_and_(MASK)
    c3.bitwise_and_(MASK)


def word_columns(
    index: torch.Tensor, n_words: int, *, seed: int, stream: int, first_block: int | torch.Tensor = 0
) -> list[torch.Tensor]:
    """Return the words of `draw_words` as `n_words` contiguous tensors of shape (batch,): the fast form."""
    n_blocks = -(-n_words // 4)
    blocks = torch.arange(n_blocks, device=index.device)[:, None] + first_block
    words = torch.empty(4, n_blocks, len(index), dtype=torch.int64, device=index.device)
    low, high = index & MASK, index >> 32
    step = max(1, SLAB_ITEMS // max(1, len(index)))
    for start in range(0, n_blocks, step):
        slab = list(words[:, start : start + step])
        for column, value in zip(slab, (low, high, blocks[start : start + step], stream), strict=True):
            column[:] = value
        _encrypt(slab, (seed & MASK, seed >> 32))
    return [column for block in words.unbind(1) for column in block.unbind(0)][:n_words]


def draw_words(
    index: torch.Tensor, n_words: int, *, seed: int, stream: int, first_block: int | torch.Tensor = 0
) -> torch.Tensor:
    """Draw the words that belong to each index.

    The counter is (index low, index high, block, stream), the key (seed low, seed high).

    Args:
        index: int64, shape (batch,), each ≥ 0.
        n_words: Words per index; a block holds four.
        seed: In [0, 2^64).
        stream: In [0, 2^32); `stream_of` makes one from a name.
        first_block: Block of the first word, one for all or one per index (batch,).

    Returns:
        int64, shape (batch, n_words), uniform in [0, 2^32).

    >>> index = torch.arange(1000)
    >>> words = draw_words(index, 6, seed=1, stream=2)
    >>> torch.equal(words[700:702], draw_words(index[700:702], 6, seed=1, stream=2))
    True
    """
    return torch.stack(word_columns(index, n_words, seed=seed, stream=stream, first_block=first_block), dim=1)


def uniform_below(words: torch.Tensor, n: int) -> torch.Tensor:
    """Map words to integers in [0, n), each value equally likely to within n / 2^32 of its probability.

    >>> uniform_below(torch.tensor([0, 2**31, 2**32 - 1]), 10).tolist()
    [0, 5, 9]
    """
    return (words * n) >> 32


def distinct_below(columns: list[torch.Tensor], n: int) -> list[torch.Tensor]:
    """Map k ≤ n words per row to k different integers in [0, n), every ordered choice equally likely.

    A shuffle of 0 … n − 1 of which only the first k picks are made, so the cost grows with k² and not with n.

    Args:
        columns: k tensors of words, each int64 (batch,).
        n: Number of values to choose from.

    Returns:
        k tensors, int64 (batch,), pairwise different in every row.

    >>> columns = [torch.tensor([0, 2**31]), torch.tensor([0, 2**31]), torch.tensor([0, 2**31])]
    >>> torch.stack(distinct_below(columns, 3), dim=1).tolist()
    [[0, 1, 2], [1, 2, 0]]
    """
    values: list[torch.Tensor] = []
    swaps: list[
        tuple[torch.Tensor, torch.Tensor]
    ] = []  # position picked, and the value that was put there instead
    for k, words in enumerate(columns):
        pick = uniform_below(words, n - k) + k
        value, moved = pick, torch.full_like(pick, k)
        for position, content in swaps:
            value = torch.where(position == pick, content, value)
            moved = torch.where(position == k, content, moved)
        values.append(value)
        swaps.append((pick, moved))
    return values


def normals(
    index: torch.Tensor, n: int, *, seed: int, stream: int, first_block: int = NOISE_BLOCK
) -> torch.Tensor:
    """Draw standard normal numbers for each index, by Box and Muller's transform of its words.

    Computed in float64 and rounded, so that devices whose logarithms differ in the last bit still agree.

    Args:
        index: int64, shape (batch,), each ≥ 0.
        n: Numbers per index.
        seed: In [0, 2^64).
        stream: In [0, 2^32).
        first_block: Block of the first word; the default keeps clear of the sampler's words.

    Returns:
        float32, shape (batch, n), between -6.8 and 6.8.

    >>> normals(torch.arange(2), 3, seed=0, stream=0).shape
    torch.Size([2, 3])
    """
    words = draw_words(index, n + n % 2, seed=seed, stream=stream, first_block=first_block)
    unit = words.to(torch.float64).add_(0.5).mul_(2.0**-32)
    radius = unit[:, 0::2].log().mul_(-2.0).sqrt_()
    angle = unit[:, 1::2] * (2.0 * torch.pi)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=2)
    return pairs.flatten(1)[:, :n].to(torch.float32)


def check_key(seed: int, stream: int) -> None:
    """Raise `ConfigError` unless `seed` fits into 64 bits and `stream` into 32."""
    if not 0 <= seed < 1 << 64:
        raise ConfigError("seed", seed, "seed must be in [0, 2^64)", "Take a whole number from 0 on.")
    if not 0 <= stream < 1 << 32:
        raise ConfigError("stream", stream, "stream must be in [0, 2^32)", "Take stream_of(name).")


def stream_of(name: str) -> int:
    """Return the stream of a name (its CRC-32), so that no evaluator's draws depend on the others.

    >>> stream_of("train"), stream_of("icl")
    (1550247075, 2995993770)
    """
    return zlib.crc32(name.encode())
