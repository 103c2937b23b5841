"""Repositories on the Hub: made privately unless asked otherwise, and never made more visible than asked."""

from __future__ import annotations

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from hf_icl.errors import ConfigError


def prepare_repo(
    repo_id: str, *, repo_type: str, public: bool, space_sdk: str | None = None, api: HfApi | None = None
) -> str:
    """Make a repository unless it is there, and return a sentence that says where it is and who sees it.

    Args:
        repo_id: user/name.
        repo_type: model, dataset or space.
        public: Whether everyone may see it.
        space_sdk: For a Space: static, gradio or docker.
        api: The Hub's client.

    Raises:
        ConfigError: If it is there and public, and was not to be; or there and private, and was to be public.
        HfHubHTTPError: What the Hub answers else.
    """
    api = api or HfApi()
    try:
        is_public = not api.repo_info(repo_id, repo_type=repo_type).private
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type=repo_type, private=not public, space_sdk=space_sdk, exist_ok=True)
        is_public = public
    if is_public and not public:
        rule = f"{repo_id} is public, and without --public nothing goes where everyone sees it"
        raise ConfigError("public", public, rule, "Pass --public, or make it private on the Hub first.")
    if public and not is_public:
        rule = f"{repo_id} is private already"
        raise ConfigError("public", public, rule, "Make it public on the Hub, or leave --public out.")
    seen = "public: everyone can see it" if public else "private: only you and those you let in see it"
    return f"{repo_type} {repo_id} on {api.endpoint}, {seen}"
