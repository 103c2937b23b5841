"""Where the revisions of a model lie: in a repository on the Hub, or in a folder, each in a folder of its
own."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from huggingface_hub import HfApi

from hf_icl.banks.tokenizer import TOKENIZER_FILES
from hf_icl.errors import HfIclError, HubError, RunError
from hf_icl.files import explain
from hf_icl.hub.bounds import finish_within
from hf_icl.hub.contents import MODEL_SUFFIXES, PLAIN_NAME
from hf_icl.hub.remote import Remote, RemoteFile
from hf_icl.hub.repos import check_repo_id
from hf_icl.runs.run import MODEL_FILES
from hf_icl.training.checkpoints import MANIFEST_FILE, find_damage

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
WHOLE = "model.safetensors"  # beside which shards are the same again
PICKLED = ("*.bin", "*.pt", "*.pth")
Found = TypeVar("Found")
SPARE_BYTES = 50_000_000  # that stay free on a disk


class UnusableError(HfIclError):
    """One revision cannot be measured; the others can."""


class Source(Protocol):
    """A model at several points of its training.

    Attributes:
        name: What people call it: user/name, or the name of a folder.
        place: Where it is: user/name, or the folder's path.
    """

    name: str
    place: str

    def list_names(self) -> dict[str, str | None]:
        """Return the names of its revisions, and the commit of each, None where there are no commits."""

    def identify(self, name: str, commit: str | None) -> str:
        """Return what two revisions share only if their weights are the same.

        Raises:
            UnusableError: If it holds no model that can be loaded.
        """

    def fetch(self, name: str, commit: str | None, scratch: Path) -> Path:
        """Return the folder of a revision's model, which may be one in `scratch`.

        Raises:
            UnusableError: If it is larger than allowed.
            RunError: If it cannot be had now.
        """


def open_source(
    model: str,
    *,
    max_gigabytes: float = 10.0,
    max_seconds: float = 3600.0,
    api: HfApi | None = None,
) -> Source:
    """Return the source that a folder, or the name of a repository on the Hub, stands for.

    Raises:
        RunError: If it is neither.
    """
    if Path(model).expanduser().is_dir():
        return FolderSource(Path(model).expanduser())
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        rule = "neither a run nor a saved model: no such folder, and names on the Hub are USER/REPO"
        raise RunError(f"{model}: {rule}. Check it.")
    check_repo_id(model)
    return HubSource(Remote(model, api=api), max_gigabytes, max_seconds)


class FolderSource:
    """A folder of folders that hold models, as a Trainer writes `checkpoint-N`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name, self.place = folder.resolve().name, str(folder)

    def list_names(self) -> dict[str, str | None]:
        """Return the folders in it that hold a model, or are called like a checkpoint."""
        with explain(self.folder, "Check its permissions.", action="read"):
            folders = [path for path in self.folder.iterdir() if path.is_dir()]
        is_model = {
            path.name for path in folders if any((path / name).exists() for name in (CONFIG, ADAPTER))
        }
        is_named = {path.name for path in folders if fnmatchcase(path.name, "checkpoint-[0-9]*")}
        return dict.fromkeys(sorted(is_model | is_named))

    def identify(self, name: str, commit: str | None) -> str:
        """Return a hash of its weights."""
        folder = self.folder / name
        chosen = choose_files(path.name for path in folder.iterdir() if path.is_file())
        if (folder / MANIFEST_FILE).exists() and (damage := find_damage(folder)) is not None:
            raise UnusableError(damage)
        digest = hashlib.sha256()
        for file in sorted(chosen):
            if is_weights(file):
                with open(folder / file, "rb") as opened:
                    digest.update(file.encode() + hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()

    def fetch(self, name: str, commit: str | None, scratch: Path) -> Path:
        """Return its folder; nothing is copied."""
        return self.folder / name


class HubSource:
    """A repository on the Hub.

    Args:
        remote: Which.
        max_gigabytes: The most that the files of one revision may take.
        max_seconds: The longest that the Hub is waited for, for each revision.
    """

    def __init__(self, remote: Remote, max_gigabytes: float = 10.0, max_seconds: float = 3600.0) -> None:
        self.remote, self.max_gigabytes, self.max_seconds = remote, max_gigabytes, max_seconds
        self.name, self.place = remote.repo_id.rpartition("/")[2], remote.repo_id
        self._listed: dict[str, dict[str, RemoteFile]] = {}

    def list_names(self) -> dict[str, str | None]:
        """Return its branches and tags."""
        return dict(self.wait_for(self.remote.list_refs))

    def identify(self, name: str, commit: str | None) -> str:
        """Return a hash of the hashes that the Hub lists of its weights."""
        files = sorted(self.list_needed(commit).items())
        listed = [f"{path}:{file.sha256 or file.oid}" for path, file in files if is_weights(path)]
        return hashlib.sha256(" ".join(listed).encode()).hexdigest()

    def list_needed(self, commit: str) -> dict[str, RemoteFile]:
        """Return the files of a commit that make its model, and no others.

        Raises:
            UnusableError: If there is no model among them.
        """
        if commit not in self._listed:
            self._listed[commit] = self.wait_for(partial(self.remote.list_files, commit))
        files = self._listed[commit]
        return {path: files[path] for path in choose_files(files)}

    def fetch(self, name: str, commit: str | None, scratch: Path) -> Path:
        """Fetch what makes the model into a folder of `scratch`, and return that."""
        files = self.list_needed(commit)
        n_bytes = sum(file.n_bytes for file in files.values())
        if n_bytes > self.max_gigabytes * 1e9:
            raise UnusableError(
                f"takes {n_bytes / 1e9:,.3g} GB, and {self.max_gigabytes:g} are allowed (--max-gb)"
            )
        folder = scratch / commit
        with explain(folder, "Make room, or choose another place."):
            folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(folder).free
        if n_bytes - there + SPARE_BYTES > free:
            raise RunError(
                f"{folder}: {self.place}, {name}, takes {n_bytes / 1e9:,.3g} GB, and {free / 1e9:,.3g} are "
                "free on this disk. Make room, or choose another --output."
            )

        def download() -> None:
            for path, file in sorted(files.items()):
                self.remote.download(path, file, commit, folder)

        self.wait_for(download)
        return folder

    def wait_for(self, what: Callable[[], Found]) -> Found:
        """Return what a function returns that asks the Hub, if it does so in time.

        Raises:
            HubError: If it takes longer.
        """
        late = f"{self.place}: {self.max_seconds:g} seconds were not enough. Allow more, or try again."
        return finish_within(self.max_seconds, what, late)


def choose_files(names: Iterable[str]) -> list[str]:
    """Return which files make a model: settings, safetensors, tokenizer. Weights are taken once.

    Raises:
        UnusableError: If there is no model among them, or none that may be loaded.

    >>> choose_files(["config.json", "model.safetensors", "model-1-of-2.safetensors", "x.py", "pytorch.bin"])
    ['config.json', 'model.safetensors']
    >>> choose_files(["config.json", "pytorch_model.bin"])
    Traceback (most recent call last):
        ...
    hf_icl.traces.sources.UnusableError: holds pickled weights alone, which are never loaded
    """
    names = [name for name in names if PLAIN_NAME.fullmatch(name)]
    weights = [name for name in names if is_weights(name)]
    if not weights:
        if any(fnmatchcase(name, pattern) for name in names for pattern in PICKLED):
            raise UnusableError("holds pickled weights alone, which are never loaded")
        raise UnusableError("holds no model" if CONFIG in names else "is empty: it holds no model")
    if CONFIG not in names and ADAPTER not in names:
        raise UnusableError(f"holds weights and no {CONFIG}")
    patterns = (*MODEL_FILES, *TOKENIZER_FILES)
    wanted = [
        name
        for name in names
        if name.endswith(MODEL_SUFFIXES) and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if WHOLE in wanted:
        wanted = [name for name in wanted if name == WHOLE or not fnmatchcase(name, "model*.safetensors*")]
    return sorted(wanted)


def is_weights(name: str) -> bool:
    """Return whether a file is one of weights that may be loaded."""
    return any(fnmatchcase(name, pattern) for pattern in WEIGHTS)


def fetch_revision(source: HubSource, revision: str | None, scratch: Path) -> tuple[Path, str]:
    """Fetch one revision of a repository: a branch, a tag or a commit; None: the main branch.

    Returns:
        Its folder, and its commit.

    Raises:
        HubError: If there is no such repository or revision, or it holds no model that may be loaded.
    """
    head = source.remote.find(revision)
    if head is None:
        raise HubError(
            f"{source.place}: there is no such repository, or the token may not see it. "
            "Look at its name, or log in with: hf auth login"
        )
    try:
        return source.fetch(revision or "main", head.commit, scratch), head.commit
    except UnusableError as error:
        named = f", {revision}" if revision else ""
        raise HubError(f"{source.place}{named}: {error}. Name another one with --revision.") from error
