"""Files and folders that are there whole or not at all, whenever their writer dies;
and one sentence where they cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hf_icl.errors import FileError

LOST_AND_FOUND = "lost+found"
DRAFTS = ".*.tmp"  # what a killed writer leaves; nobody else makes such names


def name_draft(path: Path) -> Path:
    """Return where a file or folder is put together before it takes its name: hidden, beside it,
    and not to be guessed."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


_WAYS_OUT = {
    errno.ENOSPC: "Free some space, then continue with: hf-icl resume RUN",
    errno.EDQUOT: "Free some space, then continue with: hf-icl resume RUN",
    errno.EROFS: "Choose a place that can be written.",
    errno.EACCES: "Choose another place, or ask for its permissions.",
    errno.EPERM: "Choose another place, or ask for its permissions.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "A part of the path is a file: choose another place, or move it away.",
    errno.EISDIR: "Name a file.",
    errno.ENOENT: "Check the path.",
    errno.ELOOP: "Its symbolic links lead in a circle.",
    errno.ESTALE: "Mount the disk again, then continue with: hf-icl resume RUN",
    errno.EIO: "Check the disk, then continue with: hf-icl resume RUN",
    errno.EMFILE: "Allow more open files: ulimit -n",
}


def find_way_out(error: OSError) -> str:
    """Return what to do about an error of the system.

    >>> find_way_out(OSError(errno.ENAMETOOLONG, "File name too long"))
    'Choose a shorter name.'
    """
    return _WAYS_OUT.get(error.errno, "Check the path and the disk.")


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
    draft = name_draft(path)
    with explain(path, way_out):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(draft, "x+b") as file:
                yield file
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


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
    draft = name_draft(folder) if is_new else folder / name_draft(Path("draft"))
    with explain(folder, way_out):
        try:
            draft.mkdir(parents=True)
            yield draft
            if is_new:
                os.replace(draft, folder)  # fails if somebody else has filled it meanwhile
                return
            for entry in sorted(draft.iterdir(), key=lambda entry: (entry.name == last, entry.name)):
                os.replace(entry, folder / entry.name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


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


def remove_drafts(folder: Path) -> None:
    """Remove what a killed writer left in a folder."""
    for path in folder.glob(DRAFTS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
