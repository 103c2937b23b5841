"""What a data set of sequences holds, from the flat keyword arguments of `load_dataset`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pydantic

from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.kinds import KINDS
from hf_icl.config import Config, unknown_key
from hf_icl.errors import ConfigError
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.task.config import TaskConfig
from hf_icl.task.evaluators import EVALUATORS, TRAIN_SPLIT

SPEC_FIELDS = tuple(SequenceSpec.model_fields)
TASK_FIELDS = ("train", "evaluators", "extra_evaluators", "n_eval_sequences")
OWN_FIELDS = ("n_sequences", "with_exemplars", "seed")
# Bank fields of these names are written bank_<name>: they mean something else to a spec, a set, or
# load_dataset.
AMBIGUOUS = {*SPEC_FIELDS, *TASK_FIELDS, *OWN_FIELDS, "features", "split", "revision"}


class DatasetConfig(Config):
    """A task, and how much of it to write down."""

    task: TaskConfig = pydantic.Field(
        default_factory=TaskConfig, description="Bank, sequences and evaluators."
    )
    n_sequences: int = pydantic.Field(default=100_000, ge=1, lt=2**63, description="Rows of the split train.")
    with_exemplars: bool = pydantic.Field(
        default=False, description="Whether rows hold the exemplars, not only their ids."
    )
    seed: int = pydantic.Field(
        default=0, ge=0, lt=2**63, description="Seed of sequences and (by default) bank."
    )

    @pydantic.model_validator(mode="after")
    def _check_split_names(self) -> Self:
        for name in self.task.extra_evaluators:
            if name in ("all", EVALUATORS[TRAIN_SPLIT].split) or not re.fullmatch(r"[A-Za-z]\w*", name):
                rule = "an evaluator becomes a split, and no split can be called so"
                raise ConfigError("extra_evaluators", name, rule, "Use letters, digits and _.")
        return self


def name_fields(kind: str) -> dict[str, str]:
    """Return the bank's fields by the name of their keyword argument.

    >>> [name for name, field in name_fields("features").items() if name != field]
    ['bank_seed', 'bank_features', 'bank_labels', 'bank_split']
    """
    fields = [field for field in KINDS[kind].model_fields if field != "kind"]
    return {f"bank_{field}" if field in AMBIGUOUS else field: field for field in fields}


def parse_arguments(kind: str, arguments: Mapping[str, Any]) -> DatasetConfig:
    """Turn flat keyword arguments into a config.

    Args:
        kind: Kind of bank: gaussian, symbolic, omniglot, features or vocabulary.
        arguments: Fields of the bank (its seed as bank_seed), of the training sequences' spec, of the task
            (`train` as a mapping, or a list of mappings for a mixture; `evaluators`; `extra_evaluators`;
            `n_eval_sequences`) and `n_sequences`, `with_exemplars`, `seed`. What is left out is as in
            `TaskConfig()`.

    Raises:
        ConfigError: If an argument is unknown, out of range, or at odds with another.

    >>> config = parse_arguments("gaussian", {"n_classes": 64, "zipf": 1.0, "bank_seed": 3})
    >>> config.task.bank.n_classes, config.task.bank.seed, config.task.train.zipf, config.task.train.n_context
    (64, 3, 1.0, 4)
    >>> parse_arguments("gaussian", {"n_clases": 64})
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: n_clases = 64: unknown key. Did you mean n_classes?
    """
    if kind not in KINDS:
        raise ConfigError(
            "name", kind, f"there are {', '.join(KINDS)}", 'For example: load_dataset("hf_icl", "gaussian")'
        )
    bank_names = name_fields(kind)
    known = (*bank_names, *SPEC_FIELDS, *TASK_FIELDS, *OWN_FIELDS)
    for name, value in arguments.items():
        if name not in known:
            raise unknown_key(name, value, known)
    bank = {field: arguments[name] for name, field in bank_names.items() if name in arguments}
    spec = {name: arguments[name] for name in SPEC_FIELDS if name in arguments}
    task = {name: arguments[name] for name in TASK_FIELDS if name in arguments}
    own = {name: arguments[name] for name in OWN_FIELDS if name in arguments}
    task["train"] = _join_train(task.get("train"), spec)
    try:
        bank_config = KINDS[kind](**bank)
    except ConfigError as error:
        given = {field: name for name, field in bank_names.items()}
        error.field = given.get(error.field, error.field)
        raise
    return DatasetConfig(task=TaskConfig(bank=bank_config, **task), **own)


def _join_train(train: Any, spec: dict[str, Any]) -> Any:
    """Lay flat fields over the one training spec, which is the task's default where none is given."""
    if isinstance(train, Sequence) and not isinstance(train, str):
        if spec:
            name, value = next(iter(spec.items()))
            raise ConfigError(
                name, value, "train is a mixture of several specs", f"Set {name} in each of them."
            )
        return train
    if isinstance(train, Mapping):
        try:
            return SequenceSpec(**(dict(train) | spec))
        except ConfigError as error:
            raise (error if error.field in spec else error.within("train")) from None
    base = TaskConfig().train if train is None else train
    return base.replace(**spec) if isinstance(base, SequenceSpec) else base


def fingerprint_files(bank: BankConfigBase) -> str:
    """Hash names, sizes and times of the local files that a bank is made from;
    an address stands for itself."""
    digest = hashlib.sha256()
    for field in ("source", "labels"):
        path = Path(str(getattr(bank, field, None) or "")).expanduser()
        if path.is_file() or (path.is_dir() and path.parts):
            files = [path] if path.is_file() else sorted(path.rglob("*"))
            stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
            digest.update(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode())
    return digest.hexdigest()[:32]
