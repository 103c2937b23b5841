"""From runs to the one document that JSON, page and card are written from."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from hf_icl.history.record import RunRecord, group_replicas, label_group
from hf_icl.report.heads import analyse_circuits
from hf_icl.report.words import SIDE_MEASURES
from hf_icl.summary import curves, measures, verdicts
from hf_icl.summary.intervals import (
    LEVEL,
    N_RESAMPLES,
    Band,
    Intervals,
    bootstrap_band,
    bootstrap_curve,
    bootstrap_median,
    bootstrap_replicas,
    stack_hits,
)
from hf_icl.summary.measures import MEASURES, CurveSummary, measures_of
from hf_icl.summary.summary import Summary, find_floor, summarize_history
from hf_icl.summary.verdicts import VERDICTS, tell_crossover
from hf_icl.task.evaluators import ICL, TRAIN_LOSS

SCHEMA_VERSION = 1
SEED = 0
MAX_RESAMPLED = 1000  # evaluations; of more, so many evenly spaced ones give the intervals
POINTS_PER_CURVE = 2000  # that charts draw
THRESHOLDS = {
    curves: ("EMERGED_RISE", "LATE_WINDOW"),
    verdicts: (
        "TRANSIENT_PERSISTENCE",
        "FADING_PERSISTENCE",
        "GROWN_RETENTION",
        "RISING_WINDOW",
        "RISING_GAIN",
    ),
}
Mean = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All that a report says of some runs, computed once; JSON, figures, page and card are written from it.

    Attributes:
        runs: At least one; of one that diverged, the rows before.
        groups: The runs in groups whose configs differ in seeds alone, in order of first appearance.
        document: The content of `transience.json`, JSON types only (no NaN).
            `runs[i].measures[metric][measure]` is `{"value", "interval"}`, over evaluation sequences, and of
            a crossover that is not there also `why`. In `groups` (of two runs or more) it is the mean over
            `n` replicas with an interval over replicas; of a step also the `median` and its interval, where
            a replica in which the event never comes counts as later than all. An interval is null where there
            is none; its upper end is null where it lies beyond training, and so is a median.
            Runs whose heads were measured also have `heads` (see `HeadsSummary`), and `effects` if any were.
        bands: By name of run and of metric, what its evaluation sequences leave open: steps, and the low and
            the high end of a 95 % band.
    """

    runs: tuple[RunRecord, ...]
    groups: list[list[RunRecord]]
    document: dict[str, Any]
    bands: dict[tuple[str, str], Band] = dataclasses.field(default_factory=dict, repr=False)
    _means: dict[tuple[str, str], Mean | None] = dataclasses.field(default_factory=dict, repr=False)

    def average(self, group: Sequence[RunRecord], metric: str) -> Mean | None:
        """Return steps, mean over a group, and the low and high end of its 95 % band;
        None with fewer than two curves."""
        key = (group[0].name, metric)
        if key not in self._means:
            self._means[key] = average_curve(group, metric)
        return self._means[key]


def analyse(runs: Sequence[RunRecord]) -> Analysis:
    """Compute everything that a report says of one or several runs."""
    diverged = {run.name: find_divergence(run) for run in runs}
    runs = [cut_at_divergence(run) for run in runs]
    groups = group_replicas(runs)
    bands: dict[tuple[str, str], Band] = {}
    analysed = {run.name: _analyse_run(run, diverged[run.name], bands) for run in runs}
    thresholds = {name: getattr(home, name) for home, names in THRESHOLDS.items() for name in names}
    bootstrap = {"level": LEVEL, "n_resamples": N_RESAMPLES, "seed": SEED, "max_evaluations": MAX_RESAMPLED}
    document = {
        "schema_version": SCHEMA_VERSION,
        "hf_icl_version": metadata.version("hf-icl"),
        "bootstrap": bootstrap,
        "thresholds": {name.lower(): value for name, value in thresholds.items()},
        "definitions": measures.describe_measures(pretrained=any(run.begins_pretrained for run in runs)),
        "verdicts": verdicts.describe_verdicts(),
        "runs": list(analysed.values()),
        "groups": [_analyse_group(group, analysed) for group in groups if len(group) > 1],
    }
    return Analysis(tuple(runs), groups, make_json_safe(document), bands)


