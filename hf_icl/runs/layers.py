"""Settings laid over others, where a choice of one of several things takes the place of the other choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_icl.config import merge

# Part of a run's config to the fields of which one is set, each with those that mean nothing without it.
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {"every": ("early",), "per_decade": (), "steps": ()},
    "model": {"backbone": (), "pretrained": ("revision", "lora")},
}


def lay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings with others laid over them: as `merge`, but a choice replaces the one below it.

    >>> lay({"evaluate": {"every": 250, "early": 12}}, {"evaluate": {"steps": [10, 100]}})
    {'evaluate': {'steps': [10, 100]}}
    >>> lay({"evaluate": {"every": 250, "early": 12}}, {"evaluate": {"every": 100}})
    {'evaluate': {'every': 100, 'early': 12}}
    """
    kept = dict(base)
    for part, choices in CHOICES.items():
        below, above = base.get(part), top.get(part)
        if not isinstance(below, Mapping) or not isinstance(above, Mapping):
            continue
        chosen = {name for name in choices if above.get(name) is not None}
        if chosen:
            replaced = [name for name in choices if name not in chosen]
            replaced += [other for name in replaced for other in choices[name]]
            kept[part] = {name: value for name, value in below.items() if name not in replaced}
    return merge(kept, top)
