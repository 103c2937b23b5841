"""L2 or decay that begins, or ends, while a model learns."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_icl.config import MOST
from hf_icl.task.task import Task
from hf_icl.training.interventions.base import Action
from hf_icl.training.interventions.weights import WeightIntervention


class Regularize(WeightIntervention):
    """What keeps weights small for a time, beside `training.regularization`.

    l2: the gradient of strength · Σ w² is added to that of the loss, after clipping. decay: weights are
    multiplied by 1 − rate · strength before the optimizer's step, as AdamW does.

    >>> Regularize(by="l2", strength=1e-3, start=3000).groups is None
    True
    """

    reads_gradients: ClassVar[bool] = True

    kind: Literal["regularize"] = "regularize"
    by: Literal["l2", "decay"] = pydantic.Field(description="l2 (of the loss) or decay (AdamW's).")
    strength: float = pydantic.Field(
        gt=0, le=MOST, description="Coefficient of the sum of squares, or decay rate."
    )

    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return what shrinks the weights."""
        weights = list(self.select(model).values())
        return (_AddSquares if self.by == "l2" else _Decay)(weights, self.strength)


class _AddSquares(Action):
    def __init__(self, weights: list[Tensor], strength: float) -> None:
        self.weights, self.strength = weights, strength

    @torch.no_grad()
    def before_update(self, optimizer: Optimizer) -> None:
        for weight in self.weights:
            if weight.grad is not None:
                weight.grad.add_(weight, alpha=2 * self.strength)


class _Decay(Action):
    def __init__(self, weights: list[Tensor], strength: float) -> None:
        self.weights, self.strength = set(weights), strength

    @torch.no_grad()
    def before_update(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight in self.weights:
                    weight.mul_(1 - group["lr"] * self.strength)
