"""Numbers as people read them: titles, table cells, and the verdict in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_icl.banks.facts import tell_bank
from hf_icl.config import flatten
from hf_icl.report.heads import describe_heads
from hf_icl.summary.measures import MEASURES, Measure, measures_of
from hf_icl.summary.summary import find_floor
from hf_icl.task.evaluators import EVALUATORS, FLIP_SHARE, ICL, IWL, TRAIN_LOSS

LOSS_MEASURES = {"at_icl_peak": "at ICL's peak", "final": MEASURES["final"].title}
OTHERS = ("peak", "final")  # what the table shows of evaluators that are none of the standard ones


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One line of the summary table: a measure of a metric, and a cell for each run or group."""

    metric: str
    measure: str
    title: str
    cells: tuple[str, ...]


def title_measure(name: str) -> str:
    """Return a measure's name for people.

    >>> title_measure("half_decay_step"), title_measure("at_icl_peak")
    ('half-decay, step', "at ICL's peak")
    """
    return MEASURES[name].title if name in MEASURES else LOSS_MEASURES[name]


def list_events(metric: str) -> list[Measure]:
    """Return the measures that charts mark on a curve: steps,
    of the metrics that say which strategy a model follows."""
    if metric not in (ICL, IWL, FLIP_SHARE):
        return []
    return [MEASURES[name] for name in _list_shown(metric) if MEASURES[name].marker is not None]


def _list_shown(metric: str) -> tuple[str, ...]:
    """Return the measures of a metric that the summary table shows."""
    kind = EVALUATORS.get(metric.rpartition("/")[0])
    if kind is None:
        return OTHERS
    if metric != kind.metric:
        return ()
    return tuple(measures_of(metric)) if kind.table is None else kind.table


def list_table(columns: list[Mapping[str, Any]]) -> list[TableRow]:
    """Return the summary table of runs and groups (entries of `analyse`),
    lines without a single number left out."""
    found = dict.fromkeys(metric for column in columns for metric in column["measures"])
    shown = {kind.metric: _list_shown(kind.metric) for kind in EVALUATORS.values()} | {
        TRAIN_LOSS: tuple(LOSS_MEASURES)
    }
    others = {metric: _list_shown(metric) for metric in found if metric not in shown}
    rows = []
    for metric, names in (shown | others).items():
        for name in names if metric in found else ():
            cells = tuple(format_measure(column, metric, name) for column in columns)
            rows.append(TableRow(metric, name, title_measure(name), cells))
    return rows


def format_measure(column: Mapping[str, Any], metric: str, name: str, *, interval: bool = True) -> str:
    """Return one measure of a run or group as text, with its interval; a dash where it does not exist.

    >>> run = {"measures": {"icl/accuracy": {"peak": {"value": 0.9375, "interval": [0.92, 0.951]}}}}
    >>> format_measure(run, "icl/accuracy", "peak"), format_measure(run, "icl/accuracy", "onset_step")
    ('0.938 [0.920, 0.951]', '–')
    """
    entry = column["measures"].get(metric, {}).get(name)
    if entry is None or entry["value"] is None:
        return "–"
    write = format_step if name in MEASURES and MEASURES[name].is_step else format_value
    text = write(entry["value"])
    if interval and entry["interval"] is not None:
        low, high = entry["interval"]
        text += f" [{write(low)}, {'later' if high is None else write(high)}]"
    missing = len(column.get("runs", ())) - entry.get("n", 0)
    return f"{text} ({entry['n']} of {len(column['runs'])})" if "runs" in column and missing else text


def format_step(step: float) -> str:
    """Return a step.

    >>> format_step(12345.6)
    '12,346'
    """
    return f"{step:,.0f}"


def format_value(value: float) -> str:
    """Return an accuracy, share or loss: three decimals, or three digits below 0.1.

    >>> format_value(0.9375), format_value(0.01234), format_value(0.0)
    ('0.938', '0.0123', '0.000')
    """
    return f"{value:.3f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"


