"""A sweep's config: which settings are varied, and the runs that come of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic import JsonValue

from hf_icl.config import Config, flatten, read_yaml, refuse_secrets, unknown_key
from hf_icl.errors import ConfigError
from hf_icl.report.sweep import write_value
from hf_icl.runs.config import RunConfig, load_config
from hf_icl.sweeps.examples import find_sweep

MAX_NAME = 120  # characters; file systems take 255 bytes


class SweepConfig(Config):
    """Runs that share a base and differ in some settings: a grid, a list of points, or both."""

    base: str = pydantic.Field(
        default="default", description="A preset, or a YAML file seen from the current folder."
    )
    set: dict[str, JsonValue] = pydantic.Field(
        default_factory=dict, description="Settings of all runs: dotted key to value."
    )
    grid: dict[str, list[JsonValue]] = pydantic.Field(
        default_factory=dict, description="Dotted key to its values; a run for each combination."
    )
    points: list[dict[str, JsonValue]] = pydantic.Field(
        default_factory=list, description="Further runs: dotted key to value, each on top of base and set."
    )
    labels: dict[str, str] = pydantic.Field(
        default_factory=dict,
        description="What a key is called in folder names, table and figure; default: its last word.",
    )
    workers: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=4096,
        description="Processes that train at a time; null: one per GPU, or per core without one.",
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ConfigError(
                f"grid.{empty[0]}", [], "a grid needs values", "Name one or more, or leave it out."
            )
        if not self.grid and not self.points:
            rule = "a sweep needs something that varies"
            raise ConfigError("grid", self.grid, rule, "Add grid: {seed: [0, 1]}, or points.")
        if both := [key for key in self.set if key in self.grid]:
            rule = "stands under grid too, which would override it"
            raise ConfigError(f"set.{both[0]}", self.set[both[0]], rule, "Leave one of the two out.")
        return self


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: Of its folder.
        values: Varied dotted keys to this run's values.
        words: The `key=value` words that make it from the base.
        config: What comes of it.
        base: Preset or file that the words are laid over.
    """

    name: str
    values: dict[str, Any]
    words: tuple[str, ...]
    config: RunConfig
    base: str = "default"


def load_sweep(source: str | Path) -> SweepConfig:
    """Read a sweep's YAML file, or an example by its name.

    Raises:
        ConfigError: If it cannot be read, a key is unknown, or a value breaks a rule.
    """
    made = SweepConfig(**read_yaml(find_sweep(source), "sweep file", "For example: {grid: {seed: [0, 1]}}"))
    refuse_secrets(made.to_dict())
    return made


def list_points(sweep: SweepConfig) -> list[Point]:
    """Return the runs of a sweep: the grid's, its last key varying fastest, then the points'.

    Raises:
        ConfigError: If a run's config is wrong, two are the same, or a label is of a key that neither grid
            nor points name.

    >>> strength = "training.regularization.strength"
    >>> kind = {"training.regularization.kind": "l2"}
    >>> sweep = SweepConfig(set=kind, grid={strength: [0, 1e-5], "seed": [0, 1]})
    >>> [point.name for point in list_points(sweep)]
    ['strength=0,seed=0', 'strength=0,seed=1', 'strength=1e-5,seed=0', 'strength=1e-5,seed=1']
    """
    changes = [
        dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())
    ]
    changes = (changes if sweep.grid else []) + list(sweep.points)
    named = dict.fromkeys(key for change in changes for key in flatten(change))
    if unknown := [key for key in sweep.labels if key not in named]:
        raise unknown_key(f"labels.{unknown[0]}", sweep.labels[unknown[0]], named)
    configs = [_load(sweep.base, sweep.set | change, change) for change in changes]
    first: dict[str, int] = {}
    for number, config in enumerate(configs):
        if (earlier := first.setdefault(digest(config), number)) != number:
            rule = f"is the same run as {changes[earlier]}"
            raise ConfigError("sweep", changes[number], rule, "Leave one of the two out.")
    values = _find_varied(named, configs)
    values = [_put_seeds_last(own) for own in values]
    labels = label_keys(values[0], sweep.labels)
    names = tell_apart([name_point(labels, own) for own in values], configs)
    words = [write_words(sweep.set | change) for change in changes]
    return [Point(*fields, sweep.base) for fields in zip(names, values, words, configs, strict=True)]


def _load(base: str, settings: Mapping[str, Any], change: Mapping[str, Any]) -> RunConfig:
    """Return a run's config; errors say which run it is."""
    try:
        return load_config(base, settings)
    except ConfigError as error:
        hint = f"{error.hint} (In the run with {change}.)".lstrip()
        raise ConfigError(error.field, error.value, error.rule, hint) from error


def write_words(settings: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Return settings as the `key=value` words of the command line."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def tell_apart(names: Sequence[str], configs: Sequence[RunConfig]) -> list[str]:
    """Return names of folders, those that are too long or not alone with a part of their config's digest."""
    return [
        name
        if len(name) <= MAX_NAME and names.count(name) == 1
        else f"{name[:MAX_NAME]}-{digest(config)[:8]}"
        for name, config in zip(names, configs, strict=True)
    ]


def digest(config: RunConfig) -> str:
    """Return what tells a config from all others, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()


def _find_varied(named: Iterable[str], configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Return each run's values of the keys that its sweep names and that are not the same in all runs."""
    flat = [flatten(config.to_dict()) for config in configs]
    found = {key: [own.get(key) for own in flat] for key in named}
    varied = [key for key, values in found.items() if len(set(map(repr, values))) > 1]
    return [{key: found[key][number] for key in varied} for number in range(len(configs))]


def _put_seeds_last(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(values.items(), key=lambda item: item[0].rpartition(".")[2] == "seed"))


def label_keys(keys: Sequence[str] | Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return dotted keys to what they are called: as given,
    else as many of their last words as tell them apart.

    >>> label_keys(["task.bank.seed", "seed", "training.clip"], {"training.clip": "largest norm"})
    {'task.bank.seed': 'bank.seed', 'seed': 'seed', 'training.clip': 'largest norm'}
    """
    labels = {key: given[key] for key in keys if key in given}
    for key in keys:
        words = key.split(".")
        tails = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        others = [other for other in keys if other != key]
        labels.setdefault(
            key, next((t for t in tails if not any(f".{other}".endswith(f".{t}") for other in others)), key)
        )
    return {key: labels[key] for key in keys}


def name_point(labels: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """Return what a run's folder is called after its values of some keys."""
    parts = (f"{labels[key]}={_write_choice(value)}" for key, value in values.items())
    return ",".join(re.sub(r"[^\w.+=-]+", "-", part).strip("-") for part in parts) or "run"


def _write_choice(value: Any) -> str:
    """Return a value as it stands in a folder's name: `groups=-mlp` would read as "without mlp".

    >>> [_write_choice(value) for value in (["mlp"], ["mlp", "head"], [], None, 1e-5)]
    ['mlp', 'mlp+head', 'none', 'null', '1e-5']
    """
    if isinstance(value, list | tuple):
        return "+".join(map(_write_choice, value)) or "none"
    return write_value(value)
