"""What a resumed training takes up: the history as its checkpoint knew it, and how much had been seen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments

from hf_icl.errors import RunError
from hf_icl.history.history import History, Row, make_row
from hf_icl.task.evaluators import EVALUATORS, TRAIN_SPLIT
from hf_icl.training.progress import SEQUENCES, find_prefix, name_in_log, recall

logger = logging.getLogger(__name__)


def restore_history(
    history: History, args: TrainingArguments, state: TrainerState, evaluators: Iterable[str], name: str
) -> None:
    """Make a history hold exactly the rows that a checkpoint knows of, from the trainer's log where it must.

    Args:
        history: What is cut back, or rebuilt.
        args: Of the training that is resumed.
        state: The checkpoint's.
        evaluators: Names of the callback's own.
        name: The callback's.

    Raises:
        RunError: If rows are lost that the checkpoint's log does not hold either.
    """
    history.cut_after(state.global_step)
    expected = recall(state.stateful_callbacks, name).get("n_rows", 0)
    if len(history.rows) >= expected:
        return
    logger.warning(
        "%s holds %d rows where the checkpoint knows %d: it is rebuilt from the trainer's log, "
        "without per-sequence hits and answers, so the rebuilt rows carry no intervals over sequences",
        history.path,
        len(history.rows),
        expected,
    )
    per_step = count_before(args, state, name) / max(state.global_step, 1)
    logged = _rows_from_log(state, evaluators, find_prefix(name), per_step)
    known = {row["step"]: row for row in [*logged, *history.rows]}  # the log may begin late
    if len(known) < expected:
        raise RunError(
            f"{history.path}: rows are lost, and the checkpoint's log knows {len(known)} of its "
            f"{expected}. Put the history back, or resume from another checkpoint."
        )
    history.restore(known[step] for step in sorted(known))


def count_before(args: TrainingArguments, state: TrainerState, name: str) -> int:
    """Return the training sequences seen before the checkpoint, whatever number of devices saw them.

    Steps at which nobody counted are taken to have had the batch size that is set.
    """
    known = recall(state.stateful_callbacks, name)
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return known.get("sequences", 0) + (state.global_step - known.get("step", 0)) * per_step


def set_aside(path: Path) -> None:
    """Keep an earlier run's history under a number of its own: a new run must not lose it."""
    if path.exists():
        number = next(n for n in range(1, 10**6) if not path.with_suffix(f".{n}.jsonl").exists())
        path.rename(path.with_suffix(f".{number}.jsonl"))
        logger.warning("%s was there already and is now %s", path, path.with_suffix(f".{number}.jsonl").name)


def _rows_from_log(state: TrainerState, evaluators: Iterable[str], prefix: str, per_step: float) -> list[Row]:
    """Return the rows that a callback has written, as far as the trainer's log holds them.

    Args:
        state: Whose log.
        evaluators: Names of the callback's own.
        prefix: What stands before its metrics in the log.
        per_step: Sequences per step, for logs that do not say how many were seen.
    """
    fresh = EVALUATORS[TRAIN_SPLIT].split + "/"
    marks = {name_in_log(f"{name}/accuracy", prefix) for name in evaluators}
    marks |= {f"{name}/accuracy" for name in evaluators if not prefix}  # as version 0.1.0 called them
    logged = {entry["step"]: entry for entry in state.log_history if marks & entry.keys()}

    def metrics(entry: Mapping[str, Any]) -> dict[str, float]:
        own = {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
        return {
            name.replace(fresh, f"{TRAIN_SPLIT}/", 1) if name.startswith(fresh) else name: value
            for name, value in own.items()
            if "/" in name
        }

    return [
        make_row(step, entry.get(SEQUENCES, round(step * per_step)), metrics(entry), {})
        for step, entry in sorted(logged.items())
    ]
