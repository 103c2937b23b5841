"""What keeps weights small while they are fitted."""

from __future__ import annotations

from typing import Literal, Self

import pydantic
from torch import nn

from hf_icl.config import MOST, Config, name_part
from hf_icl.errors import ConfigError
from hf_icl.models.groups import find_parameters


class Regularization(Config):
    """What keeps weights small: AdamW's decoupled decay,
    or the sum of squares added to the mean loss (true L2).

    Source of L2 towards the start: Li et al. 2018 (arXiv 1802.01483), L2-SP.
    """

    kind: Literal["none", "decay", "l2"] = pydantic.Field(
        default="none", description="none, decay (AdamW) or l2 (in the loss)."
    )
    strength: float = pydantic.Field(
        default=0.0, ge=0, le=MOST, description="Decay rate, or coefficient of the sum of squares."
    )
    towards: Literal["zero", "start"] = pydantic.Field(
        default="zero",
        description="Of l2, where it pulls: zero, or the weights as they were before training, so that a "
        "pretrained model stays near what it was.",
    )
    groups: tuple[Literal["mlp", "attention", "embeddings", "encoder", "head"], ...] | None = pydantic.Field(
        default=None,
        min_length=1,
        description="Parameter groups to which it applies; null: all weights, biases and norms included.",
    )

    @pydantic.model_validator(mode="after")
    def _check_strength(self) -> Self:
        if self.kind == "none" and self.strength:
            rule = "kind 'none' and this strength contradict each other"
            raise ConfigError("strength", self.strength, rule, "Set kind to decay or l2.")
        if self.kind != "none" and "strength" not in self.model_fields_set:
            rule = f"kind {self.kind!r} needs a strength"
            raise ConfigError("strength", None, rule, "Give it one; 0 is the same as kind none.")
        if self.towards != "zero" and self.kind != "l2":
            rule = f"only kind l2 pulls anywhere else than to zero, and this is {self.kind!r}"
            raise ConfigError("towards", self.towards, rule, "Set kind to l2, or leave towards out.")
        return self

    def select(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters to which it applies.

        Raises:
            ConfigError: If a named group has no parameters in this model.
        """
        with name_part("regularization"):
            return find_parameters(model, self.groups)
