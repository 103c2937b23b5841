"""What a history says about in-context learning: when it appeared, how high it rose, and what was left of it.

Pure: arrays in, numbers out. Each measure is one function whose docstring defines it in words and by formula (the
report shows the same text) and shows it at work. All of them take a batch of curves, so that a summary and its
bootstrap share one definition. In the formulas v(s) is the curve over training steps s, linear between evaluations,
c its chance level, p its peak, reached at step sp, and e the last evaluated step.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from hf_icl.columns import Columns

ICL, ICL_HOLDOUT, IWL, CIWL = "icl/accuracy", "icl_holdout/accuracy", "iwl/accuracy", "ciwl/accuracy"
FLIP_SHARE, TRAIN_LOSS = "flip/context_accuracy", "train/loss"

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
        floor: Value of a model that names any label of the context without matching exemplars; a curve that never
            tops it has not emerged, however far above chance. The chance level where there is no such strategy.
    """

    steps: np.ndarray
    values: np.ndarray
    chance: float
    floor: float = 0.0

    @classmethod
    def clean(
        cls, steps: Sequence[float], values: Sequence[float], chance: float, floor: float = 0.0
    ) -> Curves | None:
        """Return a batch of one curve: finite points only, by rising step, the last of equal steps; None if none is left.

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
        """Return the step at which each curve meets `level` between evaluations index − 1 and index; where index
        is 0 the result means nothing."""
        row = np.arange(len(self.values))
        before, after = self.values[row, index - 1], self.values[row, index]
        share = np.divide(level - before, after - before, out=np.ones_like(before), where=after != before)
        return self.steps[index - 1] + share * (self.steps[index] - self.steps[index - 1])


def clean_points(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return finite points by rising step, the last of equal steps, as two float64 arrays of one length.

    >>> clean_points([2, 1, 2], [0.5, None, 0.7])
    (array([2.]), array([0.7]))
    """
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if not (steps[1:] > steps[:-1]).all():
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    kept = np.isfinite(steps) & np.isfinite(values)
    kept[:-1] &= steps[1:] != steps[:-1]
    return (steps, values) if kept.all() else (steps[kept], values[kept])


def measure_peak(curves: Curves) -> np.ndarray:
    """Highest value of the curve at any evaluation.

    Formula: p = max v(s)

    >>> measure_peak(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    0.8
    """
    return curves.peak


def measure_peak_step(curves: Curves) -> np.ndarray:
    """Step of the first evaluation at which the curve has its highest value.

    Formula: sp = min { s : v(s) = p }

    >>> measure_peak_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    100.0
    """
    return curves.steps[curves.peak_index]


def measure_onset_step(curves: Curves) -> np.ndarray:
    """First step at which the curve has half of its rise from chance to peak. Linear between evaluations; the first
    evaluated step if the curve is there already. Missing if the curve never emerged.

    Formula: min { s : v(s) ≥ c + (p − c) / 2 }

    >>> measure_onset_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    50.0
    """
    index = (curves.values >= curves.half_level[:, None]).argmax(axis=1)
    step = np.where(index > 0, curves.crossing(index, curves.half_level), curves.steps[0])
    return np.where(curves.emerged, step, np.nan)


def measure_half_decay_step(curves: Curves) -> np.ndarray:
    """First step after the peak at which the curve has lost half of its rise. Linear between evaluations. Missing if
    the curve never emerged, or never falls so far.

    Formula: min { s > sp : v(s) < c + (p − c) / 2 }

    >>> measure_half_decay_step(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    250.0
    """
    after_peak = np.arange(curves.steps.size) > curves.peak_index[:, None]
    fallen = (curves.values < curves.half_level[:, None]) & after_peak
    index = fallen.argmax(axis=1)
    return np.where(curves.emerged & fallen.any(axis=1), curves.crossing(index, curves.half_level), np.nan)


def measure_final(curves: Curves) -> np.ndarray:
    """Value at the last evaluation.

    Formula: v(e)

    >>> measure_final(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()
    0.0
    """
    return curves.values[:, -1]


