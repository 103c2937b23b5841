"""What a history says about in-context learning: when it appeared, how high it rose, and what was left of it.

Pure: arrays in, numbers out. Each measure is one function whose docstring defines it in words and by formula
(the report shows the same text) and shows it at work; `measure` enters it into `MEASURES`, which everything
else reads. All of them take a batch of curves, so that a summary and its bootstrap share one definition. In
the formulas v(s) is the curve over training steps s, linear between evaluations, c its chance level, p its
peak, reached at step sp, and e the last evaluated step.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np

from hf_icl.history.columns import Numbers, clean_points

EMERGED_RISE = 0.2
"""A curve has emerged when its peak covers this share of the way from chance to 1, and tops the floor."""
TRANSIENT_PERSISTENCE = 0.5
"""An emerged curve is transient when it ends with less than this share of its rise."""
RISING_WINDOW = 0.1
"""A curve can only be still rising when it peaks in this last share of training …"""
RISING_GAIN = 0.02
"""… and tops everything before that window by this share of the way from chance to 1."""

VERDICTS = ("never emerged", "transient", "still rising", "persistent")


@dataclasses.dataclass(frozen=True)
class Curves:
    """A batch of curves over the same evaluations.

    Args:
        steps: Training steps of the evaluations, shape (n_evaluations,), strictly increasing, at least one.
        values: Finite values, shape (n_curves, n_evaluations); accuracies or probabilities in [0, 1].
        chance: Value of a model that knows nothing, in [0, 1].
        floor: Value of a model that names any label of the context without matching exemplars; a curve that
            never tops it has not emerged, however far above chance. The chance level where there is no such
            strategy.
    """

    steps: np.ndarray
    values: np.ndarray
    chance: float
    floor: float = 0.0

    @classmethod
    def clean(
        cls,
        steps: Numbers,
        values: Numbers,
        chance: float,
        floor: float = 0.0,
    ) -> Curves | None:
        """Return a batch of one curve: finite points only, by rising step, the last of equal steps;
        None if none is left.

        >>> Curves.clean([20, 0, 10, 20], [0.4, 0.1, float("nan"), 0.5], chance=0.1).values.tolist()
        [[0.1, 0.5]]
        """
        steps, values = clean_points(steps, values)
        return cls(steps, values[None], float(chance), float(floor)) if steps.size else None

    @cached_property
    def peak_index(self) -> np.ndarray:
        return self.values.argmax(axis=1)

    @cached_property
    def peak(self) -> np.ndarray:
        return self.values.max(axis=1)

    @cached_property
    def half_level(self) -> np.ndarray:
        return self.chance + (self.peak - self.chance) / 2

    @cached_property
    def emerged(self) -> np.ndarray:
        rise = self.peak - self.chance
        return (rise > 0) & (rise >= EMERGED_RISE * (1 - self.chance)) & (self.peak > self.floor)

    def crossing(self, index: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return the step at which each curve meets `level` between evaluations index − 1 and index; where
        index is 0 the result means nothing."""
        row = np.arange(len(self.values))
        before, after = self.values[row, index - 1], self.values[row, index]
        share = np.divide(level - before, after - before, out=np.ones_like(before), where=after != before)
        return self.steps[index - 1] + share * (self.steps[index] - self.steps[index - 1])


@dataclasses.dataclass(frozen=True)
class Measure:
    """What can be said of a curve in one number.

    Attributes:
        name: In summaries and `transience.json`; a training step if it ends in `_step`.
        title: For people.
        find: From `Curves` to a float64 array (n_curves,), not-a-number where the measure does not exist.
        marker: How charts mark it on its curve; None: not at all.
        of_shares: Whether only in-context shares have it, not accuracies.
    """

    name: str
    title: str
    find: Callable[[Curves], np.ndarray]
    marker: Literal["up", "star", "down", "cross"] | None = None
    of_shares: bool = False

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


def measure(title: str, *, marker: str | None = None, of_shares: bool = False) -> Callable[[Find], Find]:
    """Enter `measure_<name>` into `MEASURES` under its name; the arguments are those of `Measure`."""

    def register(find: Find) -> Find:
        name = find.__name__.removeprefix("measure_")
        MEASURES[name] = Measure(name, title, find, marker, of_shares)
        return find

    return register


def measures_of(metric: str) -> dict[str, Measure]:
    """Return the measures that a metric has, by name.

    >>> set(measures_of("flip/context_accuracy")) - set(measures_of("icl/accuracy"))
    {'crossover_step'}
    """
    is_share = metric.endswith("/context_accuracy")
    return {name: one for name, one in MEASURES.items() if is_share or not one.of_shares}


