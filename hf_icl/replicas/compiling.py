"""Compile a function where the machine can, and say so where it cannot."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

COMPILERS = ("g++", "clang++", "c++")


def compile_if_possible(function: Callable, device: torch.device) -> Callable:
    """Return `torch.compile(function)`; on a CPU without a C++ compiler the function itself, with a warning.

    The first call takes seconds to minutes; torch keeps what it has compiled on disk for later processes.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if device.type == "cpu" and (compiler is None or shutil.which(compiler) is None):
        logger.warning(
            "no C++ compiler was found: steps run uncompiled, about half as fast (apt install g++)"
        )
        return function
    return torch.compile(function, dynamic=False)
