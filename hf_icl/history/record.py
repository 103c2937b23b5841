"""What a report knows of one run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

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
        circuits: What was measured of checkpoints by `hf-icl circuits`: rows of `heads` and `effects`, JSON
            types only; empty where nothing was.
    """

    name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    chance: Mapping[str, float]
    n_sequences: Mapping[str, int]
    bank: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    circuits: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
        task = self.config.get("task", {})
        bank = task.get("bank", {})
        own = "tokens" if bank.get("kind") == "vocabulary" and not bank.get("vectors") else "vectors"
        return (task.get("form") or own) == "tokens"


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
    """Return what a group of replicas is called.

    >>> label_group([RunRecord(f"seed-{seed}", {}, {}, [], {}, {}) for seed in range(3)])
    'seed-0 … seed-2 (3 replicas)'
    """
    first, last = group[0].name, group[-1].name
    return first if len(group) == 1 else f"{first} … {last} ({len(group)} replicas)"


def _without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_seeds(item) for key, item in value.items() if key != "seed"}
    return [_without_seeds(item) for item in value] if isinstance(value, list | tuple) else value
