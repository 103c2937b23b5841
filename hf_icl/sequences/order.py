"""Which slot stands at which place: uniformly random orders of the context, the query last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from hf_icl.philox import uniform_below

MAX_LISTED = 4096  # orders; a table of them is read in one look-up and still fits into the cache


class PlaceOrder:
    """Draw the order of a context's places, every distinct order equally likely.

    Where there are few orders they are listed once and one word picks a row; else Fisher and Yates's shuffle
    takes a word per place.

    Args:
        copies: How many context places each slot fills. Slot 0 is the query's and also fills the last place.
        alike: Slots that may stand in any order without changing the distribution; they keep their own one.
        device: Where the draws are made.

    >>> order = PlaceOrder([1, 1, 1, 1], alike=[2, 3])
    >>> order.n_words, len(order.listed)
    (1, 12)
    >>> order.draw(iter([torch.tensor([0, 2**32 - 1])]), 2).tolist()
    [[0, 1, 2, 3, 0], [2, 3, 1, 0, 0]]
    """

    def __init__(
        self, copies: Sequence[int], *, alike: Sequence[int] = (), device: str | torch.device = "cpu"
    ) -> None:
        self.places = [slot for slot, n_copies in enumerate(copies) for _ in range(n_copies)]
        self.device = device
        self.listed = None
        kinds = [n for slot, n in enumerate(copies) if slot not in alike] + [len(alike)]
        n_orders = math.factorial(len(self.places)) // math.prod(math.factorial(n) for n in kinds)
        if n_orders <= MAX_LISTED:
            stand_ins = [alike[0] if slot in alike else slot for slot in self.places]
            rows = [_tell_apart(row, alike) + [0] for row in _list_orders(stand_ins)]
            self.listed = torch.tensor(rows, device=device)
        self.n_words = len(self.places) - 1 if self.listed is None else 1

    def draw(self, words: Iterator[torch.Tensor], n_rows: int) -> torch.Tensor:
        """Return the slot at each place, int64 (n_rows, n_context + 1), taking `n_words` words (n_rows,)."""
        if self.listed is not None:
            return self.listed.index_select(0, uniform_below(next(words), len(self.listed)))
        order = torch.tensor([*self.places, 0], device=self.device)[:, None].repeat(1, n_rows)
        for last in range(len(self.places) - 1, 0, -1):
            pick = uniform_below(next(words), last + 1)[None]
            picked = order.gather(0, pick)
            order.scatter_(0, pick, order[last : last + 1].clone())
            order[last : last + 1] = picked
        return order.T.contiguous()


def _list_orders(items: Sequence[int]) -> list[list[int]]:
    """List the distinct orders of sorted items, each row the next greater one after the row before."""
    row = list(items)
    rows = [row.copy()]
    while (rise := next((i for i in range(len(row) - 2, -1, -1) if row[i] < row[i + 1]), None)) is not None:
        swap = next(i for i in range(len(row) - 1, rise, -1) if row[i] > row[rise])
        row[rise], row[swap] = row[swap], row[rise]
        row[rise + 1 :] = row[:rise:-1]
        rows.append(row.copy())
    return rows


def _tell_apart(row: list[int], alike: Sequence[int]) -> list[int]:
    """Give the places of the stand-in, `alike[0]`, to all the slots alike, in their order."""
    turn = iter(alike)
    return [next(turn) if slot in alike else slot for slot in row]
