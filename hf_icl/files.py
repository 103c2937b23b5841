"""Files and folders that are there whole or not at all, whenever their writer dies;
and one sentence where they cannot be."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hf_icl.errors import FileError

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

LOST_AND_FOUND = "lost+found"
DRAFTS = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.tmp")  # nobody else makes such names


def name_draft(path: Path) -> Path:
    """Return where a file or folder is put together before it takes its name: hidden, beside it,
    and not to be guessed."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


_WAYS_OUT = {
    errno.ENOSPC: "Free some space, then {way_on}",
    errno.EDQUOT: "Free some space, then {way_on}",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), then {way_on}",
    errno.EROFS: "Choose a place that can be written.",
    errno.EACCES: "Choose another place, or ask for its permissions.",
    errno.EPERM: "Choose another place, or ask for its permissions.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "A part of the path is a file: choose another place, or move it away.",
    errno.EISDIR: "Name a file.",
    errno.ENOENT: "Check the path.",
    errno.ELOOP: "Its symbolic links lead in a circle.",
    errno.ESTALE: "Mount the disk again, then {way_on}",
    errno.EIO: "Check the disk, then {way_on}",
    errno.EMFILE: "Allow more open files: ulimit -n",
}


def find_way_out(error: OSError, way_on: str = "continue with: hf-icl resume RUN") -> str:
    """Return what to do about an error of the system, and then `way_on` where a run can go on.

    >>> find_way_out(OSError(errno.EDQUOT, "Disk quota exceeded"), "continue with: hf-icl resume runs/a")
    'Free some space, then continue with: hf-icl resume runs/a'
    """
    return _WAYS_OUT.get(error.errno, "Check the path and the disk.").format(way_on=way_on)


@contextmanager
def explain(path: Path, way_out: str, *, action: str = "written") -> Iterator[None]:
    """Say in one sentence what the system says of a file.

    Raises:
        FileError: In place of every `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise FileError(path, error, way_out, action=action) from error


@contextmanager
def open_whole(path: Path, *, way_out: str = "What was there before is whole.") -> Iterator[IO[bytes]]:
    """Open a file that takes its name once it is complete: a reader finds the old content or the new one.

    Folders above it are made. On any error nothing is left behind.

    Raises:
        FileError: If it cannot be written; `way_out` says what to do then.
    """
    with explain(path, way_out):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path.parent, of=path.name)
        with _make_draft(path, lambda draft: draft.touch(exist_ok=False)) as draft:
            with open(draft, "r+b") as file:
                yield file
            os.replace(draft, path)


def write_whole(path: Path, data: bytes, *, way_out: str = "What was there before is whole.") -> None:
    """Write a file as `open_whole` does."""
    with open_whole(path, way_out=way_out) as file:
        file.write(data)


@contextmanager
def fill_whole(folder: Path, *, last: str, way_out: str) -> Iterator[Path]:
    """Give a folder to write into, whose entries appear in `folder` at the end, and on any error not at all.

    A new folder appears at once. In one that is there, which may be the root of a disk, entries are moved one
    by one, and those of the same names are replaced.

    Args:
        folder: Made if need be, with those above it.
        last: The entry without which the others mean nothing; it is moved last.
        way_out: What to do where this fails.

    Raises:
        FileError: If the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     with fill_whole(Path(root) / "run", last="a", way_out="") as draft:
    ...         _ = (draft / "a").write_text("1")
    ...     sorted(path.name for path in Path(root).iterdir())
    ['run']
    """
    is_new = not folder.exists()
    place = folder if is_new else folder / "draft"
    with explain(folder, way_out):
        if is_new:
            place.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(place.parent, of=place.name)
        with _make_draft(place, Path.mkdir) as draft:
            yield draft
            give_usual_permissions(draft)
            if is_new:
                os.replace(draft, folder)  # fails if somebody else has filled it meanwhile
                return
            for entry in sorted(draft.iterdir(), key=lambda entry: (entry.name == last, entry.name)):
                os.replace(entry, folder / entry.name)


@contextmanager
def _make_draft(place: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a file or folder that `remove_drafts` leaves alone as long as this process lives; remove what is
    left of it in the end."""
    number: int | None = None
    while True:
        draft = name_draft(place)
        make(draft)
        if fcntl is None:
            break
        with suppress(FileNotFoundError):  # somebody took it for a dead one, before it was locked
            number = os.open(draft, os.O_RDONLY)
            with suppress(OSError):  # a disk without locks
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(number), os.stat(draft)):
                break
        if number is not None:
            os.close(number)
            number = None
    try:
        yield draft
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
        if number is not None:
            os.close(number)


def is_unused(folder: Path) -> bool:
    """Return whether nothing is there, or a folder empty but for hidden files, as a killed writer leaves, and
    for what a fresh disk holds.

    Raises:
        FileError: If it cannot be looked at.
    """
    with explain(folder, "Choose another place.", action="used"):
        if not folder.exists():
            return not folder.is_symlink()
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else [folder.name]
        return folder.is_dir() and all(name.startswith(".") or name == LOST_AND_FOUND for name in names)


def remove_drafts(folder: Path, of: str | None = None) -> None:
    """Remove what killed writers have left in a folder, and nothing that a living one is at.

    Args:
        folder: Where; it need not be there.
        of: What they were going to be called; None: anything. Where the system has no locks, so that the
            living cannot be told from the dead, only None removes any: it is for a folder that is held.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root, open_whole(Path(root) / "a") as _:
    ...     name_draft(Path(root) / "a").touch()
    ...     remove_drafts(Path(root))
    ...     len(os.listdir(root))
    1
    """
    with suppress(OSError):  # what cannot be removed is in nobody's way
        for entry in list(os.scandir(folder)):
            found = DRAFTS.fullmatch(entry.name)
            if found is None or of not in (None, found["name"]) or _is_held(Path(entry), of is None):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry)
            else:
                os.unlink(entry)


def _is_held(path: Path, unknown_is_dead: bool) -> bool:
    """Return whether a living process has locked a file or folder."""
    if fcntl is None:
        return not unknown_is_dead
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        return error.errno != errno.ELOOP  # a link holds nothing
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return not unknown_is_dead
    finally:
        os.close(number)


def give_usual_permissions(folder: Path) -> None:
    """Let the files in a folder be read and written by whom the umask says, as files that Python opens are:
    safetensors makes its own for their owner alone.

    Raises:
        OSError: If that cannot be done.
    """
    probe = name_draft(folder / "probe")
    with open(probe, "xb"):
        usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o600 != usual:
            path.chmod(usual)