def measure_persistence(curves: Curves) -> np.ndarray:
    """Share of the rise from chance to peak that is left at the end: 1 if nothing was lost, 0 at chance, negative below
    chance. Missing if the curve never emerged.

    Formula: (v(e) − c) / (p − c)

    >>> measure_persistence(Curves.clean([0, 100, 200, 300, 400], [0.5, 0.9, 0.8, 0.7, 0.6], chance=0.5)).round(3).item()
    0.25
    """
    rise = np.where(curves.emerged, curves.peak - curves.chance, np.nan)
    return (curves.values[:, -1] - curves.chance) / rise


def measure_area_lost(curves: Curves) -> np.ndarray:
    """Mean share of the rise that was missing between the peak and the end: 0 if the curve stays at its peak, 1 if it is
    at chance all that time. Missing if the curve never emerged, or peaks at the last evaluation.

    Formula: ∫ (p − v(s)) ds over [sp, e], divided by (p − c) · (e − sp)

    >>> measure_area_lost(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).round(3).item()
    0.5
    """
    lost = curves.peak[:, None] - curves.values
    trapezoids = (lost[:, 1:] + lost[:, :-1]) / 2 * np.diff(curves.steps)
    after_peak = np.arange(curves.steps.size - 1) >= curves.peak_index[:, None]
    whole = (curves.peak - curves.chance) * (curves.steps[-1] - curves.steps[curves.peak_index])
    whole = np.where(curves.emerged & (whole > 0), whole, np.nan)
    return np.where(after_peak, trapezoids, 0).sum(axis=1) / whole


def measure_crossover_step(curves: Curves) -> np.ndarray:
    """Step from which the in-context share of answers to flipped labels stays below one half: its last fall through 1/2.
    Linear between evaluations. Missing if the share ends at or above 1/2, or never rose clear of it (by the rule for
    curves that emerged, as an untrained model hovers about 1/2).

    Formula: max { s : v falls through 1/2 at s }, given v(e) < 1/2

    >>> measure_crossover_step(Curves.clean([0, 100, 200, 300], [0.5, 0.9, 0.6, 0.4], chance=0.5)).round(6).item()
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
    """Return for each curve an index into VERDICTS, int64 (n_curves,); −1 if there are fewer than two evaluations.

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


MEASURES = {
    "onset_step": measure_onset_step,
    "peak": measure_peak,
    "peak_step": measure_peak_step,
    "half_decay_step": measure_half_decay_step,
    "final": measure_final,
    "persistence": measure_persistence,
    "area_lost": measure_area_lost,
}
"""Measures of any accuracy or probability curve. `crossover_step` is for flip's in-context share alone."""


def measures_of(metric: str) -> dict[str, Any]:
    """Return the measures that a metric has, by name.

    >>> set(measures_of("flip/context_accuracy")) - set(measures_of("icl/accuracy"))
    {'crossover_step'}
    """
    return MEASURES | {"crossover_step": measure_crossover_step} if metric == FLIP_SHARE else MEASURES


@dataclasses.dataclass(frozen=True)
class CurveSummary:
    """The measures of one curve; None where a measure does not exist. Never NaN, so safe for JSON."""

    n_evaluations: int = 0
    chance: float | None = None
    onset_step: float | None = None
    peak: float | None = None
    peak_step: float | None = None
    half_decay_step: float | None = None
    final: float | None = None
    persistence: float | None = None
    area_lost: float | None = None
    verdict: str | None = None


