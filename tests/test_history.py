"""History files: whole rows or none, whatever happens to the writer."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from hf_icl.errors import RunError
from hf_icl.history import History, make_row, unpack_hits, write_atomically


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
    again.append(row(5))
    assert path.read_bytes() == data


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(row(0)) + "\n{oops\n" + json.dumps(row(5)) + "\n")
    with pytest.raises(RunError, match="line 2: not a history row"):
        History(path)


def test_cutting_back_keeps_the_checkpoint_step_and_rewrites_the_file(tmp_path):
    history = History(tmp_path / "history.jsonl")
    for step in (0, 5, 10):
        history.append(row(step))
    history.cut_after(5)
    assert [r["step"] for r in History(history.path).rows] == [0, 5]
    assert os.listdir(tmp_path) == ["history.jsonl"]


def test_a_full_disk_leaves_whole_rows_and_says_how_to_go_on(tmp_path):
    """A real limit on file size, in a process of its own: the kernel refuses the write half-way."""
    path = tmp_path / "history.jsonl"
    History(path).append(row(0))
    whole = path.read_bytes()
    code = (
        "import sys, numpy as np; from hf_icl.history import History, make_row\n"
        f"h = History({str(path)!r})\n"
        "h.append(make_row(5, 320, {'icl/accuracy': .5}, {'icl/accuracy': np.ones(1000, bool)}))"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, len(whole) + 20))

    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True)
    assert (
        done.returncode != 0
        and "a row could not be written" in done.stderr
        and "hf-icl resume" in done.stderr
    )
    assert path.read_bytes() == whole


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["config.yaml"]
