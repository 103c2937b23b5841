"""A repository on the Hub, and the one place where what the Hub answers is distrusted.

Every question goes through here: whatever the client raises becomes one sentence, whatever it returns is
checked for its shape and bounded in size, and what is said to be there has been looked at, by commit.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFolder

from hf_icl.errors import HubError
from hf_icl.hub.bounds import MOST_ANSWER_BYTES, bounded
from hf_icl.hub.failures import FailedRequestError, asking
from hf_icl.wording import shorten

RepoType = Literal["model", "dataset", "space"]
Content = Path | bytes
COMMIT, SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
MOST_LISTED = 100_000  # files, tags or commits of a repository


@dataclass(frozen=True)
class Head:
    """The newest commit of a branch, or the one of a tag, and who sees the repository."""

    commit: str
    private: bool


@dataclass(frozen=True)
class RemoteFile:
    """A file as a repository lists it: `oid` is git's hash, `sha256` that of a large file's content."""

    n_bytes: int
    oid: str
    sha256: str | None = None

    def holds(self, content: Content) -> bool:
        r"""Return whether it has this content.

        >>> RemoteFile(6, "ce013625030ba8dba906f756967f9e9ca394464a").holds(b"hello\n")
        True
        """
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size != self.n_bytes:
            return False
        if self.sha256 is not None:
            return _hash(hashlib.sha256(), content) == self.sha256
        return _hash(hashlib.sha1(b"blob %d\0" % size), content) == self.oid


class Remote:
    """One repository on the Hub.

    Args:
        repo_id: user/name.
        repo_type: What it holds.
        api: The Hub's client.

    Raises:
        HubError: By every method: where the Hub cannot be asked, refuses, or answers what cannot be. Of the
            kind `FailedRequestError` where asking again may be of use.
    """

    def __init__(self, repo_id: str, repo_type: RepoType = "model", *, api: HfApi | None = None) -> None:
        self.repo_id, self.repo_type, self.api = repo_id, repo_type, api or HfApi()

    @property
    def _where(self) -> dict[str, str]:
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @contextmanager
    def _asking(self, most_bytes: int = MOST_ANSWER_BYTES) -> Iterator[None]:
        with asking(self.repo_id), bounded(most_bytes):
            yield

    def find(self, revision: str | None = None) -> Head | None:
        """Return the head, None where there is no such repository; one must not be taken for the other."""
        try:
            with self._asking():
                info = self.api.repo_info(**self._where, revision=revision)
                commit, private = info.sha, info.private
        except FailedRequestError as error:
            cause = error.__cause__  # a gated one is there; and no other 404, nor silence, means it is not
            if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
                return None
            raise
        if type(private) is not bool:
            raise self._misshapen("private", private)
        return Head(self._check_commit(commit), private)

    def read_head(self) -> str:
        """Return the newest commit."""
        with self._asking():
            commit = self.api.repo_info(**self._where).sha
        return self._check_commit(commit)

    def create(self, *, public: bool, space_sdk: str | None = None) -> None:
        """Make the repository, unless it is there."""
        with self._asking():
            self.api.create_repo(**self._where, private=not public, space_sdk=space_sdk, exist_ok=True)

    def list_files(self, commit: str) -> dict[str, RemoteFile]:
        """Return the files of a commit by path. Paths are what somebody wrote there: any text."""
        found = {}
        where = self._where | {"revision": commit, "recursive": True}
        for entry in self._collect(lambda: self.api.list_repo_tree(**where)):
            if isinstance(entry, RepoFolder):
                continue
            lfs = getattr(entry, "lfs", None)
            file = RemoteFile(entry.size, entry.blob_id, None if lfs is None else lfs.sha256)
            sound = type(file.n_bytes) is int and file.n_bytes >= 0 and _fits(COMMIT, file.oid)
            if not sound or not (file.sha256 is None or _fits(SHA256, file.sha256)):
                raise self._misshapen("file", vars(file))
            if not isinstance(entry.path, str):
                raise self._misshapen("path", entry.path)
            found[entry.path] = file
        return found

    def list_tags(self) -> dict[str, str]:
        """Return the tags, and the commit of each."""
        return self._read_refs(self._collect(lambda: self.api.list_repo_refs(**self._where).tags))

    def list_refs(self) -> dict[str, str]:
        """Return branches and tags, and the commit of each; of one name the tag, as the Hub takes it."""

        def ask() -> list[Any]:
            found = self.api.list_repo_refs(**self._where)
            return [*found.branches, *found.tags]

        return self._read_refs(self._collect(ask))

    def _read_refs(self, refs: Iterable[Any]) -> dict[str, str]:
        for ref in refs:
            if not isinstance(ref.name, str):
                raise self._misshapen("ref", ref.name)
        return {ref.name: self._check_commit(ref.target_commit) for ref in refs}

    def list_commits(self) -> list[tuple[str, str]]:
        """Return commit and title of each commit of the main branch, the newest first."""
        made = self._collect(lambda: self.api.list_repo_commits(**self._where))
        return [(self._check_commit(one.commit_id), str(one.title)) for one in made]

    def put(
        self,
        files: Mapping[str, Content],
        *,
        message: str,
        parent: str,
        gone: Iterable[str] = (),
    ) -> str:
        """Make one commit, or none if all is there already, and look whether it is there.

        Args:
            files: Path in the repository to content, or to a file on disk.
            message: Title of the commit.
            parent: The commit on which it rests; if another came in between, the Hub refuses.
            gone: Paths that it deletes.

        Returns:
            The commit that holds the files: the new one, or the parent.
        """
        gone = list(gone)
        with self._asking(), warnings.catch_warnings():  # the report's own table is meant to be there
            warnings.filterwarnings("ignore", ".*commit a data file.*", UserWarning)
            operations = [
                *(CommitOperationDelete(path) for path in gone),
                *(
                    CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                    for path, content in files.items()
                ),
            ]
            commit = self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=message,
                repo_type=self.repo_type,
                parent_commit=parent,
            ).oid
        commit = self._check_commit(commit)
        there = self.list_files(commit)
        amiss = find_amiss(there, files) or next((path for path in gone if path in there), None)
        if amiss is not None:
            raise self._unseen(f"{shorten(amiss)} is not as it was sent in commit {commit[:8]}")
        return commit

    def tag(self, name: str, commit: str) -> None:
        """Give a commit a name, and look whether it has it; a name that another commit has is an error."""
        with self._asking():
            self.api.create_tag(**self._where, tag=name, revision=commit, exist_ok=True)
        there = self.list_tags().get(name)
        if there is None:
            raise self._unseen(f"the tag {name} is not there though the Hub took it")
        if there != commit:
            raise self.conflict(name, there)

    def download(self, path: str, file: RemoteFile, commit: str, folder: Path | None = None) -> Path:
        """Fetch one file, and return where it is, if it is what was listed.

        Args:
            path: Which.
            file: As the commit lists it.
            commit: Of the repository.
            folder: Where to; None: the client's cache.
        """
        where = self._where | {"filename": path, "revision": commit, "local_dir": folder}
        with self._asking(file.n_bytes + MOST_ANSWER_BYTES):
            found = Path(self.api.hf_hub_download(**where))
        if not file.holds(found):
            place = "there" if folder is not None else "from the client's cache"
            raise HubError(
                f"{self.repo_id}: {shorten(path)} did not come as it is listed. Delete it {place} ({found}), "
                "then try again."
            )
        return found

    def read(self, path: str, file: RemoteFile, commit: str, most_bytes: int = MOST_ANSWER_BYTES) -> bytes:
        """Return the content of a small file."""
        if file.n_bytes > most_bytes:
            raise HubError(f"{self.repo_id}: {shorten(path)} has {file.n_bytes:,} bytes, which is too much.")
        return self.download(path, file, commit).read_bytes()

    def conflict(self, tag: str, commit: str) -> FailedRequestError:
        """Return the error for a tag that is there, on a commit that holds something else."""
        trouble = (
            f"the tag {tag} is there already, on commit {commit[:8]}, which does not hold that step of this "
            "run. Nothing was changed there. Delete the tag on the Hub, or push to another repository."
        )
        return FailedRequestError(self.repo_id, trouble, passing=False)

    def _collect(self, ask: Callable[[], Iterable[Any]]) -> list[Any]:
        """Return what a listing gives, if it ends."""
        found = []
        with self._asking():
            for entry in ask():
                found.append(entry)
                if len(found) > MOST_LISTED:
                    raise HubError(f"{self.repo_id}: the Hub lists more than {MOST_LISTED:,} entries.")
        return found

    def _check_commit(self, commit: Any) -> str:
        if not _fits(COMMIT, commit):
            raise self._misshapen("commit", commit)
        return commit

    def _misshapen(self, what: str, value: Any) -> FailedRequestError:
        trouble = (
            f"the Hub's answer is not of the shape that it should have ({what}: {shorten(value)}). Try again."
        )
        return FailedRequestError(self.repo_id, trouble, passing=True)

    def _unseen(self, what: str) -> FailedRequestError:
        return FailedRequestError(self.repo_id, f"{what}. Try again.", passing=True)


def find_amiss(there: Mapping[str, RemoteFile], files: Mapping[str, Content]) -> str | None:
    """Return the first of some files that a listing has not, or with other content; None if there is none.

    >>> there = {"a": RemoteFile(6, "ce013625030ba8dba906f756967f9e9ca394464a")}
    >>> find_amiss(there, {"a": b"hello\\n", "b": b""})
    'b'
    """
    amiss = (path for path, content in files.items() if path not in there or not there[path].holds(content))
    return next(amiss, None)


def _fits(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _hash(digest: Any, content: Content) -> str:
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with open(content, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
