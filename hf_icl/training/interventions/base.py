"""What every intervention has: when it is in force, and what it does to one model."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pydantic
from torch import nn
from torch.optim import Optimizer

from hf_icl.circuits.attention import Visitor
from hf_icl.config import MOST, MOST_STEPS, Config
from hf_icl.errors import ConfigError
from hf_icl.task.evaluators import ICL
from hf_icl.task.task import Task
from hf_icl.training.progress import name_in_log

Log = Sequence[Mapping[str, Any]]  # a trainer's `state.log_history`


class Trigger(Config):
    """A measure that has fallen from its peak.

    >>> log = [{"step": step, "icl/accuracy": value} for step, value in [(0, 0.2), (50, 0.9), (99, 0.7)]]
    >>> Watch(0, Trigger(falls_by=0.15)).find(log), Watch(0, Trigger(falls_by=0.5)).find(log)
    (99, None)
    """

    metric: str = pydantic.Field(
        default=ICL, description="What is watched, by the name under which the trainer logs it."
    )
    falls_by: float = pydantic.Field(
        gt=0, le=MOST, description="How far below its highest value so far it must be."
    )


class Watch:
    """Finds the step after which something begins, in a log that grows at its end.

    Args:
        start: Not before this step.
        trigger: What must have happened; None: nothing.

    Attributes:
        needed: Entries of what it has read from which another one would find the same: the peak's, and the
            one at which it began.
    """

    def __init__(self, start: int, trigger: Trigger | None) -> None:
        self._start, self._trigger = start, trigger
        self._last, self._peak = None, -math.inf
        self._first = start if trigger is None else None
        self.needed: list[Mapping[str, Any]] = []

    def find(self, log: Log) -> int | None:
        """Return the step, None as long as it has not come. Of a log only what is new is read."""
        if self._first is not None or not log:
            return self._first
        fresh = list(itertools.takewhile(lambda entry: entry is not self._last, reversed(log)))
        self._last = log[-1]
        names = (self._trigger.metric, name_in_log(self._trigger.metric, ""))
        for entry in reversed(fresh):
            if (value := next((entry[name] for name in names if name in entry), None)) is None:
                continue
            if value > self._peak:
                self._peak, self.needed = value, [entry]
            if entry["step"] >= self._start and value <= self._peak - self._trigger.falls_by:
                self._first, self.needed = entry["step"], [*self.needed, entry]
                break
        return self._first


class Action:
    """What an intervention does to one model while it is in force; here nothing.

    Attributes:
        visitor: Looks into the model's attention meanwhile, and changes it; None: attention stays as it is.
    """

    visitor: Visitor | None = None

    def begin_step(self, elapsed: int, step: int, optimizer: Optimizer) -> None:
        """Prepare a step; calling it twice does what calling it once does.

        Args:
            elapsed: Steps taken since the intervention came into force; 0: this is the first one.
            step: Steps taken since the start of training.
            optimizer: What moves the weights.
        """

    def before_update(self, optimizer: Optimizer) -> None:
        """Change gradients or weights, between clipping and the optimizer's step."""

    def after_update(self) -> None:
        """Change weights after the optimizer's step."""

    def end(self) -> None:
        """Let go: the intervention is not in force any more."""


class Intervention(Config, abc.ABC):
    """Something that is done to a model while it learns, from one step to another.

    What is in force changes steps `start` + 1 to `stop`, and what is measured in that time.
    """

    changes_attention: ClassVar[bool] = False
    reads_gradients: ClassVar[bool] = False

    start: int = pydantic.Field(
        default=0, ge=0, le=MOST_STEPS, description="Begins after this step; with `when`, not before it."
    )
    stop: int | None = pydantic.Field(
        default=None, ge=1, le=MOST_STEPS, description="Ends after this step; null: never."
    )
    when: Trigger | None = pydantic.Field(
        default=None,
        description="Begin only once a measure has fallen from its peak, as in {falls_by: 0.1}.",
    )

    @pydantic.model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.stop is not None and self.stop <= self.start:
            rule = f"must come after start = {self.start}"
            raise ConfigError("stop", self.stop, rule, "Or leave it out: it then lasts to the end.")
        return self

    def watch(self) -> Watch:
        """Return what finds the step after which this begins."""
        return Watch(self.start, self.when)

    @abc.abstractmethod
    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return what is done to a model.

        Raises:
            ConfigError: If it cannot be done to this one.
        """


def check_trigger(intervention: Intervention, task: Task) -> None:
    """Raise `ConfigError` if a measure is watched that the task's evaluators do not give."""
    if intervention.when is None or "/" not in intervention.when.metric:
        return  # other names are those of the trainer's own log
    name = intervention.when.metric.partition("/")[0]
    if name not in task.specs and not intervention.when.metric.startswith("heads/"):
        rule = "is no measure of this task"
        hint = f"It has {', '.join(task.specs)}, as in {next(iter(task.specs))}/accuracy."
        raise ConfigError("when.metric", intervention.when.metric, rule, hint)
