"""A loss that is no number any more: since which step, seen without waiting for the device at each."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_icl.distributed import map_spread

NEVER = -1


class LossWatch:
    """Remembers the first step at which each of some losses was infinite or not a number.

    Args:
        n: How many losses.
        device: Where they are.

    >>> watch = LossWatch(2)
    >>> for step, losses in enumerate([[1.0, 2.0], [float("nan"), 2.0], [3.0, 2.0]], start=1):
    ...     watch.note(torch.tensor(losses), step)
    >>> watch.find(0), watch.find(1)
    (2, None)
    """

    def __init__(self, n: int = 1, device: torch.device | str = "cpu") -> None:
        self._first_N = torch.full((n,), NEVER, device=device)

    def note(self, losses_N: Tensor, step: int) -> None:
        """Take the losses of a step, shape (n,), or () for one."""
        is_first_N = losses_N.detach().isfinite().logical_not() & (self._first_N == NEVER)
        self._first_N = torch.where(is_first_N, step, self._first_N)

    def find(self, index: int = 0) -> int | None:
        """Return the first such step of one loss, None if there is none; waits for the device."""
        step = int(self._first_N[index])
        return None if step == NEVER else step


def agree(step: int | None, n_processes: int) -> int | None:
    """Return the first of the steps that the processes of a training have found; all must call."""
    found = map_spread(lambda job: step, n_processes) if n_processes > 1 else [step]
    return min((each for each in found if each is not None), default=None)
