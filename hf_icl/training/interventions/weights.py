"""Weights held, taken from elsewhere, or begun anew while a model learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from hf_icl.config import MOST_STEPS
from hf_icl.errors import ConfigError
from hf_icl.models.build import load_model
from hf_icl.models.groups import find_parameters
from hf_icl.task.task import Task
from hf_icl.training.checkpoints import check_sound, find_checkpoints, step_of
from hf_icl.training.interventions.base import Action, Intervention

Group = Literal["mlp", "attention", "embeddings", "encoder", "head", "norm"]
Layer = Annotated[int, pydantic.Field(ge=0, lt=4096)]
Weights = dict[str, Tensor]


class WeightIntervention(Intervention):
    """An intervention on some of a model's weights."""

    groups: tuple[Group, ...] | None = pydantic.Field(
        default=None, min_length=1, description="Of these groups; null: of all."
    )
    layers: tuple[Layer, ...] | None = pydantic.Field(
        default=None,
        min_length=1,
        description="Of these blocks alone, counted from 0; null: of all, and of what is in none.",
    )

    def select(self, model: nn.Module) -> Weights:
        """Return the weights that are meant, by name.

        Raises:
            ConfigError: If a group or layer that is named has none in this model.
        """
        return {name: model.get_parameter(name) for name in find_parameters(model, self.groups, self.layers)}


class Freeze(WeightIntervention):
    """Weights that stay as they are: what the optimizer does to them is undone after each step.

    The optimizer's moments of them go on, and their gradients count where gradients are clipped.

    >>> Freeze(layers=[0], start=500).groups is None
    True
    """

    kind: Literal["freeze"] = "freeze"

    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return what holds the weights."""
        return _Hold(self.select(model))


class Graft(WeightIntervention):
    """Weights taken from another model of the same shape: once, or step by step beside its training.

    To keep what was grafted once, add a `Freeze` of the same weights.

    >>> Graft(source="runs/a/checkpoint-2000", layers=[1]).follow
    False
    """

    kind: Literal["graft"] = "graft"
    source: str = pydantic.Field(
        description="A checkpoint's folder, or a run's: its final model, or with follow its checkpoints."
    )
    follow: bool = pydantic.Field(
        default=False,
        description="At each step take, and hold, what the run's newest checkpoint up to that step has.",
    )

    @pydantic.model_validator(mode="after")
    def _check_follow(self) -> Self:
        if self.follow and self.when is not None:
            rule = "steps are followed from the other run's, so that there is nothing to wait for"
            raise ConfigError("when", self.when.to_dict(), rule, "Leave it out, or follow.")
        return self

    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return what grafts the weights; the source is read now, so that it is known to fit.

        Raises:
            ConfigError: If a weight is missing there or of another shape, or there is no checkpoint to
                follow.
            RunError: If the source cannot be read.
        """
        weights, source = self.select(model), Path(self.source)
        if not self.follow:
            return _GraftOnce(weights, read_weights(source, weights))
        if not (folders := find_checkpoints(source)):
            rule = "has no checkpoint to follow"
            raise ConfigError("source", self.source, rule, "Name a run's folder, with keep_checkpoints=null.")
        read_weights(folders[0], weights)
        return _Follow(weights, folders)


class Reset(WeightIntervention):
    """Weights that begin anew, with the optimizer's moments of them: forgetting, active or for a time.

    Fresh values are drawn as those of an untrained model of the same config, from the task's seed and the
    step. At step 0 nothing is reset.

    Source: Anand et al. 2024 (arXiv 2406.00053): embeddings every n steps, or until a step only.

    >>> Reset(groups=["embeddings"], every=500, stop=5000).every
    500
    """

    kind: Literal["reset"] = "reset"
    every: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description="Steps from one time to the next; null: once, where it begins.",
    )

    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return what resets the weights.

        Raises:
            ConfigError: If the model's class cannot build another one from its config.
        """
        if not isinstance(model, PreTrainedModel):
            rule = "cannot be built anew from a config, so that there are no fresh weights to be had"
            raise ConfigError("model", type(model).__name__, rule, "Reset weights of a PreTrainedModel.")
        return _Reset(model, self.select(model), self.every, task.seed)


@torch.no_grad()
def write_weights(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Put values into a model's weights, by name."""
    for name, weight in weights.items():
        weight.copy_(values[name])


def read_weights(folder: Path, wanted: Mapping[str, Tensor]) -> Weights:
    """Return weights of a saved model by name, of the shapes that are wanted."""
    check_sound(folder)
    found = dict(load_model(folder).named_parameters())
    for name, weight in wanted.items():
        shape = tuple(found[name].shape) if name in found else None
        if shape != tuple(weight.shape):
            rule = f"its {name} is {shape or 'missing'}, and {tuple(weight.shape)} here"
            raise ConfigError("source", str(folder), rule, "Graft from a model of the same shape.")
    return {name: found[name].detach() for name in wanted}


def draw_fresh(model: PreTrainedModel, seed: int, step: int) -> Weights:
    """Return the weights of an untrained model of the same class and config; no generator is moved."""
    number = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    with torch.random.fork_rng():
        torch.manual_seed(int(number[0] >> np.uint64(1)))
        fresh = type(model)(copy.deepcopy(model.config))
    return {name: weight.detach() for name, weight in fresh.named_parameters()}


class _Hold(Action):
    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.held: Weights | None = None

    def begin_step(self, elapsed: int, step: int, optimizer: Optimizer) -> None:
        if self.held is None:
            self.held = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def after_update(self) -> None:
        write_weights(self.weights, self.held)

    def end(self) -> None:
        self.held = None


class _GraftOnce(Action):
    def __init__(self, weights: Weights, values: Weights) -> None:
        self.weights, self.values = weights, values

    def begin_step(self, elapsed: int, step: int, optimizer: Optimizer) -> None:
        if elapsed == 0:
            write_weights(self.weights, self.values)


class _Follow(Action):
    def __init__(self, weights: Weights, folders: list[Path]) -> None:
        self.weights, self.folders = weights, folders
        self.at: Path | None = None
        self.held: Weights | None = None

    def begin_step(self, elapsed: int, step: int, optimizer: Optimizer) -> None:
        newest = max((one for one in self.folders if step_of(one) <= step), key=step_of, default=None)
        if newest != self.at:
            self.at, self.held = newest, read_weights(newest, self.weights)
        self.after_update()

    def after_update(self) -> None:
        if self.held is not None:
            write_weights(self.weights, self.held)


class _Reset(Action):
    def __init__(self, model: PreTrainedModel, weights: Weights, every: int | None, seed: int) -> None:
        self.model, self.weights, self.every, self.seed = model, weights, every, seed

    def begin_step(self, elapsed: int, step: int, optimizer: Optimizer) -> None:
        if step == 0 or (elapsed if self.every is None else elapsed % self.every):
            return
        write_weights(self.weights, draw_fresh(self.model, self.seed, step))
        for weight in self.weights.values():
            for moment in optimizer.state.get(weight, {}).values():
                if isinstance(moment, Tensor) and moment.shape == weight.shape:
                    moment.zero_()
