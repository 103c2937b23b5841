"""What a model answered to a few sequences while it trained: some for the page, all as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from hf_icl.errors import RunError
from hf_icl.history.history import unpack_answers
from hf_icl.history.record import RunRecord
from hf_icl.task.evaluators import EVALUATORS
from hf_icl.wording import clean

MOST_EVALUATIONS = 1000  # of a run in the table: of more, so many evenly spaced ones
SEQUENCES_SHOWN, STEPS_SHOWN = 3, 5  # on the page, of each evaluator
LONGEST_NAME = 12  # characters that a place on the page has room for
Answered = tuple[int, dict[str, np.ndarray]]

NUMBERS = pa.list_(pa.int64())
SCHEMA = pa.schema(
    {
        "run": pa.string(), "step": pa.int64(), "evaluator": pa.string(), "sequence": pa.int64(),
        "context_classes": NUMBERS, "context_exemplars": NUMBERS, "context_labels": NUMBERS,
        "query_class": pa.int64(), "query_exemplar": pa.int64(), "label": pa.int64(), "answer": pa.int64(),
        "probability": pa.float32(), "hit": pa.bool_(), "context_names": pa.list_(pa.string()),
        "query_name": pa.string(), "label_name": pa.string(), "answer_name": pa.string(),
    }
)  # fmt: skip
ASKED = (
    "evaluator", "sequence", "context_classes", "context_exemplars", "context_labels", "query_class",
    "query_exemplar", "label", "context_names", "query_name", "label_name",
)  # fmt: skip
"""Columns that are the same at every step."""


def list_answers(run: RunRecord) -> list[Answered]:
    """Return the steps of a run and, by evaluator, what was answered to the sampled sequences.

    Returns:
        Steps rising, of more than 1,000 evaluations so many evenly spaced ones, both ends among them; answers
        as `hf_icl.history.unpack_answers` gives them.

    Raises:
        RunError: If a row's answers are not of the sequences that the run says it sampled.
    """
    if not run.sample:
        return []
    places = np.unique(np.linspace(0, len(run.rows) - 1, MOST_EVALUATIONS).round().astype(int))
    rows = run.rows if len(run.rows) <= MOST_EVALUATIONS else [run.rows[place] for place in places.tolist()]
    by_step = {row["step"]: row["answers"] for row in rows if row.get("answers")}
    return [(step, _unpack(run, step, by_step[step])) for step in sorted(by_step)]


def _unpack(run: RunRecord, step: int, packed: Mapping[str, str]) -> dict[str, np.ndarray]:
    sequences = run.sample["sequences"]
    try:
        found = {name: unpack_answers(packed[name]) for name in sequences if name in packed}
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{run.name}: its answers of step {step:,} cannot be read ({error}).") from error
    for name, answers in found.items():
        if len(answers) != (n_asked := len(sequences[name])):
            raise RunError(
                f"{run.name}: at step {step:,} it has {len(answers)} answers of {name}, and {n_asked} "
                "sequences were sampled. Its history is another run's: put the files back."
            )
    return found


def write_answers(runs: Iterable[RunRecord], path: Path) -> None:
    """Write all answers as Parquet: a row for each run, step, evaluator and sequence.

    `label` is the right one and `answer` the model's, null where its logits were no numbers; `probability` is
    that of the right label, among the labels that the evaluator's primary metric lets a model choose among.
    Names are null where the bank has none.
    """
    with pyarrow.parquet.ParquetWriter(path, SCHEMA) as writer:
        for run in runs:
            if answered := list_answers(run):
                writer.write_table(_tabulate(run, answered))


def _tabulate(run: RunRecord, answered: Sequence[Answered]) -> pa.Table:
    sequences, names = run.sample["sequences"], run.sample["label_names"]
    asked = [_describe(name, one, names) for name, found in sequences.items() for one in found]
    starts = dict(zip(sequences, np.cumsum([0, *map(len, sequences.values())]).tolist(), strict=False))
    rows = [starts[name] + np.arange(len(found)) for _, kept in answered for name, found in kept.items()]
    places = np.concatenate(rows) if rows else np.empty(0, int)
    steps = [np.full(sum(map(len, kept.values())), step) for step, kept in answered]
    answers = np.concatenate([found for _, kept in answered for found in kept.values()])
    given = answers["label"].astype(np.int64)
    columns = pa.Table.from_pylist(asked, pa.schema([SCHEMA.field(name) for name in ASKED])).take(places)
    own = {
        "run": pa.repeat(run.name, len(places)),
        "step": np.concatenate(steps),
        "answer": pa.array(given, mask=given < 0),
        "probability": answers["probability"],
        "hit": given == columns["label"].to_numpy(),
        "answer_name": [_name(label, names) for label in given.tolist()],
    }
    return pa.table({name: own[name] if name in own else columns[name] for name in SCHEMA.names}, SCHEMA)


def _describe(evaluator: str, one: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Return the columns of one sequence that are the same at every step."""
    words = one.get("names") or [None] * len(one["classes"])
    return {
        "evaluator": evaluator,
        "sequence": one["index"],
        "context_classes": one["classes"][:-1],
        "context_exemplars": one["exemplars"][:-1],
        "context_labels": one["labels"][:-1],
        "query_class": one["classes"][-1],
        "query_exemplar": one["exemplars"][-1],
        "label": one["labels"][-1],
        "context_names": None if words[-1] is None else words[:-1],
        "query_name": words[-1],
        "label_name": _name(one["labels"][-1], names),
    }