def find_divergence(run: RunRecord) -> int | None:
    """Return the step at which a run's loss was no number for the first time, None if it always was one.

    Where nobody watched the loss of every step, it is that of the first evaluation that shows it.
    """
    columns = run.columns
    losses = [values for name, values in columns.metrics.items() if name.endswith("/loss")]
    bad = [np.isnan(values) | (np.asarray(values) == np.inf) for values in losses]
    places = np.flatnonzero(np.any(bad, axis=0)) if bad else np.empty(0)
    seen = [columns.steps[int(places[0])]] if places.size else []
    said = [row["diverged"] for row in run.rows[-1:] if "diverged" in row]  # every row since then says so
    return min(map(int, said + seen), default=None)


def _is_early(measure: str) -> bool:
    """Return whether a measure says something of a run that has no end, as it has diverged."""
    return MEASURES[measure].is_step or measure in ("peak", "start")


def cut_at_divergence(run: RunRecord) -> RunRecord:
    """Return a run up to where it diverged: what is measured afterwards is no answer to anything."""
    if (diverged := find_divergence(run)) is None:
        return run
    rows = run.rows[: int(np.searchsorted(run.columns.steps, diverged))]
    return dataclasses.replace(run, rows=list(rows))


def _analyse_run(run: RunRecord, diverged: int | None, bands: dict[tuple[str, str], Band]) -> dict[str, Any]:
    """Return a run's entry in the document; its bands are added to those given."""
    summary = summarize_history(run.rows, run.chance, pretrained=run.begins_pretrained)
    rows = _choose_rows(run, summary)
    found: dict[str, dict[str, Any]] = {}
    icl_intervals = None
    for metric, curve in summary.curves.items():
        if not curve.n_evaluations:
            continue
        intervals = _bootstrap(run, rows, metric)
        icl_intervals = intervals if metric == ICL else icl_intervals
        ends = intervals.measures if intervals else {}
        if intervals:
            bands[run.name, metric] = intervals.band
        found[metric] = _list_measures(run, metric, curve, ends, ended=diverged is None)
    if summary.loss_at_end is not None and diverged is None:
        loss = {"at_icl_peak": summary.loss_at_peak, "final": summary.loss_at_end}
        found[TRAIN_LOSS] = {name: {"value": value, "interval": None} for name, value in loss.items()}
    for metric, side in summary.sides.items() if diverged is None else ():
        values = {name: getattr(side, name) for name in SIDE_MEASURES}
        found[metric] = {name: {"value": value, "interval": None} for name, value in values.items()}
    steps = np.sort(run.columns.steps)
    return {
        "name": run.name,
        "axis": run.axis,
        "verdict": summary.verdict if diverged is None else "diverged",
        "diverged_step": diverged,
        "verdict_shares": icl_intervals.verdicts if icl_intervals and diverged is None else None,
        "loss_falls": summary.loss_falls,
        "begins_pretrained": run.begins_pretrained,
        "n_evaluations": 1 + int((np.diff(steps) > 0).sum()) if len(steps) else 0,
        "first_step": int(steps[0]) if len(steps) else None,
        "last_step": int(steps[-1]) if len(steps) else None,
        "measures": found,
        "chance": dict(run.chance),
        "n_sequences": dict(run.n_sequences),
        "bank": dict(run.bank),
        **analyse_circuits(run, summary.curves[ICL].peak_step if ICL in summary.curves else None),
        "config": dict(run.config),
        "provenance": dict(run.provenance),
    }


def _list_measures(
    run: RunRecord, metric: str, curve: CurveSummary, ends: Mapping[str, Any], *, ended: bool
) -> dict[str, dict[str, Any]]:
    found = {}
    for name, one in measures_of(metric, pretrained=run.begins_pretrained).items():
        value = getattr(curve, name) if ended or _is_early(name) else None
        found[name] = {"value": value, "interval": None if value is None else ends.get(name)}
        if ended and one.of_shares and value is None and (why := tell_crossover(curve.verdict)):
            found[name]["why"] = why
    return found


def _choose_rows(run: RunRecord, summary: Summary) -> list[Mapping[str, Any]]:
    """Return the rows to resample: all of them, or of a long history evenly spaced ones,
    both ends and all peaks."""
    n_rows = len(run.rows)
    if n_rows <= MAX_RESAMPLED:
        return list(run.rows)
    chosen = np.linspace(0, n_rows - 1, MAX_RESAMPLED).round().astype(int)
    peaks = [curve.peak_step for curve in summary.curves.values() if curve.n_evaluations]
    chosen = np.union1d(chosen, np.flatnonzero(np.isin(run.columns.steps, peaks)))
    return [run.rows[number] for number in chosen.tolist()]


