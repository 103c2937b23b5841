"""The config of a run, from bank to last step, and where it comes from: defaults, preset or file,
command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pydantic

from hf_icl.banks.kinds import reads_tokenizer
from hf_icl.circuits.held import HeldText
from hf_icl.config import Config, Seed, nest, parse_overrides
from hf_icl.errors import ConfigError
from hf_icl.models.config import ModelConfig
from hf_icl.runs.layers import lay
from hf_icl.runs.presets import read_source
from hf_icl.summary.heads import INSTRUMENT
from hf_icl.task.config import TaskConfig
from hf_icl.task.sample import MOST_ANSWERS, N_ANSWERS
from hf_icl.training.config import TrainingConfig
from hf_icl.training.schedule import Schedule


class EvaluateConfig(Schedule):
    """When a run is measured, and what beside its evaluators."""

    heads: bool = pydantic.Field(
        default=False, description="Measure every attention head too: whether it looks at the right label."
    )

    repeats: bool = pydantic.Field(
        default=False,
        description="Of a language model, measure what it makes of random tokens given twice: ICL score and "
        "prefix matching.",
    )
    prompt: bool = pydantic.Field(
        default=False,
        description="Of a language model, measure icl in the whole vocabulary too, and calibrated by the "
        "labels' prior.",
    )
    text: HeldText | None = pydantic.Field(
        default=None,
        description="Of a language model, measure the loss on a held text: a file or a data set, as in "
        "{source: held.txt}.",
    )
    answers: int = pydantic.Field(
        default=N_ANSWERS,
        ge=0,
        le=MOST_ANSWERS,
        description="How many sequences of each evaluator have their answers kept, for the report.",
    )

    @property
    def instruments(self) -> tuple[str | HeldText, ...]:
        """What is measured beside the evaluators: by name, or the text that is read."""
        named = {INSTRUMENT: self.heads, "repeats": self.repeats, "prompt": self.prompt}
        return (*(name for name, wanted in named.items() if wanted), *([self.text] if self.text else []))


class RunConfig(Config):
    """Everything that decides the numbers of a run."""

    seed: Seed = pydantic.Field(default=0, description="Seed of weights, sequences and (by default) bank.")
    task: TaskConfig = pydantic.Field(
        default_factory=TaskConfig, description="What is learned and what is asked."
    )
    model: ModelConfig = pydantic.Field(default_factory=ModelConfig, description="The network.")
    training: TrainingConfig = pydantic.Field(
        default_factory=TrainingConfig, description="How it is trained."
    )
    evaluate: EvaluateConfig = pydantic.Field(
        default_factory=lambda: EvaluateConfig(every=500), description="When it is measured."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_vocabulary_from_model(cls, tree: Any) -> Any:
        """A bank of tokens that names no checkpoint is read by the model to be fine-tuned."""
        bank, model = ((tree.get(part) or {}) for part in ("task", "model"))
        bank = bank.get("bank") if isinstance(bank, dict) else None
        if not isinstance(bank, dict) or not reads_tokenizer(bank) or "source" in bank:
            return tree
        if not isinstance(model, dict) or not model.get("pretrained"):
            rule = f"a bank of kind {bank['kind']} needs a checkpoint"
            raise ConfigError("task.bank.source", None, rule, "Set it, or model.pretrained for both.")
        own = {"source": model["pretrained"], "revision": model.get("revision")}
        return tree | {"task": tree["task"] | {"bank": bank | own}}


def read_config(recorded: Mapping[str, Any]) -> RunConfig:
    """Return the config that a run was made with, from what was written of it then.

    What a setting decides that came later was decided otherwise before: a bank of tokens that says nothing of
    which ones took any, and `icl` gave its classes the first two labels.

    >>> bank = {"kind": "vocabulary", "source": "me/model"}
    >>> task = read_config({"task": {"bank": bank}}).task
    >>> task.bank.tokens, task.icl_labels
    ('any', 'first')
    """
    task = recorded.get("task")
    bank = task.get("bank") if isinstance(task, Mapping) else None
    if not isinstance(bank, Mapping) or not reads_tokenizer(bank):
        return RunConfig(**recorded)
    bank = {"tokens": "any"} | dict(bank) if bank["kind"] == "vocabulary" else bank
    return RunConfig(**{**recorded, "task": {"icl_labels": "first"} | dict(task) | {"bank": bank}})


def load_config(source: str = "default", overrides: Iterable[str] | Mapping[str, Any] = ()) -> RunConfig:
    """Build a run's config from a preset's name or a YAML file, and settings on top.

    Args:
        source: A preset, or a file ending in .yaml; see `hf-icl presets`.
        overrides: Words `key=value`, whose values are YAML, or a mapping of dotted keys to values.

    Raises:
        ConfigError: If source or a key is unknown, or a value breaks a rule.

    >>> load_config("default", ["seed=3", "training.steps=10"]).training.steps
    10
    >>> load_config("default", {"training.steps": 10}).training.steps
    10
    >>> load_config("default", ["evaluate.steps=[5, 10]"]).evaluate.every is None
    True
    """
    top = nest(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return RunConfig(**lay(read_source(source), top))
