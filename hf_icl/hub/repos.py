"""Repositories on the Hub: who will see them, making them, and what a failure means.
Private unless asked otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_icl.errors import ConfigError, HubError
from hf_icl.hub.remote import Content, Head, Remote, RepoType, find_amiss

NAMES = {"model": "model repository", "dataset": "dataset repository", "space": "Space"}
PLACES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


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


def prepare_repo(remote: Remote, *, public: bool = False, space_sdk: str | None = None) -> Head:
    """Make a repository, if it is not there yet, and look whether it is.

    Args:
        remote: Which.
        public: Whether everyone shall see it.
        space_sdk: What serves a Space, such as static.

    Returns:
        Its head.

    Raises:
        ConfigError: If the name is not user/name, or the repository is there with another visibility than
            asked for: nothing becomes public, and nothing private, without being told.
        HubError: If the Hub cannot be asked, or refuses.
    """
    check_repo_id(remote.repo_id)
    head = remote.find()
    if head is None:
        remote.create(public=public, space_sdk=space_sdk)
        head = remote.find()
    if head is None:
        raise HubError(f"{remote.repo_id}: is not there though the Hub made it. Try again.")
    if head.private == public:
        there, asked = ("public", "private") if public is False else ("private", "public")
        way = "Add --public" if there == "public" else "Leave --public out"
        hint = f"{way}, choose another name, or change the repository's visibility on the Hub."
        rule = f"it is there already and {there}, not {asked}"
        raise ConfigError("repository", remote.repo_id, rule, hint)
    return head


def commit_files(
    remote: Remote,
    files: Mapping[str, Content],
    *,
    message: str,
    whole: str | None = None,
    parent: str | None = None,
) -> bool:
    """Put files into a repository by one commit, or by none if they are all there already.

    Args:
        remote: Where to.
        files: Path in the repository to content, or to a file on disk.
        message: Title of the commit.
        whole: A folder of the repository, ending in a slash, that shall hold nothing but these files.
        parent: The commit on which they rest; if another came in between, the Hub refuses.

    Returns:
        Whether there was anything to commit.

    Raises:
        HubError: If the Hub cannot be asked, refuses, or does not show afterwards what was sent.
    """
    before = parent or remote.read_head()
    there = remote.list_files(before)
    gone = [path for path in there if whole and path.startswith(whole) and path not in files]
    if not gone and find_amiss(there, files) is None:
        return False
    return remote.put(files, message=message, parent=before, gone=gone) != before