def _bootstrap(run: RunRecord, rows: Sequence[Mapping[str, Any]], metric: str) -> Intervals | None:
    if metric not in run.chance:
        return None  # computed from two evaluators, each with sequences of its own
    n_sequences = run.n_sequences.get(metric.rpartition("/")[0], 0)
    steps, hits = stack_hits(rows, metric, n_sequences)
    floor = find_floor(metric, run.chance)
    return bootstrap_curve(
        steps, hits, run.chance[metric], metric, floor=floor, pretrained=run.begins_pretrained, seed=SEED
    )


def _analyse_group(group: Sequence[RunRecord], analysed: Mapping[str, Any]) -> dict[str, Any]:
    runs = [analysed[run.name] for run in group]
    found: dict[str, dict[str, Any]] = {}
    for metric in dict.fromkeys(metric for run in runs for metric in run["measures"]):
        of_runs = [run["measures"].get(metric, {}) for run in runs]
        for name in dict.fromkeys(name for of_run in of_runs for name in of_run):
            found.setdefault(metric, {})[name] = _average(name, [of_run.get(name, {}) for of_run in of_runs])
    return {
        "name": label_group(group),
        "axis": group[0].axis,
        "runs": [run["name"] for run in runs],
        "verdicts": dict(Counter(run["verdict"] or "none yet" for run in runs).most_common()),
        "n_emerged": sum(run["verdict"] not in (None, VERDICTS[0]) for run in runs),
        "n_loss_falls": sum(bool(run["loss_falls"]) for run in runs),
        "n_loss_known": sum(run["loss_falls"] is not None for run in runs),
        "measures": found,
    }


def _average(name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of a measure over replicas, of a step its median too, and why it is missing."""
    values = [entry.get("value") for entry in entries]
    mean = bootstrap_replicas(values, seed=SEED)
    found = {"value": mean.mean, "interval": None if mean.low is None else (mean.low, mean.high), "n": mean.n}
    if name in MEASURES and MEASURES[name].is_step:
        found["median"], found["median_interval"] = bootstrap_median(values, seed=SEED)
    if why := Counter(entry["why"] for entry in entries if "why" in entry):
        found["why"] = dict(why.most_common())
    return found


def average_curve(runs: Sequence[RunRecord], metric: str, n_points: int = POINTS_PER_CURVE) -> Mean | None:
    """Return steps, mean over replicas, and the low and high end of its 95 % band;
    None with fewer than two curves.

    Replicas evaluated at other steps are interpolated; the range is the one that all of them cover. Above
    `n_points` common steps, every k-th is taken.
    """
    return average_points([run.curve(metric) for run in runs], n_points)


def average_points(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], n_points: int = POINTS_PER_CURVE
) -> Mean | None:
    """Return what `average_curve` does, from steps and values of each replica."""
    curves = [(steps, values) for steps, values in curves if steps.size]
    if len(curves) < 2:
        return None
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not grid.size:
        return None
    grid = grid[:: math.ceil(grid.size / n_points)]
    values = np.stack([np.interp(grid, steps, values) for steps, values in curves])
    return grid, values.mean(axis=0), *bootstrap_band(values, seed=SEED)


def make_json_safe(value: Any) -> Any:
    """Return the same tree with not-a-number and infinite floats as None and tuples as lists.

    >>> make_json_safe({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): make_json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [make_json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def thin(steps: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most about `limit` points of a curve: both ends,
    and the lowest and highest of equal stretches between.

    >>> steps, values = thin(np.arange(1000), np.eye(1, 1000, 321)[0], 10)
    >>> len(steps) <= 12, values.max().item(), steps[[0, -1]].tolist()
    (True, 1.0, [0, 999])
    """
    if steps.size <= limit:
        return steps, values
    edges = np.linspace(0, steps.size, max(1, limit // 2) + 1).astype(int)
    kept = {0, steps.size - 1}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        stretch = values[low:high]
        kept |= {low + int(stretch.argmin()), low + int(stretch.argmax())}
    index = np.array(sorted(kept))
    return steps[index], values[index]
