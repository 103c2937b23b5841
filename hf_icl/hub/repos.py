"""Repositories on the Hub: who will see them, making them, and what a failure means.
Private unless asked otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from hf_icl.errors import ConfigError, HfIclError, HubError

RepoType = Literal["model", "dataset", "space"]
NAMES = {"model": "model repository", "dataset": "dataset repository", "space": "Space"}
PLACES = {"model": "", "dataset": "datasets/", "space": "spaces/"}

CLIENT_ERRORS = (
    HTTPError,
    OSError,
    RuntimeError,
    ValueError,
)  # of these kinds are all that the client raises
PASSING = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # worth another try
FULL = "the quota is used up. Free some space on the Hub, or push less"
REASONS = {
    401: "the Hub does not know this token, or there is none. Log in with: hf auth login",
    402: FULL,
    403: "the token may not write there. Make one with write access, then log in with: hf auth login",
    404: "there is no such repository, or the token may not see it",
    409: "somebody else is changing it. Try again",
    412: "somebody else changed it meanwhile. Try again",
    429: "the Hub asks to slow down. Try again in some minutes",
}


def check_repo_id(repo_id: str) -> None:
    """Raise `ConfigError` unless a name is user/name, in characters that the Hub allows.

    >>> check_repo_id("me")
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: repository = 'me': repositories are named user/name. For example: me/icl-runs
    """
    rule = "repositories are named user/name"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        rule = str(error)
    else:
        if repo_id.count("/") == 1:
            return
    raise ConfigError("repository", repo_id, rule, "For example: me/icl-runs")


def describe_visibility(repo_id: str, repo_type: RepoType, *, public: bool) -> str:
    """Return the sentence that says where something goes and who will see it,
    to be shown before the first byte goes out.

    Raises:
        ConfigError: If the name is not user/name.

    >>> print(describe_visibility("me/data", "dataset", public=False))
    Private: the dataset repository https://huggingface.co/datasets/me/data, seen by its owners only.
    """
    check_repo_id(repo_id)
    place = f"{NAMES[repo_type]} {constants.ENDPOINT}/{PLACES[repo_type]}{repo_id}"
    if public:
        return f"Public: the {place}, seen by everyone."
    return f"Private: the {place}, seen by its owners only."


def prepare_repo(
    repo_id: str,
    *,
    repo_type: RepoType,
    public: bool = False,
    space_sdk: str | None = None,
    api: HfApi | None = None,
) -> str:
    """Make a repository, if it is not there yet.

    Args:
        repo_id: As user/name.
        repo_type: What it holds.
        public: Whether everyone shall see it.
        space_sdk: What serves a Space, such as static.
        api: The Hub's client.

    Returns:
        What `describe_visibility` says, true from now on.

    Raises:
        ConfigError: If the name is not user/name, or the repository is there with another visibility than
            asked for: nothing becomes public, and nothing private, without being told.
        huggingface_hub.errors.HTTPError: Whatever the client raises; see `explain_failures`.
    """
    api = api or HfApi()
    told = describe_visibility(repo_id, repo_type, public=public)
    try:
        private = api.repo_info(repo_id, repo_type=repo_type).private
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type=repo_type, private=not public, space_sdk=space_sdk, exist_ok=True)
        private = api.repo_info(repo_id, repo_type=repo_type).private
    if private == public:
        there, asked = ("public", "private") if public is False else ("private", "public")
        way = "Add --public" if there == "public" else "Leave --public out"
        hint = f"{way}, choose another name, or change the repository's visibility on the Hub."
        raise ConfigError("repository", repo_id, f"it is there already and {there}, not {asked}", hint)
    return told


def commit_files(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    repo_type: RepoType,
    message: str,
    whole: str | None = None,
    parent: str | None = None,
    api: HfApi | None = None,
) -> bool:
    """Put files into a repository by one commit, or by none if they are all there already.

    Args:
        repo_id: Where to.
        files: Path in the repository to content, or to a file on disk.
        repo_type: What the repository holds.
        message: Title of the commit.
        whole: A folder of the repository, ending in a slash, that shall hold nothing but these files.
        parent: The commit on which they rest; if another came in between, the Hub refuses.
        api: The Hub's client.

    Returns:
        Whether there was anything to commit.

    Raises:
        huggingface_hub.errors.HTTPError: Whatever the client raises; see `explain_failures`.
    """
    api = api or HfApi()
    before = parent or api.repo_info(repo_id, repo_type=repo_type).sha
    there = api.list_repo_files(repo_id, repo_type=repo_type, revision=before) if whole else []
    gone = [path for path in there if path.startswith(whole) and path not in files]
    operations = [
        *(CommitOperationDelete(path) for path in gone),
        *(CommitOperationAdd(path, content) for path, content in files.items()),
    ]
    made = api.create_commit(
        repo_id, operations, repo_type=repo_type, commit_message=message, parent_commit=before
    )
    return made.oid != before


@contextmanager
def explain_failures(repo_id: str) -> Iterator[None]:
    """Say in a sentence why the Hub could not be reached or did not do what it was asked,
    instead of a traceback.

    Raises:
        HubError: For every error of the Hub's client. It never holds a token: only what the server said.
    """
    try:
        yield
    except HfIclError:
        raise
    except CLIENT_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # of the disk
        raise HubError(f"{repo_id}: {describe_failure(error)}") from error


def describe_failure(error: Exception) -> str:
    """Return what an error of the Hub's client means, and what to do. Never holds a token:
    only what the server said.

    >>> describe_failure(ConnectionRefusedError("refused"))
    'the Hub cannot be reached (ConnectionRefusedError: refused). Look at the network, then try again.'
    """
    cause = find_cause(error)
    response = getattr(cause, "response", None)
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it."
    if response is None:
        first = (str(cause).strip().splitlines() or [""])[0]
        what = f"{type(cause).__name__}: {first}".rstrip(": ")
        if isinstance(cause, HTTPError | ConnectionError | TimeoutError):
            return f"the Hub cannot be reached ({what}). Look at the network, then try again."
        return f"the client gave up ({what})."
    said = (getattr(cause, "server_message", None) or "").strip().splitlines()[:1]
    reason = REASONS.get(response.status_code, f"the Hub answers {response.status_code}. Try again later")
    if response.status_code == 403 and re.search("storage|quota", " ".join(said), re.IGNORECASE):
        reason = FULL
    return f"{reason}." + "".join(f" The Hub says: {line}" for line in said)


def find_cause(error: BaseException) -> BaseException:
    """Return what the server or the network said: the client wraps it in errors of other kinds here and
    there."""
    while getattr(error, "response", None) is None and isinstance(error.__cause__, HTTPError | OSError):
        error = error.__cause__
    return error


def is_passing(error: Exception) -> bool:
    """Return whether the same request may go through later.

    >>> is_passing(TimeoutError()), is_passing(ValueError("not a name"))
    (True, False)
    """
    cause = find_cause(error)
    response = getattr(cause, "response", None)
    if response is not None:
        return response.status_code in PASSING
    network = isinstance(cause, HTTPError | ConnectionError | TimeoutError)
    return network and not isinstance(cause, OfflineModeIsEnabled)


def read_retry_after(error: Exception) -> float | None:
    """Return how many seconds the server asks to wait, None if it does not say."""
    headers = getattr(getattr(find_cause(error), "response", None), "headers", {})
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
