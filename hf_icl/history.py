"""The history of a run: one JSON row per evaluation, appended and flushed, safe to kill at any byte."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_icl.errors import RunError

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def make_row(step: int, sequences: int, metrics: Mapping[str, float], hits: Mapping[str, np.ndarray]) -> Row:
    """Build one row of a history.

    A row holds no time of day and no speed, so that a resumed run writes the same bytes.

    Args:
        step: Optimizer steps done.
        sequences: Training sequences seen.
        metrics: Metric name to mean value.
        hits: Metric name to per-sequence outcome (bool, shape (n_sequences,)), packed eight to a byte.

    >>> row = make_row(10, 640, {"icl/accuracy": 0.5}, {"icl/accuracy": np.array([True, False])})
    >>> row["hits"]
    {'icl/accuracy': 'gA=='}
    >>> unpack_hits(row["hits"]["icl/accuracy"], 2).tolist()
    [True, False]
    """
    packed = {name: base64.b64encode(np.packbits(values)).decode() for name, values in hits.items()}
    return {"step": step, "sequences": sequences, "metrics": dict(metrics), "hits": packed}


def unpack_hits(text: str, n_sequences: int) -> np.ndarray:
    """Return the boolean outcomes, shape (n_sequences,), that `make_row` packed."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n_sequences).astype(bool)


class History:
    """Rows in memory and in a file that is never left half-written.

    Args:
        path: A `.jsonl` file, made with its first row. None keeps the rows in memory only.

    Opening an existing file reads it. A torn last line, as a killed process leaves it, is cut off and logged; a line
    that is broken anywhere else is an error, because rows would be lost with it.

    Raises:
        RunError: If the file cannot be read or written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.rows: list[Row] = []
        if self.path is not None and self.path.exists():
            self.rows, n_bytes = _read(self.path)
            if n_bytes < self.path.stat().st_size:
                logger.warning("%s: cut off a last line that was written only in part", self.path)
                os.truncate(self.path, n_bytes)

    @property
    def last_step(self) -> int:
        """Step of the last row, −1 if there is none."""
        return self.rows[-1]["step"] if self.rows else -1

    def append(self, row: Row) -> None:
        """Add one row and hand it to the operating system before returning."""
        if self.path is not None:
            self._write(encode_row(row))
        self.rows.append(row)

    def cut_after(self, step: int) -> None:
        """Drop the rows after `step`: a resumed run measures them again."""
        self._replace([row for row in self.rows if row["step"] <= step])

    def restore(self, rows: Iterable[Row]) -> None:
        """Replace all rows, for a run whose history file was lost."""
        self._replace(list(rows))

    def _replace(self, rows: list[Row]) -> None:
        if rows != self.rows and self.path is not None:
            write_atomically(self.path, b"".join(map(encode_row, rows)))
        self.rows = rows

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                written = file.write(line)
                if written != len(line):
                    raise OSError(None, "the disk is full")
            except OSError as error:
                file.truncate(size)
                raise RunError(
                    f"{self.path}: a row could not be written ({error.strerror}). The rows before it are whole. "
                    "Free some space, then continue with: hf-icl resume"
                ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds either the old content or the new one, whenever the writer dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"{path}: could not be written ({error.strerror}). What was there before is whole."
        ) from error


def encode_row(row: Row) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=True).encode() + b"\n"


def _read(path: Path) -> tuple[list[Row], int]:
    """Return the rows and the number of bytes that hold them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}).") from error
    whole = data[: data.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({"step": row["step"], "sequences": row["sequences"], **row})
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}, line {number}: not a history row. "
                "Restore the file, or delete the lines from there on and resume the run from an earlier checkpoint."
            ) from error
    return rows, len(whole)
