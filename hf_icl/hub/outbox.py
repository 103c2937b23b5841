"""What waits to be pushed: a folder per commit inside the run folder,
so that nothing is lost when a push fails or dies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock

from hf_icl.errors import RunError
from hf_icl.files import name_draft
from hf_icl.hub.target import name_tag
from hf_icl.reading import read_json

OUTBOX_FOLDER = ".outbox"
ITEM_FILE = "item.json"
CLOSING = "closing"  # sorts after every step


@dataclass(frozen=True)
class Item:
    """One commit to be made.

    Attributes:
        folder: Where its files lie.
        message: Title of the commit.
        files: Path in the repository to path on disk.
        tag: What the commit is called afterwards, if anything.
        remove: Folders of the repository that the commit empties first.
    """

    folder: Path
    message: str
    files: Mapping[str, Path]
    tag: str | None = None
    remove: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


class Outbox:
    """The commits of a run that are not on the Hub yet, in the order in which they go out.

    An item appears whole or not at all: it is put together under another name, then renamed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     outbox = Outbox(Path(folder))
    ...     _ = (Path(folder) / "weights").write_text("1")
    ...     outbox.put(7, {"model": Path(folder) / "weights"}, message="Step 7")
    ...     [(item.tag, sorted(item.files)) for item in outbox.items()]
    [('step-00000007', ['model'])]
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / OUTBOX_FOLDER

    def lock(self) -> BaseFileLock:
        """Return a lock that one process at a time can hold; a killed process gives it back."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def put(
        self, step: int, files: Mapping[str, Path | bytes], *, message: str, remove: Iterable[str] = ()
    ) -> None:
        """Add the commit of a step; what is there of the same step already is replaced.

        Args:
            step: Its step.
            files: Path in the repository to content, or to a file that nobody writes to any more: it is
                linked, not copied, where the disk allows.
            message: Title of the commit.
            remove: Folders of the repository to be emptied by the commit.
        """
        self._put(f"{step:08d}", files, {"message": message, "tag": name_tag(step), "remove": list(remove)})

    def close(self, files: Mapping[str, Path | bytes], *, message: str, remove: Iterable[str] = ()) -> None:
        """Add the commit that goes out last: report, card, and the model as it is now."""
        self._put(CLOSING, files, {"message": message, "tag": None, "remove": list(remove)})

    def _put(self, name: str, files: Mapping[str, Path | bytes], about: dict) -> None:
        target, draft = self.folder / name, name_draft(self.folder / name)
        try:
            for path, source in files.items():
                copy = draft / "files" / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    copy.write_bytes(source)
                else:
                    _link(source, copy)
            (draft / ITEM_FILE).write_text(json.dumps(about))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(draft, target)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise RunError(
                f"{target}: could not be put aside for the Hub ({error.strerror}). The checkpoint itself is "
                "whole. Free some space; hf-icl push puts it there later."
            ) from error

    def items(self) -> list[Item]:
        """Return what waits, steps in order, the closing commit last."""
        return [_read_item(self.folder / name) for name in self.names()]

    def names(self) -> list[str]:
        """Return what waits is called, in order: steps of eight digits, and closing."""
        return sorted(path.name for path in self.folder.glob("[!.]*"))

    @property
    def steps(self) -> list[int]:
        """Return the steps that wait."""
        return [int(name) for name in self.names() if name != CLOSING]

    def tidy(self) -> None:
        """Remove what a killed process has left in parts, and the closing commit,
        which is made anew at each end."""
        for path in (*self.folder.glob(".*.tmp"), self.folder / CLOSING):
            if path.is_dir():
                shutil.rmtree(path)

    def done(self, item: Item) -> None:
        """Forget an item that is on the Hub."""
        gone = name_draft(item.folder)
        os.replace(item.folder, gone)  # so that a kill in mid-deletion leaves no half of an item
        shutil.rmtree(gone)


def _link(source: Path, copy: Path) -> None:
    """Give a file a second name: no bytes are copied, and the first name may be deleted. Elsewhere,
    copy it."""
    try:
        os.link(source, copy)
    except (OSError, AttributeError):  # the disk, or the system, has no such thing
        shutil.copyfile(source, copy)


def _read_item(folder: Path) -> Item:
    try:
        about = read_json(folder / ITEM_FILE)
        base = folder / "files"
        files = {
            path.relative_to(base).as_posix(): path for path in sorted(base.rglob("*")) if path.is_file()
        }
        message, tag, remove = about["message"], about["tag"], tuple(about["remove"])
        if not isinstance(message, str) or not all(isinstance(each, str) for each in (tag or "", *remove)):
            raise ValueError(f"{ITEM_FILE} does not hold what it should")
        return Item(folder, message, files, tag, remove)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder}: not a waiting push ({error}). Delete it; hf-icl push makes it anew."
        ) from error
