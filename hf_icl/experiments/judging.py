"""From numbers per seed to a verdict: intervals over seeds, and what they say of a criterion and a claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from hf_icl.experiments.claim import Claim, Criterion, Term
from hf_icl.experiments.measuring import Measured, is_share

N_RESAMPLES = 10_000
MIN_PAIRS = 2  # fewer have no spread
Verdict = Literal["holds", "does not hold", "undecided", "refused"]
Runs = Mapping[tuple[str, int], Measured]
"""Arm and seed to its run."""


class Interval(NamedTuple):
    """A mean over seeds and how sure it is; ends are None with too few seeds to say."""

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Finding:
    """What runs say of one criterion.

    Attributes:
        verdict: Whether its mean is beyond the bound, for certain.
        leaning: The same of the mean alone, certain or not; None without numbers.
        why: What decided, in words.
        numbers: Seed to the number that is compared; seeds without one are left out.
        missing: Seeds of which a run has no such measure, as the curve never emerged in it, or it diverged.
        censored: Seeds in which an event had not come by the last step, which stands for it.
        interval: Of the mean over seeds.
        bound: What it is compared with, in the measure's unit.
        level: Of the interval, corrected for the claim's number of criteria.
    """

    criterion: Criterion
    verdict: Verdict
    leaning: Verdict | None
    why: str
    numbers: Mapping[int, float]
    missing: tuple[int, ...]
    censored: tuple[int, ...]
    interval: Interval
    bound: float
    level: float


def judge_claim(claim: Claim, seeds: Sequence[int], runs: Runs) -> tuple[Verdict, str, list[Finding]]:
    """Return the verdict on a claim, why, and what its criteria come to.

    It holds if all criteria do, and does not hold if one does not; else it is undecided.

    Args:
        claim: With its criteria.
        seeds: That count.
        runs: The finished runs.
    """
    if claim.untestable is not None:
        return "undecided", claim.untestable, []
    level = 1 - (1 - claim.level) / len(claim.criteria)
    findings = [
        judge_criterion(one, seeds, runs, level=level, min_seeds=claim.min_seeds) for one in claim.criteria
    ]
    if not any(finding.numbers for finding in findings):
        return "undecided", "not run yet", findings
    verdicts = [finding.verdict for finding in findings]
    if all(verdict == "holds" for verdict in verdicts):
        return "holds", "every criterion holds", findings
    for verdict in ("does not hold", "undecided"):
        for finding in findings:
            if finding.verdict == verdict:
                return verdict, f"{finding.criterion.that}: {finding.why}", findings
    raise AssertionError(verdicts)


def judge_criterion(
    criterion: Criterion, seeds: Sequence[int], runs: Runs, *, level: float = 0.95, min_seeds: int = 3
) -> Finding:
    """Return what runs say of one criterion.

    The interval is that of the mean over seeds (`bound_mean`; of shares `bound_share`). It holds if the whole
    interval is beyond the bound, and enough seeds are; it does not hold if the whole interval is not beyond.
    """
    numbers, missing, censored = _collect(criterion, seeds, runs)
    values = np.array(list(numbers.values()), float)
    bound = criterion.bound * (
        _find_spread(criterion, list(numbers), runs) if criterion.unit == "spread" else 1
    )
    sign = 1 if criterion.below is None else -1
    interval = _bound(criterion, values, level)
    beyond = sign * values > sign * bound
    leaning, verdict = None, "undecided"
    if values.size:
        leaning = (
            "holds"
            if sign * interval.mean > sign * bound and beyond.mean() >= criterion.in_seeds
            else "does not hold"
        )
    if values.size < max(min_seeds, MIN_PAIRS):
        why = f"{values.size} of at least {max(min_seeds, MIN_PAIRS)} seeds"
    else:
        near, far = sorted((sign * interval.low, sign * interval.high))
        enough = beyond.mean() >= criterion.in_seeds
        if far <= sign * bound:
            verdict, why = "does not hold", "the whole interval is on the other side"
        elif near <= sign * bound:
            why = "the interval holds the bound"
        elif not enough:
            needed = math.ceil(criterion.in_seeds * values.size)
            why = f"beyond the bound in {beyond.sum()} of {values.size} seeds, where {needed} are needed"
        else:
            verdict, why = "holds", "the whole interval is beyond the bound"
    return Finding(
        criterion, verdict, leaning, why, numbers, missing, censored, interval, float(bound), level
    )


def _collect(
    criterion: Criterion, seeds: Sequence[int], runs: Runs
) -> tuple[dict[int, float], tuple[int, ...], tuple[int, ...]]:
    """Return the number of each seed, and the seeds without one and those in which a number is a bound."""
    numbers, missing, censored = {}, [], []
    terms = criterion.terms
    for seed in seeds:
        if any((term.arm, seed) not in runs for term in terms):
            continue  # not trained yet
        found = [runs[term.arm, seed].find(term.metric, term.measure, term.under) for term in terms]
        values = [number.value for number in found]
        if None in values:
            missing.append(seed)
            continue
        if any(number.censored for number in found):
            censored.append(seed)
        numbers[seed] = _combine(criterion, values)
    return numbers, tuple(missing), tuple(censored)


def _combine(criterion: Criterion, values: Sequence[float]) -> float:
    if criterion.trend is not None:
        return correlate_ranks(values)
    if criterion.minus is not None:
        return values[0] - values[1]
    if criterion.over is not None:
        return max(values[0], 1.0) / max(values[1], 1.0)  # of steps: 0 and 1 are one
    return values[0]


def correlate_ranks(values: Sequence[float]) -> float:
    """Return Spearman's correlation of values with their order; 0 if all are equal. Equal ones share a rank.

    >>> correlate_ranks([0.1, 0.5, 0.9]), correlate_ranks([3.0, 2.0, 1.0]), correlate_ranks([1.0, 1.0, 1.0])
    (1.0, -1.0, 0.0)
    """
    ranks, order = stats.rankdata(values), np.arange(len(values))
    if np.ptp(ranks) == 0:
        return 0.0
    return round(float(np.corrcoef(order, ranks)[0, 1]), 12)


def _find_spread(criterion: Criterion, seeds: Sequence[int], runs: Runs) -> float:
    other: Term = criterion.terms[1]
    values = [runs[other.arm, seed].find(other.metric, other.measure, other.under).value for seed in seeds]
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _bound(criterion: Criterion, values: np.ndarray, level: float) -> Interval:
    if criterion.take is not None and len(criterion.terms) == 1 and is_share(criterion.take.measure):
        return bound_share(values, level)
    if criterion.over is not None:
        logs = bound_mean(np.log(values), level)
        return Interval(*(None if end is None else math.exp(end) for end in (logs.mean, logs.low, logs.high)))
    return bound_mean(values, level)


def bound_mean(values: np.ndarray, level: float = 0.95, *, seed: int = 0) -> Interval:
    """Return the mean of a few numbers with an interval that is wide enough for few.

    It is a bootstrap interval, or Student's where that is wider on a side. The bootstrap's is the expanded
    percentile interval: over n resampled numbers a percentile interval is too narrow by √((n − 1)/n), and its
    tails are normal where Student's are due, so each tail is Φ(−√(n/(n − 1)) · t), where t is Student's
    quantile. Even so it never leaves the range of the numbers, which for very few says too much; Student's
    does, and takes them to be normal, which the bootstrap does not.

    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap".

    >>> [round(end, 3) for end in bound_mean(np.array([0.1, 0.2, 0.3]))]  # 0.2 ± 4.303 · 0.1 / √3
    [0.2, -0.048, 0.448]
    >>> bound_mean(np.array([0.1]))
    Interval(mean=0.1, low=None, high=None)
    """
    n = values.size
    if n < MIN_PAIRS:
        return Interval(float(values.mean()) if n else None, None, None)
    mean, t = float(values.mean()), stats.t.ppf((1 + level) / 2, n - 1)
    half = float(t * values.std(ddof=1) / math.sqrt(n))
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * t)
    drawn = np.random.default_rng(seed).integers(n, size=(N_RESAMPLES, n))
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail], method="inverted_cdf").tolist()
    return Interval(*(round(end, 12) for end in (mean, min(low, mean - half), max(high, mean + half))))


def bound_share(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the share of ones with Wilson's interval: resampled, eight of eight would look like a certainty.

    >>> interval = bound_share(np.ones(8))
    >>> interval.mean, round(interval.low, 3), interval.high
    (1.0, 0.676, 1.0)
    """
    n = values.size
    if n < MIN_PAIRS:
        return Interval(float(values.mean()) if n else None, None, None)
    z, share = stats.norm.ppf((1 + level) / 2), float(values.mean())
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))
