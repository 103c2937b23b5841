"""The history of a run: one JSON row per evaluation, appended and flushed, safe to kill at any byte."""

from __future__ import annotations

import base64
import logging
import os
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hf_icl.errors import FileError, RunError
from hf_icl.files import find_way_out, write_whole
from hf_icl.history.columns import NO_VALUE, Columns, read_columns
from hf_icl.history.lines import PREFIX_BYTES, Row, check_lines, decode_row, encode_row
from hf_icl.wording import render_table

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.jsonl"
BLOCK_BYTES = 1 << 22  # of a file read at once
LAST_BYTES = 1 << 16  # of a file's end, read for its last row
N_READERS = 2
ROWS_AT_ONCE = 1000


ANSWER_TYPE = np.dtype([("label", "<i4"), ("probability", "<f4")])


def make_row(
    step: int,
    sequences: int,
    metrics: Mapping[str, float],
    hits: Mapping[str, np.ndarray],
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Row:
    """Build one row of a history.

    A row holds no time of day and no speed, so that a resumed run writes the same bytes.

    Args:
        step: Optimizer steps done.
        sequences: Training sequences seen.
        metrics: Metric name to mean value.
        hits: Metric name to per-sequence outcome (bool, shape (n_sequences,)), packed eight to a byte.
        answers: Evaluator name to what the model answered to its first sequences: labels, and the
            probabilities that it gave the right ones, both of shape (n_answers,); packed in 8 bytes each.

    >>> row = make_row(10, 640, {"icl/accuracy": 0.5}, {"icl/accuracy": np.array([True, False])})
    >>> row["hits"]
    {'icl/accuracy': 'gA=='}
    >>> unpack_hits(row["hits"]["icl/accuracy"], 2).tolist()
    [True, False]
    """
    packed = {name: base64.b64encode(np.packbits(values)).decode() for name, values in hits.items()}
    row = {"step": step, "sequences": sequences, "metrics": dict(metrics), "hits": packed}
    if answers:
        row["answers"] = {name: _pack_answers(*pair) for name, pair in answers.items()}
    return row


def _pack_answers(labels: np.ndarray, probabilities: np.ndarray) -> str:
    packed = np.empty(len(labels), ANSWER_TYPE)
    packed["label"], packed["probability"] = labels, probabilities
    return base64.b64encode(packed.tobytes()).decode()


def unpack_answers(text: str) -> np.ndarray:
    """Return the answers that `make_row` packed: fields `label` and `probability`, shape (n_answers,).

    Raises:
        ValueError: If it is not what `make_row` makes.

    >>> row = make_row(10, 640, {}, {}, {"icl": (np.array([3, -1]), np.array([0.5, np.nan]))})
    >>> unpack_answers(row["answers"]["icl"])["label"].tolist()
    [3, -1]
    """
    return np.frombuffer(base64.b64decode(text, validate=True), ANSWER_TYPE)


def unpack_hits(text: str, n_sequences: int) -> np.ndarray:
    """Return the boolean outcomes, shape (n_sequences,), that `make_row` packed."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n_sequences).astype(bool)


class Rows(Sequence[Row]):
    """The rows of a history: their numbers in memory by column, the rest in the file, if there is one.

    A row is read from the file when it is asked for; `list(rows)` holds them whatever becomes of the file.

    Attributes:
        columns: The numbers.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.columns = Columns()
        self._path = path
        self._ends = array("q")  # of each row's line in the file
        self._kept: list[Row] = []  # without a file
        self._last_line: bytes | None = b""  # its beginning; None: to be read from the file

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, place):
        """Return a row, or a list of the rows of a slice."""
        numbers = range(len(self))[place]
        if isinstance(numbers, range):
            return self._fetch(numbers)
        return self._fetch([numbers])[0]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self[start : start + ROWS_AT_ONCE]

    def __repr__(self) -> str:
        return f"Rows({len(self):,})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _fetch(self, numbers: Sequence[int]) -> list[Row]:
        if self._path is None or not numbers:
            return [self._kept[number] for number in numbers]
        with _open(self._path) as file:
            return [_decode(self._path, number, self._read_line(file, number)) for number in numbers]

    def _read_line(self, file, number: int) -> bytes:
        start = self._ends[number - 1] if number else 0
        file.seek(start)
        return file.read(self._ends[number] - start)

    @property
    def n_bytes(self) -> int:
        """Bytes of the file that hold whole rows."""
        return self._ends[-1] if self._ends else 0

    @property
    def last_line(self) -> bytes:
        """How the last row's line in the file begins, empty if there is none."""
        if self._last_line is None:
            with _open(self._path) as file:
                self._last_line = self._read_line(file, len(self) - 1)[:PREFIX_BYTES] if self else b""
        return self._last_line

    def read_bytes(self, n_rows: int) -> bytes:
        """Return the file's lines of the first rows, as they are."""
        with _open(self._path) as file:
            return file.read(self._ends[n_rows - 1] if n_rows else 0)

    def append(self, row: Row, line: bytes = b"") -> None:
        """Add a row, which was written to the file, if there is one, as this line."""
        self.columns.append(row)
        if self._path is None:
            self._kept.append(row)
        else:
            self._ends.append(self.n_bytes + len(line))
            self._last_line = line[:PREFIX_BYTES]

    def cut(self, n_rows: int) -> None:
        """Keep the first rows only."""
        self.columns.cut(n_rows)
        del self._ends[n_rows:], self._kept[n_rows:]
        self._last_line = None

    def read(self) -> None:
        """Read the file, but for a torn last line.

        Raises:
            RunError: If the file cannot be read, or a line is broken.
        """
        waiting: deque[tuple] = deque()
        with _open(self._path) as file, ThreadPoolExecutor(N_READERS) as readers:
            before = b""
            for block, ends in _read_blocks(self._path, file):
                columns = readers.submit(read_columns, block, ends, before)
                waiting.append((block, ends, before, columns))
                before = block[ends[-2] if len(ends) > 1 else 0 :][:PREFIX_BYTES]
                if len(waiting) > N_READERS:
                    self._take(*waiting.popleft())
            while waiting:
                self._take(*waiting.popleft())
        self._last_line = None

    def _take(self, block: bytes, ends: list[int], before: bytes, found: Future[Columns | None]) -> None:
        """Add lines of the file; those whose columns were not found are read one by one."""
        columns = found.result()
        if columns is None:
            if (broken := check_lines(block, ends, before)) is not None:
                rule = "is no row as it was written here, or not in its place"
                raise _refuse(self._path, len(self) + broken, rule)
            columns = Columns()
            for number, (start, end) in enumerate(pairwise([0, *ends]), start=len(self)):
                columns.append(_decode(self._path, number, block[start:end]))
        steps = np.array([self.columns.steps[-1] if self else -1, *columns.steps])
        if not (steps[1:] > steps[:-1]).all():
            number = int((steps[1:] <= steps[:-1]).argmax())
            rule = f"step {steps[number + 1]} cannot come after step {steps[number]}"
            raise _refuse(self._path, len(self) + number, rule)
        start = self.n_bytes
        self._ends.extend([start + end for end in ends])
        self.columns.extend(columns)


