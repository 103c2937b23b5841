"""A run in one number: what a criterion compares."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np

from hf_icl.circuits.ablated import Ablation
from hf_icl.config import suggest
from hf_icl.errors import ConfigError
from hf_icl.experiments.heads import OF_HEADS, HeadTarget
from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import cut_at_divergence, find_divergence
from hf_icl.summary.curves import LATE_WINDOW, Curves
from hf_icl.summary.heads import HeadCurves, read_heads
from hf_icl.summary.measures import MEASURES, measures_of
from hf_icl.summary.summary import Summary, summarize_history
from hf_icl.summary.verdicts import VERDICTS
from hf_icl.task.evaluators import ICL, TRAIN_LOSS

OF_LOSS = ("at_icl_peak", "final", "late", "falls")
UNDER = "final"  # the one measure of a model some of whose heads are ablated: its last one is asked
REACHES = re.compile(r"reaches (0?\.\d+|0|1)")
IS = "is "


class Number(NamedTuple):
    """What one run gives.

    Attributes:
        value: None where the run has no such measure.
        censored: Whether it is a lower bound: an event had not come by the last step, which stands for it.
    """

    value: float | None
    censored: bool = False


def check_measure(metric: str, measure: str, *, under: bool = False) -> None:
    """Raise `ConfigError`, with what there is, unless a metric may have a measure.

    Besides the measures of `hf_icl.summary` a curve has `emerged` and `is VERDICT` (1 or 0; several verdicts
    are joined by "or"), and `reaches LEVEL`: the first step at that accuracy. Of `train/loss` there are
    `at_icl_peak`, `final`, `late`, and `falls` (1 if it fell from ICL's peak to the end). Of heads, as
    `heads/induction/flip/L1H3`, or `…/L1` for that layer's strongest at ICL's peak, there are `at_icl_peak`,
    `peak`, `final` and `late`. Of a model some of whose heads are ablated (`under`) there is `final` alone.

    >>> check_measure("icl/accuracy", "is transient or fading")
    >>> check_measure("icl/accuracy", "persistance")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: measure = 'persistance': icl/accuracy has no such measure. Did you mean ...
    """
    is_of_heads = HeadTarget.read(metric) is not None
    if under and (measure != UNDER or is_of_heads or metric == TRAIN_LOSS):
        rule = f"of ablated heads there is only {UNDER}, of an evaluator's metric; here of {metric}"
        raise ConfigError("measure", measure, rule, "Or leave out under.")
    known = list(OF_LOSS if metric == TRAIN_LOSS else measures_of(metric, pretrained=True))
    if is_of_heads:
        known = list(OF_HEADS)
    elif metric != TRAIN_LOSS:
        if measure.startswith(IS):
            for verdict in split_verdicts(measure):
                if verdict not in VERDICTS:
                    raise ConfigError(
                        "measure", measure, f"no verdict is {verdict!r}", suggest(verdict, VERDICTS)
                    )
            return
        if REACHES.fullmatch(measure):
            return
        known += ["emerged", "is transient", "reaches 0.5"]
    if measure not in known:
        raise ConfigError("measure", measure, f"{metric} has no such measure", suggest(measure, known))


def split_verdicts(measure: str) -> list[str]:
    """Return the verdicts of a measure `is …`.

    >>> split_verdicts("is transient or never emerged")
    ['transient', 'never emerged']
    """
    return measure.removeprefix(IS).split(" or ")


def is_share(measure: str) -> bool:
    """Whether a measure is 1 or 0 of a run, so that its mean is a share of seeds."""
    return measure.startswith(IS) or measure in ("emerged", "falls")


def is_step(measure: str) -> bool:
    """Whether a measure is a training step."""
    return bool(REACHES.fullmatch(measure)) or (measure in MEASURES and MEASURES[measure].is_step)


class Measured:
    """A run whose measures are asked for, its summary computed once.

    >>> rows = [{"step": s, "metrics": {"icl/accuracy": v}} for s, v in [(0, 0.0), (10, 1.0), (20, 0.8)]]
    >>> run = Measured(RunRecord("a", {}, {}, rows, {"icl/accuracy": 0.0}, {}))
    >>> run.find("icl/accuracy", "reaches 0.5"), run.find("icl/accuracy", "is transient")
    (Number(value=5.0, censored=False), Number(value=0.0, censored=False))
    >>> run.find("icl/accuracy", "half_decay_step")
    Number(value=20.0, censored=True)
    """

    def __init__(self, record: RunRecord) -> None:
        self.diverged = find_divergence(record)
        self.record = cut_at_divergence(record)
        self._summary: Summary | None = None
        self._heads: dict[tuple[str, str], HeadCurves] | None = None

    @property
    def summary(self) -> Summary:
        """What the run's history says."""
        if self._summary is None:
            self._summary = summarize_history(
                self.record.rows, self.record.chance, pretrained=self.record.begins_pretrained
            )
        return self._summary

    def find(self, metric: str, measure: str, under: Ablation | None = None) -> Number:
        """Return a measure of the run; see `check_measure` for those that there are.

        A run that diverged has none: what it would have come to is not known.
        """
        if self.diverged is not None:
            return Number(None)
        if under is not None:
            return Number(self._find_under(metric, under))
        if metric == TRAIN_LOSS:
            return Number(self._find_of_loss(measure))
        if (target := HeadTarget.read(metric)) is not None:
            if self._heads is None:
                self._heads = read_heads(self.record.rows)
            icl = self.summary.curves.get(ICL)
            return Number(target.find(self._heads, measure, None if icl is None else icl.peak_step))
        curve = self.summary.curves.get(metric)
        if curve is None or curve.verdict is None:
            return Number(None)
        if measure.startswith(IS):
            return Number(float(curve.verdict in split_verdicts(measure)))
        if measure == "emerged":
            return Number(float(curve.verdict != VERDICTS[0]))
        if found := REACHES.fullmatch(measure):
            return self._find_reached(metric, float(found[1]))
        value = getattr(curve, measure)
        if value is not None or not is_step(measure) or curve.verdict == VERDICTS[0]:
            return Number(value)
        return Number(self._last_step(), censored=True)

    def _find_under(self, metric: str, under: Ablation) -> float | None:
        """Return what the run's last model comes to without some heads, where that was measured."""
        last, change = self._last_step(), under.to_dict()
        for row in self.record.circuits.get("effects", ()):
            for effect in row["effects"] if row["step"] == last else ():
                if effect["change"] == change:
                    return effect["metrics"].get(metric)
        return None

    def _find_of_loss(self, measure: str) -> float | None:
        if measure == "falls":
            falls = self.summary.loss_falls
            return None if falls is None else float(falls)
        if measure == "late":
            curve = Curves.clean(*self.record.curve(TRAIN_LOSS), chance=0.0)
            return None if curve is None else curve.mean_of_last(LATE_WINDOW).item()
        return self.summary.loss_at_peak if measure == "at_icl_peak" else self.summary.loss_at_end

    def _find_reached(self, metric: str, level: float) -> Number:
        steps, values = self.record.curve(metric)
        there = values >= level
        if not there.any():
            return Number(self._last_step(), censored=True)
        index = int(there.argmax())
        if index == 0:
            return Number(float(steps[0]))
        return Number(float(np.interp(level, values[index - 1 : index + 1], steps[index - 1 : index + 1])))

    def _last_step(self) -> float:
        return float(np.max(self.record.columns.steps))


@cache
def explain_measure(measure: str) -> str:
    """Return a measure as it reads in a sentence.

    >>> explain_measure("late_persistence"), explain_measure("is transient"), explain_measure("reaches 0.5")
    ('persistence, late', 'share of seeds: transient', 'first step at 0.5')
    """
    if measure in MEASURES:
        return MEASURES[measure].title
    if measure.startswith(IS):
        return f"share of seeds: {measure.removeprefix(IS)}"
    if found := REACHES.fullmatch(measure):
        return f"first step at {found[1]}"
    return {
        "emerged": "share of seeds: emerged",
        "falls": "share of seeds: it falls from ICL's peak to the end",
        "at_icl_peak": "value at ICL's peak",
    }[measure]
