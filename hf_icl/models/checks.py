"""What the model configs share: rules that raise `ConfigError`, and keywords that are misspelt."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from hf_icl.errors import ConfigError


def require(holds: bool, config: object, field: str, rule: str, hint: str = "") -> None:
    """Raise `ConfigError` about a config's field unless the rule holds.

    >>> from types import SimpleNamespace
    >>> require(False, SimpleNamespace(n_layers=0), "n_layers", "must be positive", "Raise it.")
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: n_layers = 0: must be positive. Raise it.
    """
    if not holds:
        raise ConfigError(field, getattr(config, field), rule, hint)


def require_count(config: object, field: str, least: int) -> None:
    """Raise `ConfigError` unless a config's field is a whole number of at least `least`."""
    rule = f"must be a whole number of at least {least}"
    require(is_count(getattr(config, field), least), config, field, rule, f"{least} is the least.")


def require_one_of(config: object, field: str, known: tuple) -> None:
    """Raise `ConfigError` unless a config's field has one of the known values."""
    value = getattr(config, field)
    require(
        value in known, config, field, f"must be one of {', '.join(map(str, known))}", f"Take {known[0]}."
    )


def is_count(value: object, least: int) -> bool:
    """Say whether a value is a whole number of at least `least`; True and False are not numbers here.

    >>> is_count(3, 1), is_count(3.0, 1), is_count(True, 1)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object, least: float) -> bool:
    """Say whether a value is a finite number of at least `least`.

    >>> is_number(0.5, 0), is_number(float("nan"), 0), is_number("1", 0)
    (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < math.inf


def reject_misspelt(
    extra: Mapping[str, Any], known: Iterable[str], aliases: Mapping[str, str] | None = None
) -> None:
    """Refuse extra keywords that look like a misspelt field, or that name a field by its Hugging Face alias.

    `PretrainedConfig` takes any keyword and keeps it, so `n_layer=4` would be stored and change nothing. Keywords
    that resemble no field pass: Hugging Face puts its own there.

    Args:
        extra: The keywords that no field took.
        known: Names of the fields.
        aliases: Hugging Face name to field, as in `attribute_map`. They can be read, not passed.

    Raises:
        ConfigError: With the right spelling.

    >>> reject_misspelt({"n_layer": 4}, ["n_layers", "n_heads"])
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: n_layer = 4: unknown key. Did you mean n_layers?
    """
    for key, value in extra.items():
        near = (aliases or {}).get(key) or next(
            iter(difflib.get_close_matches(key, known, n=1, cutoff=0.8)), None
        )
        if near is not None:
            raise ConfigError(key, value, "unknown key", f"Did you mean {near}?")
