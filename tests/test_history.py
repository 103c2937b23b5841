"""History files: whole rows or none, whatever happens to the writer."""

import errno
import json
import os
import random

import numpy as np
import pytest

from hf_icl.errors import RunError
from hf_icl.files import write_whole
from hf_icl.history import columns as columns_module, history as history_module
from hf_icl.history.history import History, make_row, unpack_hits
from hf_icl.history.lines import encode_row
from hf_icl.hub.pull import _find_unsound


def row(step):
    return make_row(step, step * 64, {"icl/accuracy": step / 100}, {"icl/accuracy": np.arange(10) < step})


def test_rows_come_back_as_they_went_in(tmp_path):
    history = History(tmp_path / "history.jsonl")
    for step in (0, 5, 10):
        history.append(row(step))
    again = History(tmp_path / "history.jsonl")
    assert again.rows == history.rows and again.last_step == 10
    assert unpack_hits(again.rows[1]["hits"]["icl/accuracy"], 10).tolist() == [True] * 5 + [False] * 5


@pytest.mark.parametrize("n_lost", [1, 7, 40])
def test_a_torn_last_line_is_cut_off_and_said(tmp_path, caplog, n_lost):
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.append(row(0))
    history.append(row(5))
    data = path.read_bytes()
    path.write_bytes(data[:-n_lost])
    again = History(path)
    assert [r["step"] for r in again.rows] == [0] and "only in part" in caplog.text
    assert path.read_bytes() == data[:-n_lost], "somebody may still be writing"
    again.append(row(5))
    assert path.read_bytes() == data


def test_a_file_that_vanishes_under_the_writer_is_told(tmp_path):
    history = History(tmp_path / "history.jsonl")
    history.append(row(0))
    history.path.unlink()
    with pytest.raises(RunError, match="removed while the run wrote to it.*hf-icl resume"):
        history.append(row(5))
    assert [r["step"] for r in History(history.path).rows] == []


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(row(0)) + "\n{oops\n" + json.dumps(row(5)) + "\n")
    with pytest.raises(RunError, match="line 2: is no row"):
        History(path)


def test_cutting_back_keeps_the_checkpoint_step_and_rewrites_the_file(tmp_path):
    history = History(tmp_path / "history.jsonl")
    for step in (0, 5, 10):
        history.append(row(step))
    history.cut_after(5)
    assert [r["step"] for r in History(history.path).rows] == [0, 5]
    assert os.listdir(tmp_path) == ["history.jsonl"]


def test_a_full_disk_leaves_whole_rows_and_says_how_to_go_on(programs, tmp_path):
    """A real limit on file size, in a process of its own: the kernel refuses the write half-way."""
    path = tmp_path / "history.jsonl"
    History(path).append(row(0))
    whole = path.read_bytes()
    code = f"""
import resource, signal
import numpy as np
from hf_icl.history.history import History, make_row

history = History({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) + 20}, most))
try:
    history.append(make_row(5, 320, {{"icl/accuracy": 0.5}}, {{"icl/accuracy": np.ones(1000, bool)}}))
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # the traceback goes to a file as well
"""
    ended = programs.start(code=code).wait()
    assert ended.code != 0 and "a row could not be written" in ended.err and "hf-icl resume" in ended.err
    assert path.read_bytes() == whole


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["config.yaml"]


def long_history(path, n_rows=40, **changes):
    """Rows like those of a run, and what they are when read row by row."""
    rows = [row(step) | {"step": 3 * step} for step in range(n_rows)]
    for number, change in changes.items():
        rows[int(number[1:])] |= change
    write_lines(path, rows)
    return rows


def write_lines(path, rows, encode=encode_row):
    lines = [b""]
    for each in rows:
        lines.append(encode(each, lines[-1]))
    path.write_bytes(b"".join(lines))


def encode_plain(row, before):
    """A line as version 0.1.0 wrote it."""
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


ODD_ROWS = {
    "none": {},
    "a metric more": {"r7": {"metrics": {"icl/accuracy": 0.5, "iwl/accuracy": 0.25}}},
    "a metric less": {"r7": {"metrics": {}}},
    "no hits": {"r7": {"hits": {}}},
    "something more": {"r7": {"note": "mine"}},
    "a diverged loss": {"r7": {"metrics": {"icl/accuracy": float("nan")}}},
    "a whole number": {"r7": {"metrics": {"icl/accuracy": 1}}},
}


