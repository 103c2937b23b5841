"""What a report knows of one run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from hf_icl.history.columns import Columns, clean_points


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One run, as a report sees it.

    Attributes:
        name: What the run is called; unique within a report.
        config: The resolved config, JSON types only.
        provenance: Where the numbers come from: seed, versions, commit, machine, command; JSON types only.
        rows: The history (docs/architecture.md), in any order; of equal steps the last row counts.
        chance: Chance level by metric name.
        n_sequences: Evaluation sequences by evaluator name.
        bank: What is known of the exemplars, see `hf_icl.banks.facts`; empty where it was not kept.
        circuits: What was measured of checkpoints by `hf-icl circuits`: rows of `heads`, `effects` and
            `attention`, JSON types only; empty where nothing was.
        sample: The sequences whose answers the rows hold, by evaluator, see `hf_icl.task.sample`; JSON types
            only; empty where none were kept.
        begins_pretrained: Whether the first row is of a model that was trained before, so that curves may
            begin high.
        axis: What a row's `step` counts: steps, or the tokens seen by then.
    """

    name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    chance: Mapping[str, float]
    n_sequences: Mapping[str, int]
    bank: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    circuits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sample: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    begins_pretrained: bool = False
    axis: Literal["step", "tokens"] = "step"

    @cached_property
    def columns(self) -> Columns:
        """The numbers of the rows."""
        return Columns.of(self.rows)

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of one metric, float64 (n,) each, steps rising;
        of equal steps the last row counts."""
        return clean_points(*self.columns.curve(metric))

    @property
    def reads_tokens(self) -> bool:
        """Whether the model is a causal language model that reads tokens."""
        return reads_tokens(self.config)


def reads_tokens(config: Mapping[str, Any]) -> bool:
    """Return whether the model of a run's config is a causal language model that reads tokens."""
    task = config.get("task", {})
    bank = task.get("bank", {})
    is_read = bank.get("kind") in ("vocabulary", "texts") and not bank.get("vectors")
    own = "tokens" if is_read else "vectors"
    return (task.get("form") or own) == "tokens"


def begins_pretrained(config: Mapping[str, Any]) -> bool:
    """Return whether a run's config fine-tunes a language model as it is.

    A pretrained backbone in vectors form does not count: labels and head are fresh, so its curves begin at
    chance.

    >>> begins_pretrained({"model": {"pretrained": "gpt2"}, "task": {"form": "tokens"}})
    True
    >>> begins_pretrained({"model": {"pretrained": "gpt2"}, "task": {"form": "vectors"}})
    False
    """
    return bool((config.get("model") or {}).get("pretrained")) and reads_tokens(config)


def group_replicas(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Return the runs in groups whose configs differ in seeds alone, in order of first appearance.

    >>> configs = {"a": {"seed": 0, "width": 8}, "b": {"seed": 1, "width": 8}, "c": {"seed": 0, "width": 9}}
    >>> runs = [RunRecord(name, config, {}, [], {}, {}) for name, config in configs.items()]
    >>> [[run.name for run in group] for group in group_replicas(runs)]
    [['a', 'b'], ['c']]
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_without_seeds(run.config), sort_keys=True), []).append(run)
    return list(groups.values())


def label_group(group: Sequence[RunRecord]) -> str:
    """Return what a group of replicas is called: where names differ in a seed at the end, by what they share.

    >>> def label(*names):
    ...     return label_group([RunRecord(name, {}, {}, [], {}, {}) for name in names])
    >>> label("l2=0,seed=0", "l2=0,seed=1", "l2=0,seed=2"), label("default-seed0", "default-seed4")
    ('l2=0, seeds 0–2', 'default, seeds 0, 4')
    >>> label("mine", "yours", "theirs"), label("alone")
    ('mine … theirs (3 replicas)', 'alone')
    """
    names = [run.name for run in group]
    if len(names) == 1:
        return names[0]
    found = [re.fullmatch(r"(.*?)[-_,. ]?seed[-_= ]?(\d{1,9})", name) for name in names]
    stems = {one[1] for one in found if one}
    if None in found or len(stems) > 1:
        return f"{names[0]} … {names[-1]} ({len(names)} replicas)"
    text = f"seeds {_write_seeds(sorted(int(one[2]) for one in found if one))}"
    return ", ".join(filter(None, (*stems, text)))


def _write_seeds(seeds: Sequence[int]) -> str:
    """Return sorted numbers, those that follow one another as a stretch.

    >>> _write_seeds([0, 1, 2, 5, 7, 8])
    '0–2, 5, 7, 8'
    """
    stretches: list[list[int]] = []
    for seed in seeds:
        if stretches and seed == stretches[-1][-1] + 1:
            stretches[-1].append(seed)
        else:
            stretches.append([seed])
    return ", ".join(f"{s[0]}–{s[-1]}" if len(s) > 2 else ", ".join(map(str, s)) for s in stretches)


def _without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_seeds(item) for key, item in value.items() if key != "seed"}
    return [_without_seeds(item) for item in value] if isinstance(value, list | tuple) else value
