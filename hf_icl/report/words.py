"""Numbers as people read them: titles, table cells, and the verdict in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_icl.summary import CIWL, FLIP_SHARE, ICL, ICL_HOLDOUT, IWL, TRAIN_LOSS, find_floor

EVALUATORS = {
    "icl": "ICL",
    "icl_holdout": "ICL, held-out classes",
    "iwl": "IWL",
    "ciwl": "CIWL",
    "flip": "Flip",
    "train": "Training sequences",
}
MEASURE_TITLES = {
    "onset_step": "onset, step",
    "peak": "peak",
    "peak_step": "peak, step",
    "half_decay_step": "half-decay, step",
    "final": "final value",
    "persistence": "persistence",
    "area_lost": "area lost after the peak",
    "crossover_step": "crossover, step",
    "at_icl_peak": "at ICL's peak",
}
_TABLE = {
    ICL: ("onset_step", "peak", "peak_step", "half_decay_step", "final", "persistence", "area_lost"),
    ICL_HOLDOUT: ("peak", "half_decay_step", "final", "persistence"),
    FLIP_SHARE: ("peak", "crossover_step", "final"),
    IWL: ("onset_step", "final"),
    CIWL: ("peak", "final"),
    TRAIN_LOSS: ("at_icl_peak", "final"),
}
_NOT_IN_TABLE = ("flip/accuracy", "train/accuracy")


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One line of the summary table: a measure of a metric, and a cell for each run or group."""

    metric: str
    measure: str
    title: str
    cells: tuple[str, ...]


def title_metric(metric: str) -> str:
    """Return a metric's name for people.

    >>> title_metric("icl/accuracy"), title_metric("flip/context_accuracy"), title_metric("mine/probability")
    ('ICL accuracy', 'Flip, in-context share', 'mine probability')
    """
    if metric == FLIP_SHARE:
        return "Flip, in-context share"
    if metric == TRAIN_LOSS:
        return "Training loss"
    if metric == ICL_HOLDOUT:
        return "ICL accuracy, held-out classes"
    evaluator, _, measure = metric.rpartition("/")
    return f"{EVALUATORS.get(evaluator, evaluator)} {measure.replace('_', ' ')}".strip()


def list_table(columns: list[Mapping[str, Any]]) -> list[TableRow]:
    """Return the summary table of runs and groups (entries of `analyse`), lines without a single number left out."""
    found = dict.fromkeys(metric for column in columns for metric in column["measures"])
    others = {metric: ("peak", "final") for metric in found if metric not in (*_TABLE, *_NOT_IN_TABLE)}
    rows = []
    for metric, names in (_TABLE | others).items():
        for name in names if metric in found else ():
            cells = tuple(format_measure(column, metric, name) for column in columns)
            rows.append(TableRow(metric, name, MEASURE_TITLES[name], cells))
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
    write = format_step if name.endswith("_step") else format_value
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
    return _describe_course(run, "ICL peaked", f"(chance {chance})") + _describe_loss(run)


def describe_group(group: Mapping[str, Any]) -> str:
    """Return the verdict on a group of replicas (an entry of `analyse`), in sentences."""
    total = len(group["runs"])
    counts = ", ".join(f"{verdict} in {count}" for verdict, count in group["verdicts"].items())
    text = f"Of {total} replicas, ICL is {counts}. "
    if ICL not in group["measures"]:
        return text.strip()
    falls = f" The training loss fell on from ICL's peak to the end in {group['n_loss_falls']} of {total}."
    return text + _describe_course(group, "On average, ICL peaked", "") + falls


def _describe_course(entry: Mapping[str, Any], start: str, chance: str) -> str:
    def say(metric: str, name: str, interval: bool = True) -> str:
        return format_measure(entry, metric, name, interval=interval)

    text = f"{start} at {say(ICL, 'peak')} {chance}".rstrip() + f" at step {say(ICL, 'peak_step', False)}"
    if (half := say(ICL, "half_decay_step")) != "–":
        text += f", had lost half of its rise by step {half}"
    text += f", and ended at {say(ICL, 'final')}: {_percent(entry)} of the rise was left."
    if (crossover := say(FLIP_SHARE, "crossover_step")) != "–":
        text += f" With labels flipped, answers from the weights outnumber those from context from step {crossover} on."
    return text


def _percent(entry: Mapping[str, Any]) -> str:
    value = entry["measures"][ICL]["persistence"]["value"]
    return "–" if value is None else f"{100 * value:.0f} %"


def _describe_loss(run: Mapping[str, Any]) -> str:
    if run["loss_falls"] is None:
        return ""
    before, after = (format_measure(run, TRAIN_LOSS, name) for name in ("at_icl_peak", "final"))
    fell = "still fell" if run["loss_falls"] else "did not fall"
    return f" The training loss {fell} from ICL's peak to the end, {before} to {after}."
