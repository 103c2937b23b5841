"""Numbers as people read them: titles, table cells, and the verdict in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from hf_icl.banks.facts import tell_bank
from hf_icl.config import flatten
from hf_icl.report.axis import axis_of, format_place, tell_place, title_on
from hf_icl.report.heads import describe_heads
from hf_icl.summary.measures import MEASURES, Measure, measures_of
from hf_icl.summary.summary import find_floor
from hf_icl.summary.verdicts import FEWEST_OF_PRETRAINED
from hf_icl.task.evaluators import EVALUATORS, FLIP_SHARE, ICL, IWL, PREFERENCE, SIDE_METRICS, TRAIN_LOSS
from hf_icl.task.written import PromptConfig

LOSS_MEASURES = {"at_icl_peak": "at ICL's peak", "final": MEASURES["final"].title}
SIDE_MEASURES = {"start": "before training", **LOSS_MEASURES}
OF_PREFERENCE = ("peak", "crossover_step", "late")
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
    if metric == PREFERENCE:
        return OF_PREFERENCE
    if metric in SIDE_METRICS:
        return tuple(SIDE_MEASURES)
    if kind is None:
        return OTHERS
    if metric != kind.metric:
        return ()
    measures = measures_of(metric, pretrained=True)
    if kind.table is None:
        return tuple(measures)
    return (*(name for name, one in measures.items() if one.of_pretrained), *kind.table)


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
            if not _is_asked(columns, metric, name):
                continue
            cells = tuple(format_measure(column, metric, name) for column in columns)
            title = title_on(axis_of(columns[0]), title_measure(name))
            rows.append(TableRow(metric, name, title, cells))
    return rows


def _is_asked(columns: list[Mapping[str, Any]], metric: str, name: str) -> bool:
    """Return whether a measure has a line: those of pretrained starts only where one is among the columns."""
    if name not in MEASURES or not MEASURES[name].of_pretrained:
        return True
    return any(name in column["measures"].get(metric, ()) for column in columns)


def format_measure(column: Mapping[str, Any], metric: str, name: str, *, interval: bool = True) -> str:
    """Return one measure of a run or group as text, with its interval; why it does not exist, or a dash.

    Of a group it is the mean over replicas, but of a step the median, as onsets and crossovers have long
    tails.

    >>> run = {"measures": {"icl/accuracy": {"peak": {"value": 0.9375, "interval": [0.92, 0.951]}}}}
    >>> format_measure(run, "icl/accuracy", "peak"), format_measure(run, "icl/accuracy", "onset_step")
    ('0.938 [0.920, 0.951]', '–')
    """
    entry = column["measures"].get(metric, {}).get(name)
    if entry is None:
        return "–"
    is_step, why = name in MEASURES and MEASURES[name].is_step, entry.get("why")
    if entry["value"] is None:
        return why if isinstance(why, str) else " or ".join(why) if why else "–"
    write = partial(format_place, axis_of(column)) if is_step else format_value
    value, ends = find_typical(entry), entry.get("median_interval", entry["interval"])
    text = "later" if value is None else write(value)
    if interval and ends is not None:
        low, high = ends
        text += f" [{write(low)}, {'later' if high is None else write(high)}]"
    missing = len(column.get("runs", ())) - entry.get("n", 0)
    if "runs" not in column or not missing:
        return text
    others = "".join(f", {reason} in {count}" for reason, count in (why or {}).items())
    return f"{text} ({entry['n']} of {len(column['runs'])}{others})"


def find_typical(entry: Mapping[str, Any]) -> float | None:
    """Return what stands for a measure of a run or group: its value or mean, of a group's steps the median.

    >>> find_typical({"value": 300.0, "median": 200.0}), find_typical({"value": 0.5})
    (200.0, 0.5)
    """
    return entry.get("median", entry["value"])


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
        return _ask_for_more(run)
    chance = f"chance {format_value(run['chance'][ICL])}"
    copying = find_floor(ICL, run["chance"])
    floor = f"; naming either label of the context gives {format_value(copying)}" if copying else ""
    if run["verdict"] == "never emerged":
        best, step = format_measure(run, ICL, "peak"), format_measure(run, ICL, "peak_step", interval=False)
        place = tell_place(axis_of(run), step)
        return f"ICL never emerged: its best accuracy was {best} at {place} ({chance}{floor})."
    heads = describe_heads(run)
    if had_it(run):
        course = _describe_change(run, "ICL was there before training:", f"({chance}{floor})")
    else:
        course = _describe_course(run, "ICL", f"({chance})")
    return f"{course}{_describe_loss(run)} {heads}".rstrip()


def had_it(entry: Mapping[str, Any]) -> bool:
    """Return whether ICL was there before training in a run, or in any of a group's."""
    kept = entry["measures"].get(ICL, {}).get("retention")
    return kept is not None and kept["value"] is not None


def _ask_for_more(run: Mapping[str, Any]) -> str:
    """Return why there is no verdict, and what was measured so far."""
    if run.get("begins_pretrained"):
        rule = f"it takes {FEWEST_OF_PRETRAINED} evaluations of ICL accuracy or more to say what training did"
        return f"No verdict: {rule} to a pretrained model."
    return "No verdict: it takes two evaluations of ICL accuracy or more."


