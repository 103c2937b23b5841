"""The numbers of a history by column, eight bytes each, so that a million rows fit into memory and are read
in seconds."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.json

from hf_icl.history.lines import check_lines

Numbers = Sequence[float] | np.ndarray
SMALL_BYTES = 1 << 20  # up to here Python reads JSON soon enough
HITS = b',"hits":{'  # as a row is written
NO_COUNT, NO_VALUE = -1, -np.inf  # what a row does not say; a diverged loss is not-a-number


class Columns:
    """Steps, sequences and metrics of some rows, in the rows' order.

    Attributes:
        steps: Optimizer steps done, int64.
        sequences: Training sequences seen, int64; −1 where a row does not say.
        metrics: Metric name to values, float64; negative infinity where a row does not have it.

    >>> columns = Columns.of([{"step": 0, "metrics": {"a": 0.5}}, {"step": 9, "metrics": {"b": 1}}])
    >>> [values.tolist() for values in columns.curve("b")]
    [[9], [1.0]]
    """

    def __init__(self) -> None:
        self.steps, self.sequences = array("q"), array("q")
        self.metrics: dict[str, array] = {}

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Return the columns of rows, which a `History`'s rows have already."""
        known = getattr(rows, "columns", None)
        if isinstance(known, Columns):
            return known
        columns = cls()
        for row in rows:
            columns.append(row)
        return columns

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row at the end.

        Raises:
            TypeError: If what should be numbers are none.
        """
        metrics = {name: NO_VALUE if value is None else value for name, value in row["metrics"].items()}
        step, sequences = row["step"], row.get("sequences")
        for name in metrics.keys() - self.metrics.keys():
            self.metrics[name] = array("d", [NO_VALUE]) * len(self)
        for name, column in self.metrics.items():
            column.append(metrics.get(name, NO_VALUE))
        self.sequences.append(NO_COUNT if sequences is None else sequences)
        self.steps.append(step)

    def extend(self, other: Columns) -> None:
        """Add all rows of others at the end."""
        for name in other.metrics.keys() - self.metrics.keys():
            self.metrics[name] = array("d", [NO_VALUE]) * len(self)
        for name, column in self.metrics.items():
            column.extend(other.metrics.get(name, array("d", [NO_VALUE]) * len(other)))
        self.sequences.extend(other.sequences)
        self.steps.extend(other.steps)

    def cut(self, n_rows: int) -> None:
        """Keep the first rows only."""
        for column in (self.steps, self.sequences, *self.metrics.values()):
            del column[n_rows:]

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of one metric where it is known, two arrays of one length."""
        if metric not in self.metrics:
            return np.empty(0, np.int64), np.empty(0)
        steps, values = np.array(self.steps), np.array(self.metrics[metric])
        known = values != NO_VALUE
        return (steps, values) if known.all() else (steps[known], values[known])


def clean_points(steps: Numbers, values: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Return finite points by rising step, the last of equal steps, as two float64 arrays of one length.

    >>> clean_points([2, 1, 2], [0.5, None, 0.7])
    (array([2.]), array([0.7]))
    """
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if not (steps[1:] > steps[:-1]).all():
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    kept = np.isfinite(steps) & np.isfinite(values)
    kept[:-1] &= steps[1:] != steps[:-1]
    return (steps, values) if kept.all() else (steps[kept], values[kept])


def read_columns(block: bytes, ends: Sequence[int], before: bytes = b"") -> Columns | None:
    """Return the columns of a history's lines; None if a line is not like the others.

    Then, as where they are few, it is Python's to read them one by one, and to say what is wrong with them.

    Args:
        block: Bytes of the lines.
        ends: Where each line ends.
        before: The line before the first.
    """
    if ends[-1] < SMALL_BYTES or check_lines(block, ends, before) is not None:
        return None
    try:
        names = list(json.loads(block[: ends[0]])["metrics"])
        metrics = pa.struct([(name, pa.float64()) for name in names])
        schema = pa.schema(
            {"crc": pa.string(), "step": pa.int64(), "sequences": pa.int64(), "metrics": metrics}
        )
        numbers = _without_hits(block, ends)
        table = pa.json.read_json(
            pa.BufferReader(numbers),
            pa.json.ReadOptions(use_threads=False, block_size=len(numbers)),
            pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
        columns = Columns()
        columns.steps.frombytes(_plain(table["step"]).tobytes())
        columns.sequences.frombytes(_plain(table["sequences"]).tobytes())
        if table["metrics"].null_count:
            return None
        metrics = table["metrics"].combine_chunks()
        for name in names:
            values = metrics.field(name).fill_null(NO_VALUE).to_numpy()
            columns.metrics[name] = array("d", values.tobytes())
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError, AttributeError):
        return None
    return columns if len(columns) == len(ends) else None


def _without_hits(block: bytes, ends: Sequence[int]) -> bytes:
    """Return lines without their hits, which are half of the bytes and no numbers.

    Raises:
        ValueError: If a line does not end in hits that are as long as the first one's.
    """
    n_tail = ends[0] - block.index(HITS, 0, ends[0])
    stops = [end - n_tail for end in ends]
    if not all(block.startswith(HITS, stop) for stop in stops):
        raise ValueError("a line is not as a row is written")
    lines, parts = memoryview(block), [b"}\n"] * (2 * len(ends))
    parts[::2] = [lines[start:stop] for start, stop in zip([0, *ends], stops, strict=False)]
    return b"".join(parts)


def _plain(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of whole numbers.

    Raises:
        ValueError: If a row lacks it.
    """
    if column.null_count:
        raise ValueError("a row lacks a number")
    return column.to_numpy()