def _name(label: int, names: Sequence[str] | None) -> str | None:
    return names[label] if names is not None and 0 <= label < len(names) else None


def collect_answers(run: RunRecord, peak_step: float | None) -> dict[str, Any] | None:
    """Return what the page shows of one run's answers; None where none were kept.

    Args:
        run: Whose.
        peak_step: Where its ICL peaks: shown among the steps.
    """
    answered = list_answers(run)
    if not answered:
        return None
    shown = _choose_steps([step for step, _ in answered], peak_step)
    columns = [answered[place] for place in shown]
    sequences, names = run.sample["sequences"], run.sample["label_names"]
    kinds = {name: EVALUATORS.get(name) for name in sequences}
    return {
        "name": run.name,
        "n_kept": max(map(len, sequences.values()), default=0),
        "steps": [{"step": step, "is_peak": step == peak_step} for step, _ in columns],
        "evaluators": [
            {
                "title": kind.title if kind is not None else name,
                "lines": [
                    _write_line(one, [kept[name][row] for _, kept in columns if name in kept], names)
                    for row, one in enumerate(sequences[name][:SEQUENCES_SHOWN])
                ],
            }
            for name, kind in kinds.items()
            if kind is None or kind.is_shown
        ],
    }


def _choose_steps(steps: Sequence[int], peak_step: float | None) -> list[int]:
    """Return places of a few steps: both ends, the peak, and others spread evenly.

    >>> _choose_steps(range(0, 900, 100), 300), _choose_steps([0, 50], None)
    ([0, 3, 4, 6, 8], [0, 1])
    """
    chosen = np.unique(np.linspace(0, len(steps) - 1, STEPS_SHOWN).round().astype(int)).tolist()
    if peak_step in steps and (peak := list(steps).index(peak_step)) not in chosen:
        inner = min(chosen[1:-1], key=lambda place: abs(place - peak))
        chosen[chosen.index(inner)] = peak
    return sorted(chosen)


def _write_line(
    one: Mapping[str, Any], answers: Sequence[np.void], names: Sequence[str] | None
) -> dict[str, Any]:
    """Return one sequence, and what was answered to it at each step shown, as text."""
    right, places = one["labels"][-1], _name_places(one)
    context = zip(places, one["labels"], strict=True)
    shown = [(place, _write_label(label, names), label == right) for place, label in context]
    return {
        "context": shown[:-1],
        "query": places[-1],
        "right": shown[-1][1],
        "cells": [
            {
                "text": _write_label(int(answer["label"]), names),
                "is_hit": int(answer["label"]) == right,
                "share": f"{answer['probability']:.2f}" if np.isfinite(answer["probability"]) else "",
            }
            for answer in answers
        ],
    }


def _name_places(one: Mapping[str, Any]) -> list[str]:
    """Return what stands at each place: names if all are short, else letters for classes, A the query's."""
    names = one.get("names")
    if names and max(map(len, names)) <= LONGEST_NAME:
        return [clean(name) for name in names]
    classes = list(dict.fromkeys([one["classes"][-1], *one["classes"]]))
    letters = dict(zip(classes, ascii_uppercase, strict=False))
    return [letters.get(number, str(number)) for number in one["classes"]]


def _write_label(label: int, names: Sequence[str] | None) -> str:
    return "none" if label < 0 else clean(_name(label, names) or str(label))