@measure("onset, step", marker="up")
def measure_onset_step(curves: Curves) -> np.ndarray:
    """First step at which the curve has half of its rise from chance to peak. Linear between evaluations; the
    first evaluated step if the curve is there already. Missing if the curve never emerged.

    Formula: min { s : v(s) ≥ c + (p − c) / 2 }

    >>> measure_onset_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    50.0
    """
    index = (curves.values >= curves.half_level[:, None]).argmax(axis=1)
    step = np.where(index > 0, curves.crossing(index, curves.half_level), curves.steps[0])
    return np.where(curves.emerged, step, np.nan)


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

    Formula: min { s > sp : v(s) < c + (p − c) / 2 }

    >>> measure_half_decay_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    250.0
    """
    after_peak = np.arange(curves.steps.size) > curves.peak_index[:, None]
    fallen = (curves.values < curves.half_level[:, None]) & after_peak
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


@measure("persistence")
def measure_persistence(curves: Curves) -> np.ndarray:
    """Share of the rise from chance to peak that is left at the end: 1 if nothing was lost, 0 at chance,
    negative below chance. Missing if the curve never emerged.

    Formula: (v(e) − c) / (p − c)

    >>> curves = Curves.clean([0, 100, 200, 300, 400], [0.5, 0.9, 0.8, 0.7, 0.6], chance=0.5)
    >>> measure_persistence(curves).round(3).item()
    0.25
    """
    rise = np.where(curves.emerged, curves.peak - curves.chance, np.nan)
    return (curves.values[:, -1] - curves.chance) / rise


@measure("area lost after the peak")
def measure_area_lost(curves: Curves) -> np.ndarray:
    """Mean share of the rise that was missing between the peak and the end: 0 if the curve stays at its peak,
    1 if it is at chance all that time. Missing if the curve never emerged, or peaks at the last evaluation.

    Formula: ∫ (p − v(s)) ds over [sp, e], divided by (p − c) · (e − sp)

    >>> curves = Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)
    >>> measure_area_lost(curves).round(3).item()
    0.5
    """
    lost = curves.peak[:, None] - curves.values
    trapezoids = (lost[:, 1:] + lost[:, :-1]) / 2 * np.diff(curves.steps)
    after_peak = np.arange(curves.steps.size - 1) >= curves.peak_index[:, None]
    whole = (curves.peak - curves.chance) * (curves.steps[-1] - curves.steps[curves.peak_index])
    whole = np.where(curves.emerged & (whole > 0), whole, np.nan)
    return np.where(after_peak, trapezoids, 0).sum(axis=1) / whole


@measure("crossover, step", marker="cross", of_shares=True)
def measure_crossover_step(curves: Curves) -> np.ndarray:
    """Step from which the in-context share of answers to flipped labels stays below one half: its last fall
    through 1/2. Linear between evaluations. Missing if the share ends at or above 1/2, or never rose clear of
    it (by the rule for curves that emerged, as an untrained model hovers about 1/2).

    Formula: max { s : v falls through 1/2 at s }, given v(e) < 1/2

    >>> curves = Curves.clean([0, 100, 200, 300], [0.5, 0.9, 0.6, 0.4], chance=0.5)
    >>> measure_crossover_step(curves).round(6).item()
    250.0
    """
    below = curves.values < 0.5
    falls = below[:, 1:] & ~below[:, :-1]
    if not falls.shape[1]:
        return np.full(len(falls), np.nan)
    index = falls.shape[1] - falls[:, ::-1].argmax(axis=1)
    exists = curves.emerged & below[:, -1] & falls.any(axis=1)
    return np.where(exists, curves.crossing(index, np.full(len(falls), 0.5)), np.nan)


def judge(curves: Curves) -> np.ndarray:
    """Return for each curve an index into VERDICTS, int64 (n_curves,);
    −1 if there are fewer than two evaluations.

    >>> VERDICTS[judge(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()]
    'transient'
    """
    if curves.steps.size < 2:
        return np.full(len(curves.values), -1)
    first, last = curves.steps[[0, -1]]
    early = curves.steps < last - RISING_WINDOW * (last - first)
    gain = curves.peak - curves.values[:, early].max(axis=1)
    rising = gain >= RISING_GAIN * (1 - curves.chance)
    faded = measure_persistence(curves) < TRANSIENT_PERSISTENCE
    return np.select([~curves.emerged, faded, rising], [0, 1, 2], default=3)


@dataclasses.dataclass(frozen=True)
class CurveSummary:
    """The measures of one curve; None where a measure does not exist. Never NaN, so safe for JSON.

    One field for each of `MEASURES`; `crossover_step` is for in-context shares alone.
    """

    n_evaluations: int = 0
    chance: float | None = None
    onset_step: float | None = None
    peak: float | None = None
    peak_step: float | None = None
    half_decay_step: float | None = None
    final: float | None = None
    persistence: float | None = None
    area_lost: float | None = None
    crossover_step: float | None = None
    verdict: str | None = None


def describe_measures() -> list[dict[str, str]]:
    """Return the definition of every measure: its `name`, in `words` and as `formula`."""
    return [one.describe() for one in MEASURES.values()]
