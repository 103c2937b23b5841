"""Curves over training, many at a time, and the levels at which their events are read."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from hf_icl.history.columns import Numbers, clean_points

EMERGED_RISE = 0.2
"""A curve has emerged when its peak covers this share of the way from its base to 1, and tops the floor."""
LATE_WINDOW = 0.1
"""The last share of training, over which single evaluations are averaged."""
ROUNDING = 1e-9
"""Values this near to a level are at it: sums round by less, and differently from one numpy to the next."""


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
        pretrained: Whether the first evaluation is of a model that was trained before, so that curves may
            begin high: what they gain and lose is then counted from the floor.
    """

    steps: np.ndarray
    values: np.ndarray
    chance: float
    floor: float = 0.0
    pretrained: bool = False

    @classmethod
    def clean(
        cls,
        steps: Numbers,
        values: Numbers,
        chance: float,
        floor: float = 0.0,
        *,
        pretrained: bool = False,
    ) -> Curves | None:
        """Return a batch of one curve: finite points only, by rising step, the last of equal steps;
        None if none is left.

        >>> Curves.clean([20, 0, 10, 20], [0.4, 0.1, float("nan"), 0.5], chance=0.1).values.tolist()
        [[0.1, 0.5]]
        """
        steps, values = clean_points(steps, values)
        return cls(steps, values[None], float(chance), float(floor), pretrained) if steps.size else None

    @property
    def base(self) -> float:
        """What the rise is counted from: chance; of a pretrained start the floor, where that is higher.

        A trained language model names labels of the context from the first step, so that there is nothing
        of in-context learning in the way from chance to the floor. Weights that start from scratch know
        nothing of copying either: what they lose goes to in-weights learning, below the floor.
        """
        return max(self.chance, self.floor) if self.pretrained else self.chance

    @cached_property
    def peak_index(self) -> np.ndarray:
        return self.values.argmax(axis=1)

    @cached_property
    def peak(self) -> np.ndarray:
        return self.values.max(axis=1)

    @cached_property
    def rise(self) -> np.ndarray:
        """From base to peak; not-a-number where the curve never emerged."""
        return np.where(self.emerged, self.peak - self.base, np.nan)

    @cached_property
    def half_level(self) -> np.ndarray:
        return self.base + (self.peak - self.base) / 2

    @cached_property
    def onset_level(self) -> np.ndarray:
        """Half of the rise that nothing but the curve's own strategy explains: from the floor up."""
        base = max(self.chance, self.floor)
        return base + (self.peak - base) / 2

    @cached_property
    def emerged(self) -> np.ndarray:
        return self._is_clear(self.peak)

    @cached_property
    def begins_high(self) -> np.ndarray:
        """Whether what the curve measures was there before training, by the rule for peaks."""
        return self._is_clear(self.values[:, 0]) & self.pretrained

    def _is_clear(self, values: np.ndarray) -> np.ndarray:
        rise = values - self.base
        return (rise > 0) & ~is_below(rise, EMERGED_RISE * (1 - self.base)) & is_below(self.floor, values)

    @cached_property
    def after_peak(self) -> np.ndarray:
        """Which evaluations come after the peak, bool (n_curves, n_evaluations)."""
        return np.arange(self.steps.size) > self.peak_index[:, None]

    def crossing(self, index: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return the step at which each curve meets `level` between evaluations index − 1 and index; where
        index is 0 the result means nothing."""
        row = np.arange(len(self.values))
        before, after = self.values[row, index - 1], self.values[row, index]
        share = np.divide(level - before, after - before, out=np.ones_like(before), where=after != before)
        return self.steps[index - 1] + share * (self.steps[index] - self.steps[index - 1])

    def mean_of_last(self, share: float) -> np.ndarray:
        """Return each curve's mean over the last share of training, the curve linear between evaluations.

        >>> Curves.clean([0, 50, 100], [0, 1, 0], chance=0).mean_of_last(0.5).item()
        0.5
        """
        first, last = self.steps[[0, -1]]
        start = last - share * (last - first)
        if start == last:
            return self.values[:, -1]
        inside = self.steps > start
        at = np.concatenate([[start], self.steps[inside]])
        edge = np.array([np.interp(start, self.steps, curve) for curve in self.values])
        values = np.concatenate([edge[:, None], self.values[:, inside]], axis=1)
        return ((values[:, 1:] + values[:, :-1]) / 2 * np.diff(at)).sum(axis=1) / (last - start)


def is_below(values: np.ndarray | float, level: np.ndarray | float) -> np.ndarray:
    """Return which values are below a level, and not at it but for rounding; not-a-number is not.

    >>> is_below(np.array([0.4, (0.7 - 0.5) / (0.9 - 0.5), np.nan]), 0.5).tolist()
    [True, False, False]
    """
    return values < level - ROUNDING
