"""Compile a function where the machine can, and say so where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


def compile_whole(function: Callable, *, unguarded: tuple[str, ...]) -> Callable:
    """Return `torch.compile(function)`, for one stack at a time.

    The first call takes seconds to minutes; torch keeps what it has compiled on disk for later processes.

    Args:
        function: What to compile, for arguments of one shape.
        unguarded: Names of arguments that torch need not check anew at every call: their shapes follow from the
            others', and there are so many of them that checking takes a tenth of a small step.
    """
    torch.compiler.reset()  # else the ninth stack of a process would run uncompiled: torch counts them per function
    options = {"guard_filter_fn": lambda guards: [not _concerns(guard, unguarded) for guard in guards]}
    return torch.compile(function, dynamic=False, options=options)


def _concerns(guard, names: tuple[str, ...]) -> bool:
    return any(guard.name.startswith((f"L['{name}']", f"{name}[")) for name in names)


def can_compile() -> bool:
    """Return whether torch can compile on this machine, found by trying it on a sum; log why where it cannot.

    It needs a C++ compiler (`apt install g++`) and Python's headers.
    """
    try:
        torch.compile(_add)(torch.ones(2))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning("steps are not compiled, so they take about twice as long: %s", reason)
        return False
    return True


def _add(x: torch.Tensor) -> torch.Tensor:
    return x + 1
