"""The circuits of a run, along its checkpoints: which heads look where, and what they are good for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hf_icl.circuits.ablated import Ablation
from hf_icl.circuits.attention import shows_parts
from hf_icl.circuits.drawn import draw_attention
from hf_icl.circuits.effects import Change, count_heads, list_lone_heads, list_single_heads, measure_effects
from hf_icl.circuits.instrument import HeadInstrument
from hf_icl.circuits.path import DirectPath, has_path
from hf_icl.circuits.rows import make_effect_row, make_head_row
from hf_icl.errors import RunError
from hf_icl.files import write_whole
from hf_icl.history.columns import clean_points
from hf_icl.history.history import History
from hf_icl.history.record import RunRecord
from hf_icl.models.build import load_model
from hf_icl.report.figures import render_figure
from hf_icl.report.panels import draw_heads
from hf_icl.runs.folder import ATTENTION_FILE, EFFECTS_FILE, HEADS_FILE
from hf_icl.runs.run import Run
from hf_icl.task.evaluators import ICL
from hf_icl.task.task import Task
from hf_icl.training.checkpoints import find_checkpoints, step_of

MOST_HEADS = 64  # up to here, each head is ablated by itself and left alone
KEPT = {
    "later patterns kept": ("patterns",),
    "later values kept": ("values",),
    "later queries, keys, values kept": ("queries", "keys", "values"),
    "all but queries kept": ("keys", "values"),
    "all but keys kept": ("queries", "values"),
    "all but values kept": ("queries", "keys"),
}


class Checkpoint(NamedTuple):
    """A model of a run, on disk or on the Hub.

    Attributes:
        step: Its step.
        load: Returns the model.
    """

    step: int
    load: Callable[[], nn.Module]


def list_checkpoints(run: Run) -> list[Checkpoint]:
    """Return the whole checkpoints of a run folder by rising step.

    Raises:
        RunError: If there is none.
    """
    folders = find_checkpoints(run.folder)
    if not folders:
        raise RunError(f"{run.folder}: has no whole checkpoint yet. Train first: hf-icl resume {run.folder}")
    return [Checkpoint(step_of(folder), lambda folder=folder: load_model(folder)) for folder in folders]


def choose_ends(history: History, steps: Sequence[int]) -> list[int]:
    """Return the step nearest to ICL's peak, and the last one: where effects are measured by default.

    >>> history = History()
    >>> points = [(0, 0.1), (40, 0.9), (90, 0.2)]
    >>> history.restore({"step": step, "metrics": {"icl/accuracy": value}} for step, value in points)
    >>> choose_ends(history, [30, 60, 90])
    [30, 90]
    """
    known, values = clean_points(*history.rows.columns.curve(ICL))
    if not known.size:
        return [max(steps)]
    peak = known[values.argmax()]
    return sorted({min(steps, key=lambda step: abs(step - peak)), max(steps)})


def list_changes(task: Task, model: nn.Module, how: str = "zero") -> dict[str, Change]:
    """Return the changes that are tried by default, by name.

    Each layer without its heads; the first one's also with parts of later layers kept; of models with 64
    heads or fewer each head left out by itself, and each of the last layer alone there; and the direct path,
    alone and left out. What a family cannot do is left out.
    """
    counts = count_heads(task, model)
    changes: dict[str, Change] = {
        f"without L{layer}": Ablation(heads=(f"L{layer}",), how=how) for layer in counts
    }
    if len(counts) > 1 and shows_parts(model):
        first = min(counts)
        for kept, parts in KEPT.items():
            changes[f"without L{first}, {kept}"] = Ablation(heads=(f"L{first}",), how=how, keep=parts)
    if sum(counts.values()) <= MOST_HEADS:
        changes |= list_single_heads(counts, how) | list_lone_heads(counts, max(counts), how)
    if has_path(model):
        changes |= {"direct path only": DirectPath(part="only"), "no direct path": DirectPath(part="without")}
    return changes


def measure_heads(
    task: Task, checkpoints: Iterable[Checkpoint], *, track: Callable = iter
) -> Iterator[dict[str, Any]]:
    """Yield a row of heads for each checkpoint; see `make_head_row`."""
    for checkpoint in track(checkpoints):
        model = checkpoint.load().eval()
        task.check_model(model)
        yield make_head_row(checkpoint.step, HeadInstrument().measure(task, model))


def draw_sequences(
    task: Task, checkpoints: Iterable[Checkpoint], *, track: Callable = iter
) -> Iterator[dict[str, Any]]:
    """Yield a row of a few sequences' attention for each checkpoint; see `draw_attention`."""
    for checkpoint in track(checkpoints):
        model = checkpoint.load().eval()
        yield {"step": checkpoint.step, "sequences": draw_attention(task, model)}


def measure_changes(
    task: Task, checkpoints: Iterable[Checkpoint], *, how: str = "zero", track: Callable = iter
) -> Iterator[dict[str, Any]]:
    """Yield a row of effects for each checkpoint; see `list_changes` and `make_effect_row`."""
    for checkpoint in track(checkpoints):
        model = checkpoint.load().eval()
        changes = list_changes(task, model, how)
        yield make_effect_row(checkpoint.step, changes, measure_effects(task, model, changes))


def write_circuits(
    name: str,
    folder: Path,
    heads: Sequence[Mapping[str, Any]],
    effects: Sequence[Mapping[str, Any]] = (),
    attention: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write rows of heads, of effects and of attention, and a figure of the heads; each file whole or not at
    all.

    Args:
        name: The run's.
        folder: Made if need be; of a run it is its `circuits`, where reports look.
        heads: Replace those that are there.
        effects: The same; where there are none, earlier ones stay.
        attention: As `effects`.
    """
    for file, rows in ((HEADS_FILE, heads), (EFFECTS_FILE, effects), (ATTENTION_FILE, attention)):
        if rows:
            lines = [json.dumps(row, separators=(",", ":")) for row in rows]
            write_whole(folder / file, ("\n".join(lines) + "\n").encode())
    figure = draw_heads(RunRecord(name, {}, {}, heads, {}, {}))
    for kind in ("png", "svg") if figure is not None else ():
        write_whole(folder / f"heads.{kind}", render_figure(figure, kind))
