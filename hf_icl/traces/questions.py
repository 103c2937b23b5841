"""What is asked of a model that is there already: a task, and whatever else is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pydantic

from hf_icl.banks.kinds import take_from_model
from hf_icl.config import Config, merge, nest, parse_overrides, suggest
from hf_icl.errors import ConfigError
from hf_icl.runs.config import EvaluateConfig, RunConfig
from hf_icl.runs.layers import lay
from hf_icl.runs.presets import read_source
from hf_icl.task.config import TaskConfig
from hf_icl.training.schedule import Schedule

LANGUAGE_TASK = "finetune"  # the preset whose task a language model gets that names none
PARTS = ("seed", "task", "evaluate", "dtype")


class Questions(Config):
    """What is asked, with everything that decides the numbers."""

    seed: int = pydantic.Field(default=0, ge=0, lt=2**32, description="Seed of sequences and bank.")
    task: TaskConfig = pydantic.Field(
        default_factory=TaskConfig, description="The evaluators and their bank."
    )
    evaluate: EvaluateConfig = pydantic.Field(
        default_factory=lambda: EvaluateConfig(every=1), description="What is measured beside them."
    )
    dtype: Literal["float32", "bfloat16"] = pydantic.Field(
        default="float32", description="Type of a language model's weights in memory."
    )

    def describe(self) -> dict[str, Any]:
        """Return it as JSON types; of `evaluate` what is measured, as there is no when."""
        told = self.to_dict()
        own = {name: value for name, value in told["evaluate"].items() if name not in Schedule.model_fields}
        return told | {"evaluate": own}


def ask_of_run(config: RunConfig, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Questions:
    """Return what a run was asked, with settings on top; see `ask_of_model`."""
    return _build(lay(config.to_dict() | {"dtype": config.model.dtype}, read_words(overrides)))


def ask_of_model(
    source: str | None,
    overrides: Iterable[str] | Mapping[str, Any],
    model: str,
    revision: str | None = None,
) -> Questions:
    """Return what a model is asked that is no run of ours.

    Args:
        source: A preset, or a file ending in .yaml, whose task is taken; None: `finetune`, for a language
            model.
        overrides: Settings on top: `seed`, `task.…`, `evaluate.…` and `dtype`.
        model: A folder, or a name on the Hub. A bank of tokens that names no source is made from it.
        revision: Its revision.

    Raises:
        ConfigError: If a setting is unknown, or breaks a rule.

    >>> asked = ask_of_model(None, ["task.bank.n_classes=64", "seed=3"], "me/model", "step1000")
    >>> asked.task.bank.source, asked.task.bank.revision, asked.task.bank.n_classes, asked.seed
    ('me/model', 'step1000', 64, 3)
    """
    tree = read_source(source or LANGUAGE_TASK)
    dtype = (tree.get("model") or {}).get("dtype", "float32")
    tree = lay({"dtype": dtype} | tree, read_words(overrides))
    if isinstance(bank := (tree.get("task") or {}).get("bank"), Mapping):
        tree = merge(tree, {"task": {"bank": take_from_model(bank, model, revision)}})
    return _build(tree)


def read_words(overrides: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a tree.

    Raises:
        ConfigError: If one means nothing where nothing is trained.
    """
    top = nest(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    asked = top.get("evaluate")
    if asked is not None and not isinstance(asked, Mapping):
        raise ConfigError("evaluate", asked, "must be a mapping", "For example: evaluate.heads=true")
    timed = [f"evaluate.{name}" for name in asked or {} if name in Schedule.model_fields]
    for name in (*(part for part in top if part not in PARTS), *timed):
        rule = "means nothing here, where a model is measured as it is"
        is_of_runs = name in RunConfig.model_fields or name in timed
        hint = f"Known here: {', '.join(PARTS)}." if is_of_runs else suggest(name, PARTS)
        raise ConfigError(name, top.get(name, asked), rule, hint)
    return top


def _build(tree: Mapping[str, Any]) -> Questions:
    known = {part: tree[part] for part in PARTS if tree.get(part) is not None}
    if isinstance(known.get("evaluate"), Mapping):
        own = {name: value for name, value in known["evaluate"].items() if name not in Schedule.model_fields}
        known["evaluate"] = {"every": 1} | own
    else:  # only when it is measured
        known.pop("evaluate", None)
    return Questions(**known)
