"""What a task can be told: its bank, its training sequences, what is asked, and in which form."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from hf_icl.banks.gaussian import GaussianConfig
from hf_icl.banks.kinds import BankConfig
from hf_icl.config import Config, suggest
from hf_icl.errors import ConfigError
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.task.evaluators import EVALUATORS
from hf_icl.task.written import PromptConfig


class TaskConfig(Config):
    """What is learned and what is asked."""

    bank: BankConfig = pydantic.Field(
        default_factory=GaussianConfig, description="Where exemplars come from."
    )
    train: SequenceSpec | Annotated[tuple[SequenceSpec, ...], pydantic.Field(min_length=1)] = pydantic.Field(
        default_factory=lambda: SequenceSpec(n_context=4, burst=1),
        description="How training sequences are drawn; a list is a mixture by weight.",
    )
    evaluators: tuple[str, ...] | None = pydantic.Field(
        default=None, description=f"Which of {', '.join(EVALUATORS)}; null: all that the bank allows."
    )
    by_frequency: bool = pydantic.Field(
        default=False,
        description="Also ask icl and iwl of classes as frequent as in training, of the likeliest quarter "
        "and of the rarest; the others draw classes uniformly even where training does not.",
    )
    extra_evaluators: dict[str, SequenceSpec] = pydantic.Field(
        default_factory=dict, description="Evaluators of your own: name to sequence spec."
    )
    icl_labels: Literal["first", "all"] | None = pydantic.Field(
        default=None,
        description="Labels that icl and icl_holdout give their classes: first (0 and 1), or all (any two); "
        "null: all of a trained vocabulary, whose words are not alike, else first.",
    )
    form: Literal["vectors", "tokens"] | None = pydantic.Field(
        default=None,
        description="How sequences reach a model: vectors for an ICLModel, tokens for any causal language "
        "model; null: tokens for a bank of kind vocabulary, else vectors.",
    )
    prompt: PromptConfig | None = pydantic.Field(
        default=None,
        description="How sequences are written for a language model, as {template: arrow}; null: bare.",
    )
    n_eval_sequences: int = pydantic.Field(
        default=1000, ge=1, le=1 << 24, description="Sequences per evaluator, drawn once."
    )

    @property
    def train_specs(self) -> tuple[SequenceSpec, ...]:
        """The training mixture, one spec or more."""
        return self.train if isinstance(self.train, tuple) else (self.train,)

    @pydantic.model_validator(mode="after")
    def _check_evaluators(self) -> Self:
        for name in self.evaluators or ():
            if name not in EVALUATORS:
                raise ConfigError("evaluators", name, "no such evaluator", suggest(name, EVALUATORS))
        if self.evaluators == () and not self.extra_evaluators:
            rule = "something must be asked of the model"
            raise ConfigError("evaluators", [], rule, "Name one or more, or set null for all.")
        if taken := set(self.extra_evaluators) & set(EVALUATORS):
            raise ConfigError(
                "extra_evaluators", sorted(taken), "these names are taken", "Call yours otherwise."
            )
        longest = self.train_specs[0].n_context
        for name, spec in self.extra_evaluators.items():
            if spec.n_context > longest:
                rule = f"no evaluator may be longer than the training context of {longest}"
                raise ConfigError(f"extra_evaluators.{name}.n_context", spec.n_context, rule, "Shorten it.")
        return self
