"""What a system may lack: the work goes on without it, or one sentence says so; never a traceback."""

import ast
import errno
import fcntl
import logging
import os
import signal
import threading
import warnings
from concurrent.futures import process as pools

import pytest

from hf_icl import distributed, files
from hf_icl.distributed import count_cores, explain_loss
from hf_icl.errors import ConfigError, FileError, LostProcessError, RunError
from hf_icl.hub.outbox import _link
from hf_icl.locks import LOCK_FILE, hold
from hf_icl.runs.config import load_config
from hf_icl.runs.replicas import train_replicas
from hf_icl.runs.run import Run
from hf_icl.sweeps.jobs import count_workers
from tests.programs import TINY
from tests.rooms import PACKAGE

# What Windows, macOS or a browser's Python have not, to the one file that asks for it.
LACKING = {"sched_getaffinity": "distributed.py", "link": "hub/outbox.py"} | dict.fromkeys(
    (
        "fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "mkfifo", "chown", "nice", "statvfs",
        "fchmod", "getloadavg", "sysconf", "WIFSIGNALED", "posix_fallocate",
    )
)  # fmt: skip
GUARDED = {("fcntl", "files.py")}  # imported where it is there
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty", "syslog"}


def test_what_a_system_may_lack_is_asked_for_in_one_place_each():
    asked, imported = set(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                asked.add((node.attr, str(path.relative_to(PACKAGE))))
            if isinstance(node, ast.Import):
                imported |= {(alias.name, str(path.relative_to(PACKAGE))) for alias in node.names}
    assert {(name, where) for name, where in imported if name in POSIX_MODULES} == GUARDED
    assert {(name, where) for name, where in asked if name in LACKING and where != LACKING[name]} == set()


def fail(error):
    def refuse(*_, **__):
        raise error

    return refuse


def test_without_locks_a_warning_says_so_and_the_file_stands_in(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail(OSError(errno.ENOSYS, "Function not implemented")))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with hold(tmp_path), pytest.raises(RunError, match="at work here"), hold(tmp_path):
            pass
        with hold(tmp_path):
            pass
        (tmp_path / LOCK_FILE).touch()  # as a run that was made elsewhere leaves it
        with pytest.raises(RunError, match=f"if there is none, delete {LOCK_FILE} there"), hold(tmp_path):
            pass
    assert any("flock not supported" in str(one.message) for one in said)


@pytest.mark.parametrize("lacking", ["module", "disk"])
def test_without_locks_files_and_folders_are_still_whole_or_not_there(tmp_path, monkeypatch, lacking):
    """The dead cannot be told from the living there: drafts go where the folder is held alone."""
    if lacking == "module":
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", fail(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    dead = files.name_draft(tmp_path / "a")
    dead.touch()
    files.write_whole(tmp_path / "a", b"1")
    with files.fill_whole(tmp_path / "b", last="c", way_out="") as draft:
        (draft / "c").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", dead.name}
    files.remove_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_disk_whose_locks_fail_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    with pytest.raises(FileError, match="No locks available"), hold(tmp_path):
        pass


def test_cores_are_counted_where_affinity_is_unknown(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert count_cores() == 6 and count_workers({"a": load_config("default", ["training.threads=2"])}) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1


@pytest.mark.parametrize("lack", ["call", "disk"])
def test_a_file_without_a_second_name_is_copied(tmp_path, monkeypatch, lack):
    if lack == "call":
        monkeypatch.delattr(os, "link")
    else:
        monkeypatch.setattr(os, "link", fail(OSError(errno.EPERM, "Operation not permitted")))
    (tmp_path / "one").write_bytes(b"bytes")
    _link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "one").unlink()
    assert (tmp_path / "two").read_bytes() == b"bytes"


def test_a_lost_process_is_explained_in_a_thread_that_may_take_no_signals(monkeypatch):
    monkeypatch.setattr(distributed, "count_processes", lambda: 2)
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        try:
            with explain_loss("Go on."):
                raise RuntimeError("Connection closed by peer [127.0.0.1]:1")
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(found[0], LostProcessError) and signal.getsignal(signal.SIGTERM) is before


def test_processes_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    settings = [*TINY, "training.steps=4", "evaluate=4"]
    runs = [Run.create(load_config("default", [*settings, f"seed={n}"]), tmp_path / str(n)) for n in range(2)]
    monkeypatch.setattr(pools, "_check_system_limits", fail(NotImplementedError("too few semaphores")))
    with pytest.raises(ConfigError, match=r"n_processes = 2: .*too few semaphores.* Set it to 1\."):
        train_replicas(runs, n_processes=2)


def test_a_run_is_trained_and_goes_on_where_everything_is_lacking(tmp_path, monkeypatch, caplog):
    """Hidden together: locks, second names, affinity, a container's files."""
    monkeypatch.setattr(fcntl, "flock", fail(OSError(errno.ENOSYS, "Function not implemented")))
    monkeypatch.delattr(os, "link")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr("hf_icl.memory.CGROUP", tmp_path / "none")
    settings = [*TINY, "training.steps=4", "training.checkpoint_every=2", "evaluate=2"]
    with caplog.at_level(logging.ERROR), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flock not supported")
        run = Run.create(load_config("default", settings), tmp_path / "run")
        run.train()
    assert run.is_finished and not caplog.records
