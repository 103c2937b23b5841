"""Sequences as a `datasets` data set: builder, registration, export, and a look at a few of them.

Each name is loaded when it is first asked for, so that registering costs little.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "DatasetConfig": "hf_icl.data.config",
    "HfIclSequences": "hf_icl.data.builder",
    "SequencesConfig": "hf_icl.data.builder",
    "batch_from_rows": "hf_icl.data.rows",
    "export_parquet": "hf_icl.data.export",
    "load_dataset": "hf_icl.data.builder",
    "parse_arguments": "hf_icl.data.config",
    "register": "hf_icl.data.packaged",
    "render_sequences": "hf_icl.data.show",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_icl.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
