"""Where a run is pushed to: kept in the run folder, so that a resumed run goes on pushing there."""

from __future__ import annotations

import json
from pathlib import Path

import pydantic

from hf_icl.config import Config
from hf_icl.errors import ConfigError, RunError
from hf_icl.history import write_atomically
from hf_icl.hub.selection import Selection

HUB_FILE = ".hub.json"  # hidden: it may change when a run is over, and its manifest lists what may not


class Target(Config):
    """A model repository on the Hub, and what of a run goes there."""

    repo_id: str = pydantic.Field(pattern=r"^[\w.-]+/[\w.-]+$", description="user/name.")
    public: bool = pydantic.Field(False, description="Whether everyone may see it.")
    selection: Selection = pydantic.Field(default_factory=Selection, description="Which steps are published.")
    space: str | None = pydantic.Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="A static Space for the report's page, user/name."
    )
    dataset: str | None = pydantic.Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="The data set on the Hub that holds the sequences, user/name.",
    )
    wait_seconds: float = pydantic.Field(
        600.0, gt=0, description="Longest wait for the Hub when everything else is done."
    )

    def save(self, run: Path) -> None:
        """Keep the target in a run folder.

        Raises:
            ConfigError: If the run is pushed to another repository already.
        """
        earlier = self.load(run)
        if earlier is not None and earlier.repo_id != self.repo_id:
            rule = f"{run} is pushed to {earlier.repo_id} already"
            hint = f"Push it there, or delete {run / HUB_FILE} first."
            raise ConfigError("repository", self.repo_id, rule, hint)
        write_atomically(run / HUB_FILE, json.dumps(self.to_dict(), indent=1).encode())

    @classmethod
    def load(cls, run: Path) -> Target | None:
        """Return the target kept in a run folder, None if the run is not pushed anywhere."""
        try:
            text = (run / HUB_FILE).read_text()
        except FileNotFoundError:
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{run / HUB_FILE}: cannot be read ({error}). Delete it, and push anew."
            ) from error
