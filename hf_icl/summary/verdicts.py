"""What a curve amounts to, in one or two words."""

from __future__ import annotations

import numpy as np

from hf_icl.summary.curves import Curves, is_below
from hf_icl.summary.measures import (
    measure_half_decay_step,
    measure_late,
    measure_late_persistence,
    measure_persistence,
    measure_retention,
)

TRANSIENT_PERSISTENCE = 0.5
"""An emerged curve is transient when less than this share of its rise is left late in training; what a
pretrained model had is lost when less than this share of it is."""
FADING_PERSISTENCE = 0.8
"""What is neither is fading when less than this share is left, or it has passed its half-decay."""
GROWN_RETENTION = 1.5
"""What a pretrained model had has grown when there is half as much again of it."""
RISING_WINDOW = 0.1
"""A curve can only be still rising when it peaks in this last share of training …"""
RISING_GAIN = 0.02
"""… and tops everything before that window by this share of the way from base to 1."""
FEWEST_EVALUATIONS, FEWEST_OF_PRETRAINED = 2, 4
"""Below so many evaluations there is no verdict: two say that something rose, but what training left of a
pretrained model's takes its own value and a course of three."""

DEFINITIONS = {
    "never emerged": "the peak covers less than a fifth of the way from base to 1, or does not top the floor",
    "transient": "less than half of the rise is left late in training, or no more than naming any label of "
    "the context gives",
    "still rising": "the peak lies in the last tenth of training, and tops all before by 2 % of the way from "
    "base to 1",
    "persistent": "none of these: four fifths of the rise or more are left, and half was never lost",
    "fading": "half of the rise or more is left, but less than four fifths, or half was lost on the way; of "
    "what a pretrained model had, between half and four fifths are left",
    "lost": "the pretrained model had it, and less than half of that is left late in training",
    "kept": "the pretrained model had it, and between four fifths and one and a half of that are there late "
    "in training",
    "grown": "the pretrained model had it, and one and a half of that or more is there late in training",
}
"""What each verdict says of a curve."""
VERDICTS = tuple(DEFINITIONS)
OF_PRETRAINED = ("fading", "lost", "kept", "grown")
"""The verdicts on what a pretrained model had: on how much is left of it late in training."""

NEVER_IN_CONTEXT, IN_CONTEXT = "never in context", "in context to the end"


def judge(curves: Curves) -> np.ndarray:
    """Return for each curve an index into VERDICTS, int64 (n_curves,);
    −1 if there are fewer than two evaluations, of a pretrained start fewer than four.

    A pretrained model that did not have what the curve measures is judged as one from scratch, its rise
    counted from the floor.

    >>> VERDICTS[judge(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)).item()]
    'transient'
    >>> VERDICTS[judge(Curves.clean([0, 100, 200, 300, 400], [0, 0.8, 0.8, 0.7, 0.5], chance=0)).item()]
    'fading'

    Three fine-tunings of one pretrained model, chance 1/32 and floor 1/2. Of .16 above the floor the first
    has .056 late in training, 35 %. The second has .454 of .34, 134 %: more, but less than half as much
    again, and one that starts so near to 1 cannot grow by that. The third has .35 of .13, 269 %.

    >>> def tell(steps, values):
    ...     curves = Curves.clean(steps, values, chance=1 / 32, floor=0.5, pretrained=True)
    ...     return VERDICTS[judge(curves).item()], measure_retention(curves).round(2).item()
    >>> tell([0, 30, 100, 200, 300], [0.66, 0.78, 0.58, 0.53, 0.56])
    ('lost', 0.35)
    >>> tell([0, 30, 100, 300], [0.84, 1.0, 1.0, 0.95])
    ('kept', 1.33)
    >>> tell([0, 100, 200, 300], [0.63, 0.49, 0.85, 0.85])
    ('grown', 2.69)
    """
    if curves.steps.size < (FEWEST_OF_PRETRAINED if curves.pretrained else FEWEST_EVALUATIONS):
        return np.full(len(curves.values), -1)
    first, last = curves.steps[[0, -1]]
    early = curves.steps < last - RISING_WINDOW * (last - first)
    gain = curves.peak - curves.values[:, early].max(axis=1)
    holds = ~is_below(measure_persistence(curves), TRANSIENT_PERSISTENCE)
    rising = ~is_below(gain, RISING_GAIN * (1 - curves.base)) & holds
    left, kept = measure_late_persistence(curves), measure_retention(curves)
    copies = ~is_below(curves.floor, measure_late(curves)) & (curves.floor > curves.chance)
    fading = is_below(left, FADING_PERSISTENCE) | ~np.isnan(measure_half_decay_step(curves))
    cases = {
        VERDICTS[0]: ~curves.emerged,
        "lost": is_below(kept, TRANSIENT_PERSISTENCE),
        "fading": is_below(kept, FADING_PERSISTENCE),
        "grown": curves.begins_high & ~is_below(kept, GROWN_RETENTION),
        "kept": curves.begins_high,
    }
    of_rise = {
        "still rising": rising,
        "transient": is_below(left, TRANSIENT_PERSISTENCE) | copies,
        "fading": fading,
    }
    cases = [*cases.items(), *of_rise.items()]
    numbers = [VERDICTS.index(verdict) for verdict, _ in cases]
    return np.select([holds for _, holds in cases], numbers, default=VERDICTS.index("persistent"))


def tell_crossover(verdict: str | None) -> str | None:
    """Return why an in-context share has no crossover, from the verdict on its curve.

    >>> tell_crossover("never emerged"), tell_crossover("persistent"), tell_crossover(None)
    ('never in context', 'in context to the end', None)
    """
    if verdict is None:
        return None
    return NEVER_IN_CONTEXT if verdict == VERDICTS[0] else IN_CONTEXT


def describe_verdicts() -> list[dict[str, str]]:
    """Return what each verdict says: its `name`, and in `words`."""
    return [{"name": name, "words": words} for name, words in DEFINITIONS.items()]