@pytest.mark.parametrize("block_bytes", [100, 1000, 1 << 20])
@pytest.mark.parametrize("changes", ODD_ROWS.values(), ids=ODD_ROWS)
def test_a_long_history_is_read_as_a_short_one(tmp_path, monkeypatch, changes, block_bytes):
    """By Arrow in blocks, or by Python row by row: the same rows and the same numbers."""
    rows = long_history(tmp_path / "history.jsonl", **changes)
    short = History(tmp_path / "history.jsonl")
    monkeypatch.setattr(history_module, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(columns_module, "SMALL_BYTES", 50)
    long = History(tmp_path / "history.jsonl")
    for history in (short, long):
        assert repr(list(history.rows)) == repr(rows) and repr(history.rows[7]) == repr(rows[7])
        for name in ("icl/accuracy", "iwl/accuracy"):
            known = [(r["step"], r["metrics"][name]) for r in rows if name in r["metrics"]]
            steps, values = history.rows.columns.curve(name)
            assert steps.tolist() == [step for step, _ in known]
            np.testing.assert_array_equal(values, [value for _, value in known])
        assert list(history.rows.columns.sequences) == [r["sequences"] for r in rows]
    long.cut_after(60)
    kept = repr([r for r in rows if r["step"] <= 60])
    assert repr(list(long.rows)) == repr(list(History(long.path).rows)) == kept


BROKEN = {
    "no sequences": '{"step": 4}',
    "no JSON": "{oops",
    "no row": "7",
    "text for a number": '{"step": "4", "sequences": 1, "metrics": {}, "hits": {}}',
    "no metrics": '{"step": 4, "sequences": 1, "metrics": null, "hits": {"icl/accuracy": "AAA="}}',
    "text for a metric": '{"step": 4, "sequences": 1, "metrics": {"icl/accuracy": "1"}, "hits": {}}',
    "two in one line": " ".join(
        f'{{"step": {step}, "sequences": 1, "metrics": {{}}, "hits": {{}}}}' for step in (4, 5)
    ),
    "too large a number": '{"step": 9999999999999999999999, "sequences": 1, "metrics": {}, "hits": {}}',
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_far_down_is_named(tmp_path, monkeypatch, broken):
    path = tmp_path / "history.jsonl"
    write_lines(path, long_history(path), encode_plain)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:33], broken, *lines[34:]]) + "\n")
    for small in (1 << 20, 50):
        monkeypatch.setattr(columns_module, "SMALL_BYTES", small)
        with pytest.raises(RunError, match="line 34: is no"):
            History(path)


def test_arrow_reads_what_it_should(tmp_path):
    """A block of equal rows is Arrow's, one with an odd row, or a small one, is Python's."""
    for n_rows, change, is_arrows in (
        (12_000, {}, True),
        (12_000, {"r7": {"note": "mine"}}, False),
        (12_000, {"r7": {"hits": {}}}, False),
        (100, {}, False),
    ):
        long_history(tmp_path / "history.jsonl", n_rows, **change)
        lines = (tmp_path / "history.jsonl").read_bytes()
        ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
        assert (columns_module.read_columns(lines, ends.tolist()) is not None) == is_arrows


HARMS = {
    "a bit flipped": lambda lines, rng: flip_a_bit(lines, rng),
    "a line lost": lambda lines, rng: lines.pop(rng.randrange(len(lines) - 1)),
    "a line doubled": lambda lines, rng: lines.insert(rng.randrange(len(lines)), rng.choice(lines)),
    "two lines exchanged": lambda lines, rng: lines.append(lines.pop(rng.randrange(len(lines) - 1))),
    "a line of another history": lambda lines, rng: lines.insert(1, encode_row(row(1), b"other")),
}


def flip_a_bit(lines, rng):
    number = rng.randrange(len(lines))
    line = bytearray(lines[number])
    line[rng.randrange(len(line) - 1)] ^= 1 << rng.randrange(8)  # the line break: a torn or a joined line
    lines[number] = bytes(line)


@pytest.mark.integration
@pytest.mark.parametrize("small", [1 << 20, 50])
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_no_line_is_changed_lost_doubled_or_moved_unseen(tmp_path, monkeypatch, harm, small):
    monkeypatch.setattr(columns_module, "SMALL_BYTES", small)
    path = tmp_path / "history.jsonl"
    long_history(path)
    whole = path.read_bytes().splitlines(keepends=True)
    for seed in range(60):
        lines = list(whole)
        harm(lines, random.Random(seed))
        path.write_bytes(b"".join(lines))
        with pytest.raises(RunError, match=r"line \d+: is no"):
            History(path)


def test_steps_rise_in_a_history_without_checksums(tmp_path):
    path = tmp_path / "history.jsonl"
    for steps in ([0, 5, 5], [0, 10, 5], [0, 0]):
        write_lines(path, map(row, steps), encode_plain)
        with pytest.raises(RunError, match=f"line {len(steps)}: step .* cannot come after step"):
            History(path)


def test_a_history_of_version_0_1_0_goes_on_with_checksums(tmp_path):
    path = tmp_path / "history.jsonl"
    write_lines(path, map(row, (0, 5)), encode_plain)
    History(path).append(row(10))
    History(path).append(row(15))
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line).keys() >= {"crc"} for line in lines] == [False, False, True, True]
    assert list(History(path).rows) == [row(step) for step in (0, 5, 10, 15)]
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))
    with pytest.raises(RunError, match="line 2: is no"):
        History(path)


def test_hits_that_are_damaged_are_told_when_they_are_asked_for(tmp_path, monkeypatch):
    """Where there is no checksum: Arrow reads the numbers alone."""
    monkeypatch.setattr(columns_module, "SMALL_BYTES", 50)
    path = tmp_path / "history.jsonl"
    write_lines(path, long_history(path), encode_plain)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[33] = lines[33].replace(b'"hits":{"', b'"hits":{!')
    path.write_bytes(b"".join(lines))
    rows = History(path).rows
    assert len(rows) == 40 and rows[32]["step"] == 96
    with pytest.raises(RunError, match="line 34: is no history row"):
        rows[33]
    with pytest.raises(RunError, match="line 34: is no history row"):
        _find_unsound(rows)  # as a pull looks through them
