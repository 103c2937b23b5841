"""When to evaluate: every n steps, geometrically, or at listed steps."""

from __future__ import annotations

import math
from typing import Any, Self

import pydantic

from hf_icl.config import MOST_STEPS, Config, Step
from hf_icl.errors import ConfigError


class Schedule(Config):
    """The training steps at which a model is measured; the first and the last step always are.

    Exactly one of `every`, `per_decade` and `steps` is set.

    >>> [step for step in range(101) if Schedule(every=50).is_due(step)]
    [0, 50, 100]
    >>> [step for step in range(101) if Schedule(per_decade=3).is_due(step)]
    [0, 1, 2, 5, 10, 22, 46, 100]
    >>> [step for step in range(101) if Schedule(every=50, early=3).is_due(step)]
    [0, 1, 2, 5, 10, 22, 50, 100]
    """

    every: int | None = pydantic.Field(default=None, ge=1, le=MOST_STEPS, description="Every so many steps.")
    early: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=1000,
        description="With every: also so many per 10×, evenly spaced on a log axis, while that is finer; "
        "curves move most at first.",
    )
    per_decade: int | None = pydantic.Field(
        default=None, ge=1, le=1000, description="So many, evenly spaced on a log axis, per 10×."
    )
    steps: tuple[Step, ...] | None = pydantic.Field(
        default=None, max_length=1_000_000, description="These steps."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_number(cls, value: Any) -> Any:
        return {"every": value} if isinstance(value, int) else value

    @pydantic.model_validator(mode="after")
    def _has_one_field(self) -> Self:
        if sum(value is not None for value in (self.every, self.per_decade, self.steps)) != 1:
            raise ConfigError(
                "",
                self.model_dump(exclude_none=True),
                "set exactly one of every, per_decade, steps",
                "Set the others to null.",
            )
        if self.early and not self.every:
            rule = "makes the first steps of every finer, and every is not set"
            raise ConfigError("early", self.early, rule, "Leave it out.")
        return self

    def is_due(self, step: int) -> bool:
        """Return whether to measure after `step` optimizer steps."""
        if step == 0:
            return True
        if self.every:
            return step % self.every == 0 or self._is_early(step)
        if self.per_decade:
            return _is_on_log_grid(step, self.per_decade)
        return step in self.steps

    def _is_early(self, step: int) -> bool:
        """Whether a step is on the fine grid, and the next one there comes before `every` would."""
        if not self.early or not _is_on_log_grid(step, self.early):
            return False
        return step * (10 ** (1 / self.early) - 1) < self.every

    def count(self, last_step: int) -> int:
        """Return how many times a run of so many steps is measured, at the first and the last step too.

        >>> Schedule(every=50).count(120), Schedule(per_decade=3).count(100)
        (4, 8)
        >>> Schedule(every=50, early=3).count(100)
        8
        """
        if self.every:
            due = last_step // self.every
            if self.early:
                fine = range(1, min(last_step, math.ceil(self.every / (10 ** (1 / self.early) - 1))) + 1)
                due += sum(step % self.every != 0 and self._is_early(step) for step in fine)
        elif self.per_decade:
            decades = math.ceil(math.log10(last_step)) + 1 if last_step else 0
            steps = {round(10 ** (n / self.per_decade)) for n in range(decades * self.per_decade)}
            due = sum(1 <= step <= last_step and self.is_due(step) for step in steps)
        else:
            due = len({step for step in self.steps if 1 <= step <= last_step})
        return 1 + due + (not self.is_due(last_step))


def _is_on_log_grid(step: int, per_decade: int) -> bool:
    nearest = round(math.log10(step) * per_decade)
    return step == round(10 ** (nearest / per_decade))
