"""Whether there is memory for something, asked before it is taken: the system kills what takes too much."""

from __future__ import annotations

from pathlib import Path

import psutil

from hf_icl.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")  # where a container's limit stands


def count_free_bytes() -> int:
    """Return how many bytes of memory this process may still take, as far as the system tells."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        cached = dict(line.split() for line in lines).get("inactive_file", 0)  # files that may be let go
        return min(free, int(limit) - int(used) + int(cached))
    except (OSError, ValueError):  # no container, or one without a limit: "max"
        return free


def ask_for_memory(n_bytes: int, field: str, value: object, what: str) -> None:
    """Raise `ConfigError` if so many bytes are more than are free.

    Args:
        n_bytes: How many.
        field: The setting that asks for them.
        value: Its value.
        what: What they are for.

    >>> ask_for_memory(1 << 60, "n_classes", 10**9, "the bank")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: n_classes = 1000000000: the bank takes 1,152,921,504.6 GB ... free. Lower it.
    """
    free = count_free_bytes()
    if n_bytes > free:
        rule = f"{what} takes {n_bytes / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"
        raise ConfigError(field, value, rule, "Lower it.")
