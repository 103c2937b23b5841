"""One process at a time in a folder, by a lock that names its holder and that a dead holder gives back."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_icl.errors import RunError
from hf_icl.files import explain, write_whole
from hf_icl.reading import read_json
from hf_icl.wording import mask

LOCK_FILE, HOLDER_FILE = ".lock", ".holder.json"
HEARTBEAT_S, STALE_S = 20.0, 120.0


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which must be there.

    The system takes the lock back from a process that dies. On a disk that several machines share, where a
    lock may not reach from one to another, the holder touches a file as long as it lives, and one that has
    not for two minutes counts as dead. Where there are no locks at all, a warning says so, and the lock's
    file stands in for one, which a killed process may leave behind.

    Raises:
        RunError: If another process holds it; the error says which.
        FileError: If nothing can be written there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold(Path(folder)):
    ...     sorted(os.listdir(folder))
    ['.holder.json', '.lock']
    """
    lock, holder = FileLock(folder / LOCK_FILE), folder / HOLDER_FILE
    with explain(folder, "Choose a folder that can be written."):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise _refuse(folder, _read(holder)) from error
    try:
        if _is_alive_elsewhere(holder, folder / LOCK_FILE):
            raise _refuse(folder, _read(holder))
        write_whole(holder, json.dumps(_describe_self()).encode())
        stop = threading.Event()
        threading.Thread(target=_beat, args=(holder, stop), name="hf_icl-lock", daemon=True).start()
        try:
            yield
        finally:
            stop.set()
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _describe_self() -> dict[str, Any]:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "command": mask(command)[:200]}


def _read(holder: Path) -> dict[str, Any]:
    try:
        found = read_json(holder)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("host"), str) else {}


def _is_alive_elsewhere(holder: Path, lock: Path) -> bool:
    """Return whether a process of another machine holds the folder, by the clock of the disk."""
    found = _read(holder)
    if not found or found["host"] == socket.gethostname():
        return False  # of this machine's processes the lock itself tells
    os.utime(lock)
    return lock.stat().st_mtime - holder.stat().st_mtime < STALE_S


def _beat(holder: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):  # a folder that was moved away is told where it is written to
            os.utime(holder)


def _refuse(folder: Path, found: dict[str, Any]) -> RunError:
    who, way_out = "another process", f"Wait for it, or stop it; if there is none, delete {LOCK_FILE} there."
    if found:
        way_out = "Wait for it, or stop it."
        who = f"process {found.get('pid')} on {found['host']}"
        who += f", since {found.get('since')} ({found.get('command')}),"
    return RunError(f"{folder}: {who} is at work here. {way_out}")