def describe_run(run: Mapping[str, Any]) -> str:
    """Return the verdict on one run (an entry of `analyse`), in sentences."""
    if run["verdict"] == "diverged":
        return (
            f"Training diverged at step {format_step(run['diverged_step'])}: from there on the loss is no "
            f"number. All that is shown is of the {run['n_evaluations']} evaluations before."
        )
    if run["verdict"] is None:
        if not run["n_evaluations"]:
            return "Nothing has been measured yet."
        return "No verdict: it takes two evaluations of ICL accuracy or more."
    chance = format_value(run["chance"][ICL])
    if run["verdict"] == "never emerged":
        best, step = format_measure(run, ICL, "peak"), format_measure(run, ICL, "peak_step", interval=False)
        copying = find_floor(ICL, run["chance"])
        floor = f"; naming either label of the context gives {format_value(copying)}" if copying else ""
        return f"ICL never emerged: its best accuracy was {best} at step {step} (chance {chance}{floor})."
    heads = describe_heads(run)
    course = _describe_course(run, "ICL", f"(chance {chance})") + _describe_loss(run)
    return f"{course} {heads}".rstrip()


def describe_group(group: Mapping[str, Any]) -> str:
    """Return the verdict on a group of replicas (an entry of `analyse`), in sentences."""
    total = len(group["runs"])
    counts = ", ".join(f"{verdict} in {count}" for verdict, count in group["verdicts"].items())
    text = f"Of {total} replicas, ICL is {counts}. "
    if ICL not in group["measures"]:
        return text.strip()
    text += _describe_course(group, "On average, ICL", "")
    if known := group["n_loss_known"]:
        text += f" The training loss fell on from ICL's peak to the end in {group['n_loss_falls']} of {known}"
        text += "." if known == total else " in which ICL peaked before the end."
    return text


def _describe_course(entry: Mapping[str, Any], start: str, chance: str) -> str:
    def say(metric: str, name: str, interval: bool = True) -> str:
        return format_measure(entry, metric, name, interval=interval)

    peak = f"{say(ICL, 'peak')} {chance}".rstrip() + f" at step {say(ICL, 'peak_step', False)}"
    if entry["measures"][ICL]["area_lost"]["value"] is None:  # there is nothing after the peak
        text = f"{start} was at its best at the end: {peak}, the last one."
    else:
        text = f"{start} peaked at {peak}"
        if (half := say(ICL, "half_decay_step")) != "–":
            text += f", had lost half of its rise by step {half}"
        text += f", and ended at {say(ICL, 'final')}"
        left = entry["measures"][ICL]["persistence"]["value"]
        text += "." if left is None else f": {_tell_share(left)} of the rise was left."
    if (crossover := say(FLIP_SHARE, "crossover_step")) != "–":
        text += (
            " With labels flipped, answers from the weights outnumber those from context from step "
            f"{crossover} on."
        )
    return text


def _tell_share(share: float) -> str:
    """Return a share in words that do not round the last bit away.

    >>> [_tell_share(share) for share in (-0.1, 0.002, 0.18, 0.998, 1.0)]
    ['nothing', 'nearly nothing', '18 %', 'nearly all', 'all']
    """
    if share <= 0 or share >= 1:
        return "nothing" if share <= 0 else "all"
    percent = f"{100 * share:.0f}"
    return {"0": "nearly nothing", "100": "nearly all"}.get(percent, f"{percent} %")


def _describe_loss(run: Mapping[str, Any]) -> str:
    if run["loss_falls"] is None:
        return ""
    before, after = (format_measure(run, TRAIN_LOSS, name) for name in ("at_icl_peak", "final"))
    if before == after:
        return f" The training loss was the same at ICL's peak and at the end, {before}."
    fell = "still fell" if run["loss_falls"] else "rose"
    return f" The training loss {fell} from ICL's peak to the end, {before} to {after}."


def headline_entries(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a report's first lines are about: groups of replicas, and runs without any."""
    grouped = {name for group in document["groups"] for name in group["runs"]}
    return [*document["groups"], *(run for run in document["runs"] if run["name"] not in grouped)]


def say_verdicts(entry: Mapping[str, Any]) -> str:
    """Return the verdict on a run, or those on a group's runs and how often each."""
    if "verdicts" not in entry:
        return entry["verdict"] or "none yet"
    total = len(entry["runs"])
    return ", ".join(f"{verdict} in {count} of {total}" for verdict, count in entry["verdicts"].items())


def list_facts(provenance: Mapping[str, Any], bank: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a run's numbers come from, by name: its exemplars, seed, versions, commit, machine,
    command."""
    classes = tell_bank(bank)
    return ({"classes": classes} if classes else {}) | flatten(provenance)
