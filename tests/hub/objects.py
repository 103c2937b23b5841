"""The words of a repository: files, commits, changes; what a path or a name may be; what a refusal is."""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
POINTER_PATTERN = re.compile(POINTER.format(sha256="([0-9a-f]{64})", size="([0-9]+)").encode())
SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REF = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$|/\.|\.$|/$))[A-Za-z0-9_][A-Za-z0-9._/@+-]*")


class Refusal(Exception):
    """What the Hub says no to: the HTTP status, its `X-Error-Code` if it has one, and a sentence."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class File:
    """A file in a tree: `oid` is the git blob's SHA-1 (the pointer's, for LFS),
    `size` that of its content in bytes."""

    path: str
    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        """Return what names the content: the SHA-256 of an LFS file, the git SHA-1 of a regular one."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A commit; `date` in seconds since 1970."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: str
    date: int
    message: str


@dataclass(frozen=True)
class Add:
    """Write a regular file."""

    path: str
    content: bytes


@dataclass(frozen=True)
class AddLarge:
    """Point to an LFS object that was uploaded before; without a size (a copy) that of the object holds."""

    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Delete:
    """Delete a file, or a folder with all that is in it."""

    path: str
    folder: bool


def check_path(path: str) -> str:
    """Return the path, or refuse what leaves the repository or enters git's own folder."""
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts) or "\\" in path or "\0" in path:
        raise Refusal(400, f"Invalid path in repository: {path!r}")
    return path


def check_name(repo_id: str) -> str:
    """Return `namespace/name`, or refuse what breaks the Hub's rules for names."""
    parts = repo_id.split("/")
    good = len(parts) == 2 and all(SEGMENT.fullmatch(part) for part in parts)
    if not good or "--" in repo_id or ".." in repo_id or repo_id.endswith((".git", ".ipynb")):
        raise Refusal(400, f"Invalid repository name: {repo_id!r}")
    return repo_id


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(name, path)
