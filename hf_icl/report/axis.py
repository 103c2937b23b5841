"""What curves are drawn over: training steps, or the tokens seen by then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {"step": "Training step", "tokens": "Training tokens"}
LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def axis_of(entry: Mapping[str, Any]) -> str:
    """Return the axis of a run or group, an entry of `analyse`: step or tokens."""
    return entry.get("axis", "step")


def format_place(axis: str, place: float) -> str:
    """Return a step, or a number of tokens.

    >>> format_place("step", 12345.6), format_place("tokens", 2_097_152_000), format_place("tokens", 0)
    ('12,346', '2.1B', '0')
    """
    if axis == "tokens":
        for size, unit in LARGE:
            if abs(place) >= size:
                return f"{place / size:.3g}{unit}"
    return f"{place:,.0f}"


def tell_place(axis: str, text: str) -> str:
    """Return a place within a sentence.

    >>> tell_place("step", "1,000"), tell_place("tokens", "2.1B")
    ('step 1,000', '2.1B tokens')
    """
    return f"{text} tokens" if axis == "tokens" else f"step {text}"


def title_on(axis: str, title: str) -> str:
    """Return the title of a measure, which may be a step.

    >>> title_on("tokens", "half-decay, step"), title_on("tokens", "peak")
    ('half-decay, tokens', 'peak')
    """
    if axis != "tokens" or not title.endswith(", step"):
        return title
    return f"{title.removesuffix(', step')}, tokens"
