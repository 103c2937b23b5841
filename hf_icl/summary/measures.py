"""What a history says about in-context learning: when it appeared, how high it rose, and what was left of it.

Pure: arrays in, numbers out. Each measure is one function whose docstring defines it in words and by formula
(the report shows the same text) and shows it at work; `measure` enters it into `MEASURES`, which everything
else reads. All of them take a batch of curves, so that a summary and its bootstrap share one definition. In
the formulas v(s) is the curve over training steps s, linear between evaluations, c its chance level, f its
floor (chance, or more where naming any label of the context gives more), b its base (c; of a pretrained
start f), p its peak, reached at step sp, s0 the first evaluated step and e the last.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Literal

import numpy as np

from hf_icl.summary.curves import LATE_WINDOW, Curves, is_below
from hf_icl.task.evaluators import PREFERENCE


@dataclasses.dataclass(frozen=True)
class Measure:
    """What can be said of a curve in one number.

    Attributes:
        name: In summaries and `transience.json`; a training step if it ends in `_step`.
        title: For people.
        find: From `Curves` to a float64 array (n_curves,), not-a-number where the measure does not exist.
        marker: How charts mark it on its curve; None: not at all.
        of_shares: Whether only in-context shares have it, not accuracies.
        of_pretrained: Whether only curves that begin with a pretrained model have it.
    """

    name: str
    title: str
    find: Callable[[Curves], np.ndarray]
    marker: Literal["up", "star", "down", "cross"] | None = None
    of_shares: bool = False
    of_pretrained: bool = False

    @property
    def is_step(self) -> bool:
        """Whether it is a training step, and no accuracy or share."""
        return self.name.endswith("_step")

    def describe(self) -> dict[str, str]:
        """Return its `name`, and its definition in `words` and as `formula`, both read from the docstring.

        >>> MEASURES["peak"].describe()
        {'name': 'peak', 'words': 'Highest value of the curve at any evaluation.', 'formula': 'p = max v(s)'}
        """
        words, _, rest = (inspect.getdoc(self.find) or "").partition("\n\nFormula: ")
        formula = rest.partition("\n\n")[0]
        return {"name": self.name, "words": " ".join(words.split()), "formula": formula}


MEASURES: dict[str, Measure] = {}
"""All measures by name, in the order in which they are shown."""

Find = Callable[[Curves], np.ndarray]


def measure(
    title: str, *, marker: str | None = None, of_shares: bool = False, of_pretrained: bool = False
) -> Callable[[Find], Find]:
    """Enter `measure_<name>` into `MEASURES` under its name; the arguments are those of `Measure`."""

    def register(find: Find) -> Find:
        name = find.__name__.removeprefix("measure_")
        MEASURES[name] = Measure(name, title, find, marker, of_shares, of_pretrained)
        return find

    return register


def measures_of(metric: str, *, pretrained: bool = False) -> dict[str, Measure]:
    """Return the measures that a metric has, by name.

    Args:
        metric: Its name.
        pretrained: Whether its curve begins with a pretrained model.

    >>> set(measures_of("flip/context_accuracy")) - set(measures_of("icl/accuracy"))
    {'crossover_step'}
    >>> list(measures_of("icl/accuracy", pretrained=True))[:2]
    ['start', 'retention']
    """
    is_share = metric.endswith("/context_accuracy") or metric == PREFERENCE
    return {
        name: one
        for name, one in MEASURES.items()
        if (is_share or not one.of_shares) and (pretrained or not one.of_pretrained)
    }


@measure("before training", of_pretrained=True)
def measure_start(curves: Curves) -> np.ndarray:
    """Value at the first evaluation, which is of the pretrained model.

    Formula: v(s0)

    >>> measure_start(Curves.clean([0, 30, 100], [0.66, 0.78, 0.58], chance=1 / 32, pretrained=True)).item()
    0.66
    """
    return curves.values[:, 0]


@measure("kept of what was there", of_pretrained=True)
def measure_retention(curves: Curves) -> np.ndarray:
    """What the last tenth of training has above the base, as a share of what the pretrained model had there:
    1 if training changed nothing, 0 at the base, above 1 if it added to it. Missing if the pretrained model
    did not have it, by the rule for curves that emerged.

    Formula: (late − b) / (v(s0) − b), given v(s0) − b ≥ (1 − b) / 5 and v(s0) > f

    >>> curves = Curves.clean([0, 50, 90, 100], [0.9, 0.9, 0.7, 0.5], chance=0, floor=0.5, pretrained=True)
    >>> measure_retention(curves).round(3).item()
    0.25
    """
    had = np.where(curves.begins_high, curves.values[:, 0] - curves.base, np.nan)
    return (measure_late(curves) - curves.base) / had


@measure("onset, step", marker="up")
def measure_onset_step(curves: Curves) -> np.ndarray:
    """First step at which the curve has half of its rise from floor to peak. Linear between evaluations; the
    first evaluated step if the curve is there already. Missing if the curve never emerged, or began with a
    pretrained model that had it.

    Formula: min { s : v(s) ≥ f + (p − f) / 2 }

    >>> measure_onset_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    50.0
    >>> curves = Curves.clean([0, 100, 200], [0, 0.5, 0.9], chance=0, floor=0.5)  # first it copies labels
    >>> measure_onset_step(curves).round(6).item()
    150.0
    """
    index = (~is_below(curves.values, curves.onset_level[:, None])).argmax(axis=1)
    step = np.where(index > 0, curves.crossing(index, curves.onset_level), curves.steps[0])
    return np.where(curves.emerged & ~curves.begins_high, step, np.nan)


@measure("peak")
def measure_peak(curves: Curves) -> np.ndarray:
    """Highest value of the curve at any evaluation.

    Formula: p = max v(s)

    >>> measure_peak(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    0.8
    """
    return curves.peak


@measure("peak, step", marker="star")
def measure_peak_step(curves: Curves) -> np.ndarray:
    """Step of the first evaluation at which the curve has its highest value.

    Formula: sp = min { s : v(s) = p }

    >>> measure_peak_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    100.0
    """
    return curves.steps[curves.peak_index]


@measure("half-decay, step", marker="down")
def measure_half_decay_step(curves: Curves) -> np.ndarray:
    """First step after the peak at which the curve has lost half of its rise. Linear between evaluations.
    Missing if the curve never emerged, or never falls so far.

    Formula: min { s > sp : v(s) < b + (p − b) / 2 }

    >>> measure_half_decay_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    250.0
    """
    fallen = is_below(curves.values, curves.half_level[:, None]) & curves.after_peak
    index = fallen.argmax(axis=1)
    return np.where(curves.emerged & fallen.any(axis=1), curves.crossing(index, curves.half_level), np.nan)


@measure("final value")
def measure_final(curves: Curves) -> np.ndarray:
    """Value at the last evaluation.

    Formula: v(e)

    >>> measure_final(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    0.0
    """
    return curves.values[:, -1]


@measure("late value")
def measure_late(curves: Curves) -> np.ndarray:
    """Mean of the curve over the last tenth of training: late in training single evaluations move by 0.1.

    Formula: ∫ v(s) ds over [e − w, e], divided by w, where w is a tenth of the way from the first step to e

    >>> measure_late(Curves.clean([0, 90, 100], [0, 0.4, 0.2], chance=0)).round(3).item()
    0.3
    """
    return curves.mean_of_last(LATE_WINDOW)


@measure("persistence")
def measure_persistence(curves: Curves) -> np.ndarray:
    """Share of the rise from base to peak that is left at the end: 1 if nothing was lost, 0 at the base,
    negative below it. The base is chance; of a pretrained start it is the floor, where that is higher.
    Missing if the curve never emerged.

    Formula: (v(e) − b) / (p − b)

    >>> curves = Curves.clean([0, 100, 200, 300, 400], [0.5, 0.9, 0.8, 0.7, 0.6], chance=0.5)
    >>> measure_persistence(curves).round(3).item()
    0.25
    >>> curves = Curves.clean([0, 30, 300], [0.66, 0.78, 0.56], chance=1 / 32, floor=0.5, pretrained=True)
    >>> measure_persistence(curves).round(3).item()
    0.214
    """
    return (curves.values[:, -1] - curves.base) / curves.rise


@measure("persistence, late")
def measure_late_persistence(curves: Curves) -> np.ndarray:
    """The same of the late value: the share of the rise that is left over the last tenth of training.
    Missing if the curve never emerged.

    Formula: (late − b) / (p − b)

    >>> curves = Curves.clean([0, 50, 90, 100], [0.5, 0.9, 0.7, 0.5], chance=0.5)
    >>> measure_late_persistence(curves).round(3).item()
    0.25
    """
    return (measure_late(curves) - curves.base) / curves.rise


@measure("area lost after the peak")
def measure_area_lost(curves: Curves) -> np.ndarray:
    """Mean share of the rise that was missing between the peak and the end: 0 if the curve stays at its peak,
    1 if it is at its base all that time. Missing if the curve never emerged, or peaks at the last evaluation.

    Formula: ∫ (p − v(s)) ds over [sp, e], divided by (p − b) · (e − sp)

    >>> curves = Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)
    >>> measure_area_lost(curves).round(3).item()
    0.5
    """
    lost = curves.peak[:, None] - curves.values
    trapezoids = (lost[:, 1:] + lost[:, :-1]) / 2 * np.diff(curves.steps)
    after_peak = curves.after_peak[:, 1:]
    whole = (curves.peak - curves.base) * (curves.steps[-1] - curves.steps[curves.peak_index])
    whole = np.where(curves.emerged & (whole > 0), whole, np.nan)
    return np.where(after_peak, trapezoids, 0).sum(axis=1) / whole


@measure("re-emergence")
def measure_reemergence(curves: Curves) -> np.ndarray:
    """Share of the rise that came back late, after the lowest evaluation since the peak: near 0 if the curve
    only falls or stays, 1 if it is back at its peak from its base. Missing if the curve never emerged, or
    peaks at the last evaluation.

    Formula: max(0, late − min { v(s) : s > sp }) / (p − b)

    >>> curves = Curves.clean([0, 100, 200, 250, 300], [0, 0.8, 0.2, 0.6, 0.6], chance=0)
    >>> measure_reemergence(curves).round(3).item()
    0.5
    """
    trough = np.where(curves.after_peak, curves.values, np.inf).min(axis=1)
    regained = np.maximum(measure_late(curves) - trough, 0) / curves.rise
    return np.where(np.isfinite(trough), regained, np.nan)


@measure("monotonicity of the fall")
def measure_monotonicity(curves: Curves) -> np.ndarray:
    """Share of all movement after the peak that is net fall: 1 if the curve only falls, 0 if it ends at its
    peak. Noise lowers it, and so do more evaluations. Missing if the curve never emerged, or stays at its
    peak.

    Formula: (p − v(e)) / Σ |v(next) − v(s)| over the evaluations s from sp on

    >>> curves = Curves.clean([0, 100, 200, 300], [0, 0.8, 0.2, 0.4], chance=0)
    >>> measure_monotonicity(curves).round(3).item()
    0.5
    """
    moved = np.where(curves.after_peak[:, 1:], np.abs(np.diff(curves.values)), 0).sum(axis=1)
    moved = np.where(curves.emerged & (moved > 0), moved, np.nan)
    return (curves.peak - curves.values[:, -1]) / moved


@measure("crossover, step", marker="cross", of_shares=True)
def measure_crossover_step(curves: Curves) -> np.ndarray:
    """Step from which the in-context share of answers to flipped labels stays below one half: its last fall
    through 1/2. Linear between evaluations. Missing if the share ends at or above 1/2 (in context to the
    end), or never rose clear of it, by the rule for curves that emerged, as an untrained model hovers about
    1/2 (never in context).

    Formula: max { s : v falls through 1/2 at s }, given v(e) < 1/2

    >>> curves = Curves.clean([0, 100, 200, 300], [0.5, 0.9, 0.6, 0.4], chance=0.5)
    >>> measure_crossover_step(curves).round(6).item()
    250.0
    """
    below = is_below(curves.values, 0.5)
    falls = below[:, 1:] & ~below[:, :-1]
    if not falls.shape[1]:
        return np.full(len(falls), np.nan)
    index = falls.shape[1] - falls[:, ::-1].argmax(axis=1)
    exists = curves.emerged & below[:, -1] & falls.any(axis=1)
    return np.where(exists, curves.crossing(index, np.full(len(falls), 0.5)), np.nan)


@dataclasses.dataclass(frozen=True)
class CurveSummary:
    """The measures of one curve; None where a measure does not exist. Never NaN, so safe for JSON.

    One field for each of `MEASURES`; `crossover_step` is for in-context shares alone, `start` and `retention`
    for curves that begin with a pretrained model.
    """

    n_evaluations: int = 0
    chance: float | None = None
    start: float | None = None
    retention: float | None = None
    onset_step: float | None = None
    peak: float | None = None
    peak_step: float | None = None
    half_decay_step: float | None = None
    final: float | None = None
    late: float | None = None
    persistence: float | None = None
    late_persistence: float | None = None
    area_lost: float | None = None
    reemergence: float | None = None
    monotonicity: float | None = None
    crossover_step: float | None = None
    verdict: str | None = None


def describe_measures(*, pretrained: bool = True) -> list[dict[str, str]]:
    """Return the definition of every measure: its `name`, in `words` and as `formula`.

    Args:
        pretrained: Whether those that only curves of pretrained starts have are among them.
    """
    return [one.describe() for one in MEASURES.values() if pretrained or not one.of_pretrained]
