"""How a row of a history is written as a line: with a checksum over itself and the line before.

So a line that was changed, lost, doubled or moved is seen. Lines of version 0.1.0 have none and are read as
they are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from hf_icl.reading import parse_json

Row = dict[str, Any]
MARK = b'{"crc":"'
PREFIX_BYTES = len(MARK) + 8 + len(b'",')
PLAIN_MARK = b'{"step":'  # a line without a checksum


def encode_row(row: Mapping[str, Any], before: bytes = b"") -> bytes:
    """Return a row as a line.

    Args:
        row: What it says.
        before: The line before, empty for the first.

    >>> first = encode_row({"step": 0})
    >>> first
    b'{"crc":"e102daf6","step":0}\\n'
    >>> encode_row({"step": 0}, first)
    b'{"crc":"b9e633ce","step":0}\\n'
    """
    body = json.dumps(row, separators=(",", ":"), allow_nan=True).encode()[1:] + b"\n"
    return MARK + _checksum(body, before) + b'",' + body


def _checksum(body: bytes | memoryview, before: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body, zlib.crc32(before[:PREFIX_BYTES]) if before else 0)


def check_lines(block: bytes, ends: Sequence[int], before: bytes) -> int | None:
    """Return which of the lines that end at `ends` is not as it was written, None if all are.

    Args:
        block: Their bytes.
        ends: Where each line ends, its line break included.
        before: The line before the first, empty if there is none.
    """
    start, view = 0, memoryview(block)
    for number, end in enumerate(ends):
        head = block[start : start + PREFIX_BYTES]
        if head.startswith(MARK):
            if head[len(MARK) : -2] != _checksum(view[start + PREFIX_BYTES : end], before):
                return number
        elif not head.startswith(PLAIN_MARK):
            return number
        start, before = end, head
    return None


def decode_row(line: bytes) -> Row:
    """Return what a line says, which `check_lines` has found as it was written.

    Raises:
        ValueError: If it is no JSON object.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    row.pop("crc", None)
    return row