def describe_group(group: Mapping[str, Any]) -> str:
    """Return the verdict on a group of replicas (an entry of `analyse`), in sentences."""
    total = len(group["runs"])
    counts = ", ".join(f"{verdict} in {count}" for verdict, count in group["verdicts"].items())
    text = f"ICL emerged in {group['n_emerged']} of {total} replicas; it is {counts}. "
    if had := group["measures"].get(ICL, {}).get("retention", {}).get("n"):
        text = f"ICL was there before training in {had} of {total} replicas; it is {counts}. "
    if ICL not in group["measures"]:
        return text.strip()
    if had_it(group):
        text += _describe_change(group, "On average, ICL began at", "")
    else:
        text += _describe_course(group, "On average, ICL", "")
    if known := group["n_loss_known"]:
        text += f" The training loss fell on from ICL's peak to the end in {group['n_loss_falls']} of {known}"
        text += "." if known == total else " in which ICL peaked before the end."
    return text


def _describe_course(entry: Mapping[str, Any], start: str, chance: str) -> str:
    def say(metric: str, name: str, interval: bool = True) -> str:
        return format_measure(entry, metric, name, interval=interval)

    axis = axis_of(entry)
    peak = f"{say(ICL, 'peak')} {chance}".rstrip() + f" at {tell_place(axis, say(ICL, 'peak_step', False))}"
    if entry["measures"][ICL]["area_lost"]["value"] is None:  # there is nothing after the peak
        text = f"{start} was at its best at the end: {peak}, the last one."
    else:
        text = f"{start} peaked at {peak}"
        if (half := say(ICL, "half_decay_step")) != "–":
            text += f", had lost half of its rise by {tell_place(axis, half)}"
        text += f", and ended at {say(ICL, 'final')}"
        if (late := say(ICL, "late", False)) != "–":
            text += f" ({late} over the last tenth)"
        left = entry["measures"][ICL]["persistence"]["value"]
        text += "." if left is None else f": {_tell_share(left)} of the rise was left."
    return text + _describe_crossover(entry)


def _describe_change(entry: Mapping[str, Any], start: str, levels: str) -> str:
    """Return what training did to ICL that the pretrained model had."""

    def say(name: str, interval: bool = True) -> str:
        return format_measure(entry, ICL, name, interval=interval)

    text = f"{start} {say('start')} {levels}".rstrip()
    place = tell_place(axis_of(entry), say("peak_step", False))
    text += f"; it peaked at {say('peak')} at {place}"
    text += f" and ended at {say('final')} ({say('late', False)} over the last tenth): "
    kept = entry["measures"][ICL]["retention"]["value"]
    if kept < 1:
        text += f"{_tell_share(kept)} of what was there above the naming of labels is left."
    else:
        text += f"none of it was lost, there is {kept:.1f} times as much above the naming of labels."
    return text + _describe_crossover(entry)


def _describe_crossover(entry: Mapping[str, Any]) -> str:
    crossover = format_measure(entry, FLIP_SHARE, "crossover_step")
    if crossover == "–":
        return ""
    if entry["measures"][FLIP_SHARE]["crossover_step"]["value"] is None:
        return f" With labels flipped, the answers are {crossover}."
    place = tell_place(axis_of(entry), crossover)
    return f" With labels flipped, answers from the weights outnumber those from context from {place} on."


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


def list_facts(
    provenance: Mapping[str, Any], bank: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return where a run's numbers come from, by name: its exemplars, sequences, seed, versions, commit,
    machine, command."""
    told = {
        "classes": tell_bank(bank),
        "exemplars in a sequence": tell_repeats(config, bank),
        "prompt": tell_prompt(config, bank),
    }
    return {name: text for name, text in told.items() if text} | flatten(provenance)


def tell_prompt(config: Mapping[str, Any], bank: Mapping[str, Any]) -> str:
    """Return how sequences are written for a language model; nothing where they are vectors.

    >>> arrow = {"task": {"prompt": {"template": "arrow"}, "bank": {"kind": "vocabulary"}}}
    >>> tell_prompt(arrow, {"kind": "ids", "source": "me/model"})
    'arrow: x -> l⏎ x -> l⏎ x ->'
    >>> tell_prompt({"task": {"form": "tokens"}}, {"kind": "ids"})
    'bare: x l x l x'
    >>> tell_prompt({"task": {}}, {"kind": "vectors"})
    ''
    """
    task = config.get("task", {})
    is_read = bank.get("kind") == "ids" and ("source" in bank or "data" in bank)
    if not is_read and task.get("form") != "tokens":
        return ""
    prompt = PromptConfig(**(task.get("prompt") or {}))
    return f"{prompt.template}: {prompt}"


def tell_repeats(config: Mapping[str, Any], bank: Mapping[str, Any]) -> str:
    """Return how the exemplars of one class come into a sequence, as a query that meets itself in the context
    keeps ICL, and the papers' codes differ in it; and of which classes evaluators ask.

    >>> tell_repeats({"task": {"train": {"repeat_exemplars": False}}}, {"n_exemplars": 20})
    'drawn without replacement: all of one class differ'
    >>> tell_repeats({"task": {"train": {"zipf": 1.0}}}, {"n_exemplars": 20})  # doctest: +ELLIPSIS
    'drawn with replacement: two of one class are the same with p = 0.05; training is Zipfian (1), ...
    >>> tell_repeats({}, {})
    ''
    """
    train = config.get("task", {}).get("train")
    if not train:
        return ""
    first = train[0] if isinstance(train, list | tuple) else train
    text = "drawn without replacement: all of one class differ"
    if first.get("repeat_exemplars", True):  # runs made before there was a choice did
        text = "drawn with replacement"
        if number := bank.get("n_exemplars"):
            text += f": two of one class are the same with p = {1 / number:.3g}"
    if first.get("matched_exemplars"):
        text = "the query and its burst show one and the same"
    if zipf := first.get("zipf"):
        text += (
            f"; training is Zipfian ({zipf:g}), and the evaluators draw classes uniformly unless their names "
            "say otherwise"
        )
    return text
