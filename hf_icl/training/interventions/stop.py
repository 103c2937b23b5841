"""Early stopping: the simplest rescue."""

from __future__ import annotations

from typing import Literal, Self

import pydantic
from torch import nn

from hf_icl.errors import ConfigError
from hf_icl.task.task import Task
from hf_icl.training.interventions.base import Action, Intervention


class Stop(Intervention):
    """Training that ends, with a checkpoint, once a measure has fallen from its peak.

    The last checkpoint is the model then; to have the one at the peak, keep the best in that measure
    (`training.keep_best`).

    >>> from hf_icl.training.interventions.base import Trigger
    >>> Stop(when=Trigger(falls_by=0.1)).when.metric
    'icl/accuracy'
    """

    kind: Literal["early_stop"] = "early_stop"

    @pydantic.model_validator(mode="after")
    def _check_when(self) -> Self:
        if self.when is None or self.stop is not None:
            rule = "stopping needs a measure to wait for, and no step at which it ends"
            raise ConfigError("", self.to_dict(), rule, "Set when, as in {falls_by: 0.1}, and no stop.")
        return self

    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return nothing to do: the callback asks for the end."""
        return Action()