class History:
    """Rows, in a file that is never left half-written.

    Args:
        path: A `.jsonl` file, made with its first row. None keeps the rows in memory only.

    Opening an existing file reads it, and never changes it: a run may still be writing. A torn last line, as
    a killed process leaves it, is left out and logged, and cut off when a row is appended; a line that is
    broken anywhere else is an error, because rows would be lost with it.

    Raises:
        RunError: If the file cannot be read or written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.rows = Rows(self.path)
        if self.path is not None and self.path.exists():
            self.rows.read()

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else repr(str(self.path))
        steps = f", steps {self.rows.columns.steps[0]:,} to {self.last_step:,}" if self.rows else ""
        return f"History({where}: {len(self.rows):,} rows{steps})"

    def _repr_html_(self) -> str:
        return self.render_html([name for name in self.rows.columns.metrics if name.endswith("/accuracy")])

    def render_html(self, metrics: Sequence[str], n_rows: int = 10) -> str:
        """Return the last rows as an HTML table, a column per metric."""
        columns = self.rows.columns
        shown = [name for name in metrics if name in columns.metrics]
        numbers = range(max(0, len(columns) - n_rows), len(columns))
        values = [
            [f"{columns.steps[i]:,}", *(_write(columns.metrics[name][i]) for name in shown)] for i in numbers
        ]
        return render_table(["step", *shown], values, repr(self))

    @property
    def last_step(self) -> int:
        """Step of the last row, −1 if there is none."""
        return self.rows.columns.steps[-1] if self.rows else -1

    def append(self, row: Row) -> None:
        """Add one row and hand it to the operating system before returning."""
        if self.path is None:
            self.rows.append(row)
            return
        line = encode_row(row, self.rows.last_line)
        self._write(line)
        self.rows.append(row, line)

    def cut_after(self, step: int) -> None:
        """Drop the rows after `step`: a resumed run measures them again."""
        n_rows = bisect_right(self.rows.columns.steps, step)
        if n_rows == len(self.rows):
            return
        self.rows.cut(n_rows)
        if self.path is not None:
            os.truncate(self.path, self.rows.n_bytes)

    def restore(self, rows: Iterable[Row]) -> None:
        """Replace all rows, for a run whose history file was lost."""
        rows, lines = list(rows), [b""]
        for row in rows:
            lines.append(encode_row(row, lines[-1]))
        if self.path is not None:
            write_whole(self.path, b"".join(lines))
        self.rows.cut(0)
        for row, line in zip(rows, lines[1:], strict=True):
            self.rows.append(row, line)

    def _write(self, line: bytes) -> None:
        size = self.rows.n_bytes
        if not size:  # else it is there, or was moved away
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            if file.seek(0, os.SEEK_END) < size:
                raise RunError(
                    f"{self.path}: was shortened or removed while the run wrote to it. "
                    "Its rows are rebuilt from the newest checkpoint with: hf-icl resume"
                )
            file.truncate(size)  # of a torn last line
            try:
                left = line
                while left:  # what comes after a part tells why it was not the whole
                    left = left[file.write(left) :]
            except OSError as error:
                file.truncate(size)
                raise RunError(
                    f"{self.path}: a row could not be written ({error.strerror}). The rows before it are "
                    f"whole. {find_way_out(error)}"
                ) from error


def read_last_row(path: Path) -> Row | None:
    """Return the last whole row of a history's file, None if there is none; reads no more than its end.

    What stands before it is not looked at: `History` checks all.

    Raises:
        RunError: If it is no row, or the file cannot be read.
    """
    if not path.exists():
        return None
    with _open(path) as file:
        size, n_bytes = file.seek(0, os.SEEK_END), LAST_BYTES
        while True:
            file.seek(max(0, size - n_bytes))
            block = file.read()
            end = block.rfind(b"\n") + 1
            start = block.rfind(b"\n", 0, max(0, end - 1)) + 1
            if start or n_bytes >= size:
                break
            n_bytes *= 4
    try:
        return decode_row(block[start:end]) if end else None
    except ValueError as error:
        raise RunError(f"{path}: its last row is damaged. Restore the file, or resume the run.") from error


def _write(value: float) -> str:
    return "" if value == NO_VALUE else f"{value:.3f}"


def _read_blocks(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, list[int]]]:
    """Yield some lines of a file at a time, with where they end; log it if the last one is torn."""
    rest = b""
    while more := file.read(BLOCK_BYTES):
        block, ends, start = rest + more, [], 0
        while start := block.find(b"\n", start) + 1:
            ends.append(start)
        if ends:
            yield block, ends
        rest = block[ends[-1] :] if ends else block
    if rest:
        logger.warning("%s: left out a last line that was written only in part", path)


def _decode(path: Path, number: int, line: bytes) -> Row:
    """Return a row of the file, the first being number 0."""
    try:
        row = decode_row(line)
        row = {"step": row["step"], "sequences": row["sequences"], **row}
        Columns.of([row])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _refuse(path, number, "is no history row") from error
    return row


def _refuse(path: Path, number: int, rule: str) -> RunError:
    return RunError(
        f"{path}, line {number + 1}: {rule}. Restore the file, or delete the lines from there on and resume "
        "the run: it measures them again."
    )


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise FileError(path, error, "", action="read") from error
