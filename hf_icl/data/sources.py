"""The name that data sets go by, and a hash of the code behind them. Imports nothing heavy: `import hf_icl` runs it."""

from __future__ import annotations

import hashlib
from pathlib import Path

NAME = "hf_icl"
BUILDER_MODULE = "hf_icl.data.builder"
PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = ("*.py", "banks/*.py", "data/*.py")  # models and reports are downstream of the rows


def fingerprint_sources(package: Path = PACKAGE) -> str:
    """Hash the source files that can shape rows, so that no cache outlives the code that wrote it.

    >>> len(fingerprint_sources())
    32
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]
