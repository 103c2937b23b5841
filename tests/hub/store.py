"""Repositories of the loopback Hub: bare git repositories in a folder, with LFS objects beside them.
No HTTP here.

Each repository is a folder that `git` itself can read (`git --git-dir=<folder> log main`): loose objects
named by their SHA-1, refs as files, commits with parents. Large files are LFS pointers in the tree; what they
point to lies in `lfs/<sha256>`. Every file is written aside and then renamed, so a killed server leaves no
half object.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .objects import (
    POINTER,
    POINTER_PATTERN,
    REF,
    Add,
    AddLarge,
    Commit,
    Delete,
    File,
    Refusal,
    check_name,
    check_path,
    write_whole,
)


class Repo:
    """One repository in its folder."""

    def __init__(self, folder: Path, kind: str, repo_id: str):
        self.folder, self.kind, self.id = folder, kind, repo_id
        self.lock = threading.RLock()
        self.files = functools.lru_cache(4096)(self._files)
        self.file = functools.lru_cache(None)(self._file)

    @property
    def settings(self) -> dict:
        """Return `private`, `gated`, `sdk` and `created`."""
        return json.loads((self.folder / "settings.json").read_text())

    def change_settings(self, **changes) -> None:
        """Change some of the settings."""
        with self.lock:
            write_whole(self.folder / "settings.json", json.dumps(self.settings | changes).encode())

    # Objects

    def put(self, kind: str, body: bytes) -> str:
        """Store a git object, return its name."""
        whole = f"{kind} {len(body)}\0".encode() + body
        oid = hashlib.sha1(whole).hexdigest()
        path = self.folder / "objects" / oid[:2] / oid[2:]
        if not path.exists():
            write_whole(path, zlib.compress(whole, 1))
        return oid

    def get(self, oid: str) -> bytes:
        """Return the body of a git object."""
        whole = zlib.decompress((self.folder / "objects" / oid[:2] / oid[2:]).read_bytes())
        return whole.partition(b"\0")[2]

    def large(self, sha256: str) -> Path:
        """Return where an LFS object lies, or would."""
        return self.folder / "lfs" / sha256

    def used(self) -> int:
        """Return the bytes of all LFS objects."""
        return sum(path.stat().st_size for path in (self.folder / "lfs").glob("[0-9a-f]*"))

    def content(self, file: File) -> bytes:
        """Return what a file holds."""
        return self.large(file.sha256).read_bytes() if file.sha256 else self.get(file.oid)

    def _file(self, path: str, oid: str) -> File:
        body = self.get(oid)
        pointer = POINTER_PATTERN.fullmatch(body)
        if pointer:
            return File(path, oid, int(pointer[2]), pointer[1].decode())
        return File(path, oid, len(body))

    # Trees

    def walk(self, tree: str, prefix: str = "") -> Iterator[tuple[str, str, bool]]:
        """Yield (path, oid, is folder) of all that is under a tree."""
        body = self.get(tree)
        while body:
            entry, _, rest = body.partition(b"\0")
            mode, _, name = entry.partition(b" ")
            oid, body = rest[:20].hex(), rest[20:]
            path, folder = prefix + name.decode(), mode == b"40000"
            yield path, oid, folder
            if folder:
                yield from self.walk(oid, path + "/")

    def _files(self, commit: str) -> dict[str, File]:
        return {
            path: self.file(path, oid)
            for path, oid, folder in self.walk(self.commit(commit).tree)
            if not folder
        }

    def folders(self, commit: str) -> dict[str, str]:
        """Return path and tree of each folder of a commit."""
        return {path: oid for path, oid, folder in self.walk(self.commit(commit).tree) if folder}

    def put_tree(self, blobs: dict[str, str]) -> str:
        """Store the trees of a flat {path: blob}, return the root's name."""
        here, below = {}, {}
        for path, oid in blobs.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = oid
            else:
                here[name] = oid
        if clash := here.keys() & below.keys():
            raise Refusal(400, f"{min(clash)!r} is a file and a folder at once")
        entries = [(name.encode(), b"100644", oid) for name, oid in here.items()]
        entries += [(name.encode(), b"40000", self.put_tree(files)) for name, files in below.items()]
        entries.sort(key=lambda entry: entry[0] + (b"/" if entry[1] == b"40000" else b""))
        return self.put(
            "tree", b"".join(m + b" " + name + b"\0" + bytes.fromhex(oid) for name, m, oid in entries)
        )

    # Commits

    def commit(self, oid: str) -> Commit:
        """Return a commit by its full name."""
        head, _, message = self.get(oid).decode().partition("\n\n")
        fields = [line.split(" ", 1) for line in head.splitlines()]
        parents = tuple(value for key, value in fields if key == "parent")
        name, date, _ = dict(fields)["author"].rsplit(" ", 2)
        return Commit(oid, dict(fields)["tree"], parents, name.partition(" <")[0], int(date), message)

    def history(self, oid: str) -> Iterator[Commit]:
        """Yield a commit and its first parents, newest first."""
        while oid:
            commit = self.commit(oid)
            yield commit
            oid = commit.parents[0] if commit.parents else ""

    def last_change(self, commit: str, path: str) -> Commit:
        """Return the commit that gave a file or folder its content."""
        for found in self.history(commit):
            before = found.parents and self._at(found.parents[0], path)
            if not before or before != self._at(found.oid, path):
                return found
        raise AssertionError("history ends in a commit without parents")

    def _at(self, commit: str, path: str) -> str | None:
        file = self.files(commit).get(path)
        return file.oid if file else self.folders(commit).get(path)

    def put_commit(
        self,
        branch: str,
        changes: Iterable[Add | AddLarge | Delete],
        *,
        summary: str,
        author: str,
        description: str = "",
        parent: str | None = None,
    ) -> Commit:
        """Commit changes on a branch and move it; `parent` is the head that the sender has seen,
        if it says so.

        Raises:
            Refusal: 404 for an unknown branch or file to delete, 412 for a head that has moved, 400 for a bad
                path or an LFS object that is not there or has another size.
        """
        with self.lock:
            head = self.refs("heads").get(branch)
            if head is None and self.refs("heads"):
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            if parent is not None and parent != head:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            blobs = {path: file.oid for path, file in self.files(head).items()} if head else {}
            for change in changes:
                self._apply(change, blobs)
            who = f"{author} <{author}@users.invalid> {int(time.time())} +0000"
            parents = f"parent {head}\n" if head else ""
            message = summary + ("\n\n" + description if description else "")
            head = f"tree {self.put_tree(blobs)}\n{parents}author {who}\ncommitter {who}\n\n{message}"
            commit = self.commit(self.put("commit", head.encode()))
            self.set_ref("heads", branch, commit.oid)
            return commit

    def _apply(self, change: Add | AddLarge | Delete, blobs: dict[str, str]) -> None:
        path = check_path(change.path)
        if isinstance(change, Add):
            blobs[path] = self.put("blob", change.content)
        elif isinstance(change, AddLarge):
            there = self.large(change.sha256)
            if not there.exists():
                raise Refusal(
                    400,
                    f"LFS pointer of {path!r} points to an object that was never uploaded: {change.sha256}",
                )
            size = there.stat().st_size
            if change.size not in (None, size):
                raise Refusal(
                    400, f"{path!r} is said to hold {change.size} bytes; its LFS object holds {size}"
                )
            blobs[path] = self.put("blob", POINTER.format(sha256=change.sha256, size=size).encode())
        else:
            gone = [p for p in blobs if (p.startswith(path + "/") if change.folder else p == path)]
            if not gone:
                what = "folder" if change.folder else "file"
                raise Refusal(404, f"A {what} with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del blobs[name]

    # Refs

    def refs(self, kind: str) -> dict[str, str]:
        """Return name and commit of all `heads` or `tags`."""
        root = self.folder / "refs" / kind
        found = (
            path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".new-")
        )
        return {path.relative_to(root).as_posix(): path.read_text().strip() for path in found}

    def set_ref(self, kind: str, name: str, commit: str) -> None:
        """Point a branch or tag to a commit."""
        if not REF.fullmatch(name) or name.startswith("refs/"):
            raise Refusal(400, f"Invalid reference name: {name!r}")
        try:
            write_whole(self.folder / "refs" / kind / name, commit.encode() + b"\n")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise Refusal(400, f"{name!r} and another reference cannot be there at once") from None

    def delete_ref(self, kind: str, name: str) -> None:
        """Delete a branch or tag."""
        if name not in self.refs(kind):
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        (self.folder / "refs" / kind / name).unlink()

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, a tag or a (full) commit name stands for."""
        short = re.sub("^refs/(heads|tags)/", "", revision)
        for kind in ("heads", "tags"):
            if short in (refs := self.refs(kind)):
                return refs[short]
        path = self.folder / "objects" / revision[:2] / revision[2:]
        if re.fullmatch("[0-9a-f]{40}", revision) and path.exists():
            if zlib.decompress(path.read_bytes()).startswith(b"commit "):
                return revision
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class Store:
    """All repositories under a folder; `quota` bounds the LFS bytes of a namespace."""

    def __init__(self, folder: Path):
        self.folder, self.quota = Path(folder), None
        self.lock = threading.RLock()
        self.open: dict[tuple[str, str], Repo] = {}

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """Return a repository of kind `model`, `dataset` or `space`, if it is there."""
        folder = self.folder / f"{kind}s" / repo_id
        with self.lock:
            if not (folder / "settings.json").exists():
                return None
            return self.open.setdefault((kind, repo_id), Repo(folder, kind, repo_id))

    def named(self, name: str) -> Repo | None:
        """Return the repository called `model ann/name`, if it is there."""
        return self.find(*name.split(" "))

    def foreign_commit(self, repo: str, files: dict[str, str], branch: str = "main") -> str:
        """Commit small files as somebody else would, return the commit."""
        changes = [Add(path, text.encode()) for path, text in files.items()]
        return self.named(repo).put_commit(branch, changes, summary="From elsewhere", author="bob").oid

    def create(self, kind: str, repo_id: str, **settings) -> Repo:
        """Create a repository without commits."""
        folder = self.folder / f"{kind}s" / check_name(repo_id)
        with self.lock:
            write_whole(folder / "HEAD", b"ref: refs/heads/main\n")
            (folder / "objects").mkdir()
            (folder / "refs" / "heads").mkdir(parents=True)
            (folder / "lfs").mkdir()
            write_whole(
                folder / "settings.json", json.dumps({"created": int(time.time())} | settings).encode()
            )
            return self.find(kind, repo_id)

    def delete(self, repo: Repo) -> None:
        """Delete a repository with all that it holds."""
        with self.lock:
            self.open.pop((repo.kind, repo.id), None)
            trash = tempfile.mkdtemp(dir=self.folder)
            os.replace(repo.folder, Path(trash) / "repo")
            shutil.rmtree(trash)

    def all(self, kind: str) -> list[Repo]:
        """Return all repositories of a kind."""
        found = sorted((self.folder / f"{kind}s").glob("*/*/settings.json"))
        return [self.find(kind, "/".join(path.parts[-3:-1])) for path in found]

    def check_quota(self, namespace: str, more: int) -> None:
        """Refuse bytes that do not fit into what a namespace may store."""
        if self.quota is None:
            return
        repos = [repo for kind in ("model", "dataset", "space") for repo in self.all(kind)]
        used = sum(repo.used() for repo in repos if repo.id.startswith(namespace + "/"))
        if used + more > self.quota:
            raise Refusal(
                403, "Storage limit reached, please upgrade your plan to increase your storage limit"
            )
