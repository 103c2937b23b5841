"""Compile a function where the machine can, and say so where it cannot."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

OLDEST_TORCH = (2, 11)  # older ones do not compile gradients of functions with a derivative of their own


def compile_whole(function: Callable) -> Callable:
    """Return `torch.compile(function)`, for positional arguments of one shape.

    The first call takes seconds to minutes; torch keeps what it has compiled on disk for later processes.
    Before each call torch looks whether what it has compiled still holds. Here it does so for tensors that
    are arguments of their own; all else, such as tensors in dicts and what the function finds beside its
    arguments, must stay as it is: looking at hundreds of things would take a tenth of a small step.
    """

    @functools.wraps(function)
    def own(*arguments):
        return function(*arguments)

    # torch keeps what it has compiled with this object: to each its own
    own.__code__ = own.__code__.replace()
    options = {"guard_filter_fn": lambda guards: [_is_needed(guard.name) for guard in guards]}
    return torch.compile(own, dynamic=False, options=options)


def _is_needed(name: str) -> bool:
    return not name or re.fullmatch(r"(L\[')?arguments('\])?\[\d+\]", name) is not None


def can_compile() -> bool:
    """Return whether torch can compile on this machine; log why where it cannot."""
    if (obstacle := find_obstacle()) is not None:
        logger.warning("steps are not compiled, so they take about twice as long: %s", obstacle)
    return obstacle is None


@functools.cache
def find_obstacle() -> str | None:
    """Return why torch cannot compile on this machine, None if it can: found by trying it on a sum,
    once per process.

    It needs torch 2.11 or newer, a C++ compiler (`apt install g++`) and Python's headers.
    """
    if torch.__version__ < OLDEST_TORCH:
        return f"torch {torch.__version__} is older than {'.'.join(map(str, OLDEST_TORCH))}"
    try:
        torch.compile(_add)(torch.ones(2))
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def _add(x: torch.Tensor) -> torch.Tensor:
    return x + 1
