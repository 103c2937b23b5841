"""Where a run is pushed to, which of its steps become revisions there, and how these are called.

Kept in the run folder, so that a resumed run goes on pushing there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from hf_icl.config import Config, Step
from hf_icl.errors import ConfigError, RunError
from hf_icl.files import write_whole
from hf_icl.reading import read_json
from hf_icl.summary.measures import MEASURES

HUB_FILE = ".hub.json"  # hidden: it may change when a run is over, and its manifest lists what may not
TAG = "step-{:08d}"


class Selection(Config):
    """Which checkpoints to publish, and the most that may come of it.

    >>> Selection(steps="geometric", max_revisions=4).choose(range(1000, 17000, 1000))
    [1000, 3000, 6000, 16000]
    """

    steps: Literal["all", "geometric", "landmarks"] | tuple[Step, ...] = pydantic.Field(
        default="geometric",
        description="all; geometric: ever further apart; landmarks: around onset, peak, half-decay and "
        "crossover of a finished history; or a list of steps.",
    )
    max_revisions: int = pydantic.Field(default=20, ge=1, le=100_000, description="The most revisions.")
    max_gigabytes: float = pydantic.Field(
        default=10.0, gt=0, le=1e6, description="The most that they may take together."
    )

    def choose(self, available: Sequence[int], summary: Mapping[str, Any] | None = None) -> list[int]:
        """Return the steps to publish, in order.

        Args:
            available: Steps at which there is, or will be, a checkpoint.
            summary: Measures by metric name, each with entries such as `peak_step`; needed for landmarks.

        Raises:
            ConfigError: If a step is not available, or there are more than `max_revisions`.
        """
        available = sorted(available)
        if not available:
            return []
        if self.steps == "geometric":
            return space_geometrically(available, self.max_revisions)
        if self.steps == "landmarks":
            return _surround_landmarks(available, summary or {}, self.max_revisions)
        if self.steps == "all":
            chosen = available
        else:
            chosen = sorted(set(self.steps))
            if missing := [step for step in chosen if step not in available]:
                rule = f"there is no checkpoint at {', '.join(map(str, missing))}"
                raise ConfigError("steps", list(self.steps), rule, f"There are: {_shorten(available)}.")
        if len(chosen) > self.max_revisions:
            rule = f"{len(chosen)} revisions are more than max_revisions = {self.max_revisions}"
            raise ConfigError("steps", self.steps, rule, "Raise it, or take geometric.")
        return chosen

    def check_size(self, n_bytes: float) -> None:
        """Raise `ConfigError` if so many bytes are more than allowed."""
        if n_bytes > self.max_gigabytes * 1e9:
            rule = f"these revisions would take {n_bytes / 1e9:.2f} GB"
            raise ConfigError("max_gigabytes", self.max_gigabytes, rule, "Raise it, or publish fewer steps.")


class Target(Config):
    """A model repository on the Hub, and what of a run goes there."""

    repo_id: str = pydantic.Field(pattern=r"^[\w.-]+/[\w.-]+$", description="user/name.")
    public: bool = pydantic.Field(default=False, description="Whether everyone may see it.")
    selection: Selection = pydantic.Field(default_factory=Selection, description="Which steps are published.")
    space: str | None = pydantic.Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="A static Space for the report's page, user/name.",
    )
    dataset: str | None = pydantic.Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="The data set on the Hub that holds the sequences, user/name.",
    )
    wait_seconds: float = pydantic.Field(
        default=600.0, gt=0, le=1e6, description="Longest wait for the Hub when everything else is done."
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
        write_whole(run / HUB_FILE, json.dumps(self.to_dict(), indent=1).encode())

    @classmethod
    def load(cls, run: Path) -> Target | None:
        """Return the target kept in a run folder, None if the run is not pushed anywhere."""
        try:
            return cls(**read_json(run / HUB_FILE))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{run / HUB_FILE}: cannot be read ({error}). Delete it, and push anew."
            ) from error


def name_tag(step: int) -> str:
    """Return the tag of a step.

    >>> name_tag(12000)
    'step-00012000'
    """
    return TAG.format(step)


def read_tag(tag: str) -> int | None:
    """Return the step of a tag, None if it is not one of ours.

    >>> read_tag("step-00012000"), read_tag("v1.0")
    (12000, None)
    """
    match = re.fullmatch("step-([0-9]{8,12})", tag)
    return int(match[1]) if match else None


def space_geometrically(available: list[int], count: int) -> list[int]:
    """Return about `count` of the steps, from the first to the last, ever further apart."""
    first, last = max(1, available[0]), available[-1]
    if count == 1 or len(available) == 1:
        return [last]
    ratio = last / first
    wanted = [first * ratio ** (i / (count - 1)) for i in range(count)]
    return sorted({min(available, key=lambda step, x=x: abs(math.log(max(1, step) / x))) for x in wanted})


def _surround_landmarks(available: list[int], summary: Mapping[str, Any], count: int) -> list[int]:
    """Return the last checkpoint and those before and after each landmark,
    the nearest ones first if too many."""
    landmarks = [name for name, one in MEASURES.items() if one.marker is not None]
    steps = [entry.get(name) for entry in summary.values() for name in landmarks]
    values = [step["value"] if isinstance(step, Mapping) else step for step in steps]
    marks = [value for value in values if value is not None]
    if not marks:
        rule = "the history has no onset, peak or decay yet"
        raise ConfigError("steps", "landmarks", rule, "Take geometric, or wait for the end of the run.")
    beside = {
        step
        for mark in marks
        for side in ([s for s in available if s <= mark][-1:], [s for s in available if s >= mark][:1])
        for step in side
    }
    by_distance = sorted(beside, key=lambda step: (min(abs(step - mark) for mark in marks), step))
    return sorted({*by_distance[: count - 1], available[-1]})


def _shorten(steps: list[int]) -> str:
    words = list(map(str, steps))
    return ", ".join(words if len(words) <= 8 else [*words[:4], "…", *words[-3:]])
