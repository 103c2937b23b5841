"""What a callback leaves in a trainer's state, and so in its checkpoints, and finds there on resuming."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState

from hf_icl.errors import RunError
from hf_icl.task.evaluators import EVALUATORS, TRAIN_SPLIT
from hf_icl.training.checkpoints import read_state
from hf_icl.wording import shorten

STATE_KEY = "hf_icl"  # no class name: transformers would make such a callback anew, from JSON alone
OLD_STATE_KEY = "TransienceCallback"  # of version 0.1.0
SEQUENCES = "sequences"  # in an entry of the trainer's log
MOST_LOGGED = 10_000  # entries of either kind that a trainer's state keeps, some megabytes


def note(state: TrainerState, name: str, *, n_rows: int, sequences: int) -> None:
    """Leave in a trainer's state what a resumed training needs to know."""
    known = {"n_rows": n_rows, "sequences": sequences, "step": state.global_step}
    state.stateful_callbacks.pop(OLD_STATE_KEY, None)
    state.stateful_callbacks[_key(name)] = {"args": {}, "attributes": known}


def recall(callbacks: Mapping[str, Any], name: str = "") -> dict[str, int]:
    """Return what a callback of that name has left in a state's `stateful_callbacks`; empty if nothing."""
    found = callbacks.get(_key(name)) or (callbacks.get(OLD_STATE_KEY) if not name else None) or {}
    return found.get("attributes", {})


def _key(name: str) -> str:
    return f"{STATE_KEY}/{name}" if name else STATE_KEY


def read_progress(checkpoint: Path) -> dict[str, int]:
    """Return what a checkpoint knows of the measuring: `step`, `sequences` seen and `n_rows` written.

    Raises:
        RunError: If it knows nothing of it, or what it knows is of another step.
    """
    try:
        state = read_state(checkpoint)
        known = recall(state["stateful_callbacks"])
        counts = {name: known[name] for name in ("step", "sequences", "n_rows")}
        if any(type(count) is not int or count < 0 for count in counts.values()):
            raise ValueError(f"counts are {shorten(counts)}")
        if counts["step"] != state["global_step"]:
            raise ValueError(f"step {state['global_step']} was measured at {counts['step']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{checkpoint}: its trainer state is not that of a run ({error}).") from error
    return counts


def find_prefix(name: str) -> str:
    """Return what stands before the metrics of a callback of that name.

    >>> find_prefix("letters"), find_prefix("")
    ('letters/', '')
    """
    return f"{name}/" if name else ""


def name_in_log(metric: str, prefix: str = "") -> str:
    """Return what a metric is called in a trainer's log.

    Of fresh training sequences it is called as their split of a data set: reporters put `train/` before what
    the trainer logs itself, and `train/loss` is taken.

    >>> name_in_log("icl/accuracy"), name_in_log("train/loss"), name_in_log("icl/accuracy", "letters/")
    ('icl/accuracy', 'train_eval/loss', 'letters/icl/accuracy')
    """
    evaluator, slash, measure = metric.partition("/")
    if evaluator == TRAIN_SPLIT:
        evaluator = EVALUATORS[TRAIN_SPLIT].split
    return prefix + evaluator + slash + measure


def bound_log(
    log: list[dict[str, Any]], needed: Iterable[Mapping[str, Any]] = (), most: int = MOST_LOGGED
) -> None:
    """Drop what was logged long ago, in place, now and then: once there is twice as much as is kept.

    The newest entries stay: so many of those that hold a row of the history, and so many of the others.

    Args:
        log: A trainer's `state.log_history`.
        needed: Entries of it that stay in any case.
        most: How many of either kind stay.

    >>> log = [{"step": step, **({"sequences": 8 * step} if step % 2 else {})} for step in range(8)]
    >>> bound_log(log, needed=[log[2]], most=2)
    >>> [entry["step"] for entry in log]
    [2, 4, 5, 6, 7]
    """
    if len(log) < 4 * most:
        return
    kept = {id(entry) for entry in needed}
    for is_row in (True, False):
        kept.update([id(entry) for entry in log if (SEQUENCES in entry) == is_row][-most:])
    log[:] = [entry for entry in log if id(entry) in kept]
