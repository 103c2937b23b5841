"""Rooms whose names are loaded when they are first asked for,
so that importing one of them costs what that one costs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package that hands on names of its modules.

    Args:
        package: Its `__name__`.
        homes: Module to the names in it that the package hands on.

    >>> find, _, names = attach("mine", {"hf_icl.config": ["merge"], "hf_icl.errors": ["RunError"]})
    >>> names, find("merge").__module__
    (['RunError', 'merge'], 'hf_icl.config')
    >>> find("murge")
    Traceback (most recent call last):
        ...
    AttributeError: module 'mine' has no attribute 'murge'
    """
    home = {name: module for module, names in homes.items() for name in names}
    every = sorted(home)

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    return find, lambda: every, every
