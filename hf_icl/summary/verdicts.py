"""What a curve amounts to, in one or two words."""

from __future__ import annotations

import numpy as np

from hf_icl.summary.curves import Curves
from hf_icl.summary.measures import measure_half_decay_step, measure_late_persistence, measure_persistence

TRANSIENT_PERSISTENCE = 0.5
"""An emerged curve is transient when less than this share of its rise is left late in training."""
FADING_PERSISTENCE = 0.8
"""One that is not transient is fading when less than this share is left, or it has passed its half-decay."""
RISING_WINDOW = 0.1
"""A curve can only be still rising when it peaks in this last share of training …"""
RISING_GAIN = 0.02
"""… and tops everything before that window by this share of the way from chance to 1."""

VERDICTS = ("never emerged", "transient", "still rising", "persistent", "fading")

NEVER_IN_CONTEXT, IN_CONTEXT = "never in context", "in context to the end"


def judge(curves: Curves) -> np.ndarray:
    """Return for each curve an index into VERDICTS, int64 (n_curves,);
    −1 if there are fewer than two evaluations.

    >>> VERDICTS[judge(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()]
    'transient'
    >>> VERDICTS[judge(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.8, 0.7, 0.5], chance=0)).item()]
    'fading'
    """
    if curves.steps.size < 2:
        return np.full(len(curves.values), -1)
    first, last = curves.steps[[0, -1]]
    early = curves.steps < last - RISING_WINDOW * (last - first)
    gain = curves.peak - curves.values[:, early].max(axis=1)
    holds = measure_persistence(curves) >= TRANSIENT_PERSISTENCE
    rising = (gain >= RISING_GAIN * (1 - curves.chance)) & holds
    left = measure_late_persistence(curves)
    fading = (left < FADING_PERSISTENCE) | ~np.isnan(measure_half_decay_step(curves))
    order = [~curves.emerged, rising, left < TRANSIENT_PERSISTENCE, fading]
    return np.select(order, [0, 2, 1, 4], default=3)


def tell_crossover(verdict: str | None) -> str | None:
    """Return why an in-context share has no crossover, from the verdict on its curve.

    >>> tell_crossover("never emerged"), tell_crossover("persistent"), tell_crossover(None)
    ('never in context', 'in context to the end', None)
    """
    if verdict is None:
        return None
    return NEVER_IN_CONTEXT if verdict == VERDICTS[0] else IN_CONTEXT