def summarize(
    steps: Sequence[float], values: Sequence[float], chance: float, floor: float = 0.0
) -> CurveSummary:
    """Return the measures of one curve.

    Args:
        steps: Training steps of the evaluations, in any order; of equal steps the last counts.
        values: As many accuracies or probabilities; None or not-a-number points are left out.
        chance: Value of a model that knows nothing, in [0, 1].
        floor: Value that the curve must top to count as emerged; see `find_floor`.

    >>> summary = summarize([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)
    >>> summary.peak, summary.onset_step, summary.half_decay_step, summary.verdict
    (0.8, 50.0, 250.0, 'transient')
    >>> summarize([0, 100, 200], [0, 0.4, 0.1], chance=0, floor=0.5).verdict
    'never emerged'
    """
    curves = Curves.clean(steps, values, chance, floor)
    if curves is None:
        return CurveSummary(chance=float(chance))
    verdict = judge(curves).item()
    return CurveSummary(
        n_evaluations=curves.steps.size,
        chance=curves.chance,
        verdict=VERDICTS[verdict] if verdict >= 0 else None,
        **{name: _none_if_nan(measure(curves)) for name, measure in MEASURES.items()},
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """What one history says.

    `curves` maps metric names to their measures; `verdict` is that of `icl/accuracy`; `loss_at_peak` is the training
    loss at ICL's peak step, `loss_at_end` the last one, `loss_falls` whether it fell between them.
    """

    verdict: str | None
    curves: dict[str, CurveSummary]
    crossover_step: float | None
    iwl_onset_step: float | None
    loss_at_peak: float | None
    loss_at_end: float | None
    loss_falls: bool | None


def summarize_history(rows: Iterable[Mapping[str, Any]], chance: Mapping[str, float]) -> Summary:
    """Return the summary of one history.

    Args:
        rows: Rows with `step` and `metrics`, in any order (docs/architecture.md, History).
        chance: Chance level by metric name. Every `<evaluator>/accuracy` found here, and flip's in-context share, is
            summarised; others have no part in it.

    >>> rows = [{"step": s, "metrics": {"icl/accuracy": v}} for s, v in [(0, 0.0), (10, 1.0), (20, 0.0)]]
    >>> summarize_history(rows, {"icl/accuracy": 0.0}).verdict
    'transient'
    """
    columns = Columns.of(rows)
    names = [name for name in chance if name.endswith("/accuracy") or name == FLIP_SHARE]
    curves = {name: summarize(*columns.curve(name), chance[name], find_floor(name, chance)) for name in names}
    icl, iwl = curves.get(ICL, CurveSummary()), curves.get(IWL, CurveSummary())
    steps, loss = clean_points(*columns.curve(TRAIN_LOSS))
    known = steps.size > 0 and icl.peak_step is not None
    at_peak = float(np.interp(icl.peak_step, steps, loss)) if known else None
    flip = Curves.clean(*columns.curve(FLIP_SHARE), chance.get(FLIP_SHARE, 0.5))
    return Summary(
        verdict=icl.verdict,
        curves=curves,
        crossover_step=_none_if_nan(measure_crossover_step(flip)) if flip else None,
        iwl_onset_step=iwl.onset_step,
        loss_at_peak=at_peak,
        loss_at_end=float(loss[-1]) if loss.size else None,
        loss_falls=bool(loss[-1] < at_peak) if known else None,
    )


def find_floor(metric: str, chance: Mapping[str, float]) -> float:
    """Return what naming any label of the context, without matching exemplars, gives in an accuracy over all labels.

    With remapped labels the right one is always in the context, so a model that only learned to answer with a label
    that it has just seen is right as often as guessing among those: far above chance, and no in-context learning.

    >>> find_floor("icl/accuracy", {"icl/accuracy": 0.03, "icl/context_accuracy": 0.5})
    0.5
    >>> find_floor("iwl/accuracy", {"iwl/accuracy": 0.03})
    0.0
    """
    evaluator, _, measure = metric.rpartition("/")
    return chance.get(f"{evaluator}/context_accuracy", 0.0) if measure == "accuracy" else 0.0


def describe_measures() -> list[dict[str, str]]:
    """Return the definition of every measure, read from its docstring: `name`, `words` and `formula`.

    >>> describe_measures()[1]
    {'name': 'peak', 'words': 'Highest value of the curve at any evaluation.', 'formula': 'p = max v(s)'}
    """
    definitions = []
    for name, measure in measures_of(FLIP_SHARE).items():
        words, _, rest = (inspect.getdoc(measure) or "").partition("\n\nFormula: ")
        formula = rest.partition("\n\n")[0]
        definitions.append({"name": name, "words": " ".join(words.split()), "formula": formula})
    return definitions


def _none_if_nan(value: np.ndarray) -> float | None:
    number = value.item()
    return number if np.isfinite(number) else None
