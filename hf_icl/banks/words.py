"""Which tokens a person would choose: exemplars that can be read, labels that are words unlike others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character decodes to
NEAR_SHARE = 5000  # one in so many tokens counts as a near neighbour, and the nearest in any case
ROWS_AT_ONCE = 512


def is_readable(name: str) -> bool:
    """Return whether a token's text shows: neither blank, nor with parts of a character or control signs.

    >>> [is_readable(name) for name in (" cat", "ing", ";", "猫", " \\ufffd", " ", "\\n", "a\\x07", "")]
    [True, True, True, True, False, False, False, False, False]
    """
    text = name.strip(" ")
    return bool(text) and BROKEN not in text and text.isprintable() and not text.isspace()


def is_word(name: str) -> bool:
    """Return whether a token's text begins with a space and is a word of letters, two or more.

    >>> [is_word(name) for name in (" cat", " Chat", "cat", " a", " cat's", " 12", " \\ufffdab")]
    [True, True, False, False, False, False, False]
    """
    return name.startswith(" ") and len(name) > 2 and name[1:].isalpha()


def count_near(n_tokens: int) -> int:
    """Return how many tokens are near neighbours of one.

    >>> count_near(1_000), count_near(49_152), count_near(128_000)
    (1, 10, 26)
    """
    return max(1, round(n_tokens / NEAR_SHARE))


def choose_labels(
    tokens: Tensor, vectors: np.ndarray, order: Tensor, names: Mapping[int, str], n_labels: int
) -> tuple[Tensor, Tensor]:
    """Choose label tokens that are whole words, unlike one another, and say what else is too much like them.

    Words are taken in an order; one is passed over if it is a near neighbour of one that was taken, or has
    such for a near neighbour, or differs from it in nothing but upper and lower case.

    Args:
        tokens: All that can be used, int64 (n_tokens,).
        vectors: What says which are near, float32 (n_tokens, D).
        order: Places in `tokens`, int64 (n_tokens,).
        names: Text of each token.
        n_labels: The most that are chosen.

    Returns:
        The labels, int64 (up to n_labels,), and the tokens left over that may be exemplars beside them, in
        ascending order.
    """
    known = [names[token] for token in tokens.tolist()]
    words = [place for place in order.tolist() if is_word(known[place])]
    table = torch.from_numpy(vectors)
    n_near = min(count_near(len(tokens)), len(tokens) - 1)
    squares = table.square().sum(1)
    chosen: list[int] = []
    taken, near, spelt = set(), set(), set()
    for start in range(0, len(words), ROWS_AT_ONCE):
        part = words[start : start + ROWS_AT_ONCE]
        distances = squares - 2 * table[part] @ table.T
        distances[torch.arange(len(part)), torch.tensor(part)] = torch.inf
        neighbours = distances.topk(n_near, largest=False).indices.tolist()
        for place, around in zip(part, neighbours, strict=True):
            if len(chosen) == n_labels:
                break
            spelling = _spell(known[place])
            if place in near or spelling in spelt or not taken.isdisjoint(around):
                continue
            chosen.append(place)
            taken.add(place)
            near.update(around)
            spelt.add(spelling)
        if len(chosen) == n_labels:
            break
    left = [
        place
        for place, name in enumerate(known)
        if place not in taken and place not in near and _spell(name) not in spelt
    ]
    return tokens[chosen], tokens[left]


def _spell(name: str) -> str:
    return name.strip().casefold()
