"""Rooms whose names are loaded when they are first asked for,
so that importing one of them costs what that one costs."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package that hands on names of its modules.

    Which names, and of which modules, stands once, in the stub beside the package's `__init__.py`: lines
    `from module import Name as Name`, which type checkers, editors and documentation read too.

    Args:
        package: Its `__name__`.
        file: Its `__file__`; the stub is the `__init__.pyi` in the same folder.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "__init__.py"
    >>> _ = file.with_suffix(".pyi").write_text("from hf_icl.config import merge as merge")
    >>> find, _, names = attach("mine", str(file))
    >>> names, find("merge").__module__
    (['merge'], 'hf_icl.config')
    >>> find("murge")
    Traceback (most recent call last):
        ...
    AttributeError: module 'mine' has no attribute 'murge'
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    home = {alias.name: str(node.module) for node in imports for alias in node.names}
    every = sorted(home)

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    return find, lambda: every, every
