"""How sure a summary is: percentile bootstrap intervals over evaluation sequences, and over replicas.

Evaluation sequences are drawn once and scored at every evaluation, so they are resampled jointly: one draw of
sequence ids holds for the whole curve (a paired bootstrap). Such intervals say how far another draw of
evaluation sequences would move the numbers of this run; those over replicas say how far other seeds of
training would.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_icl.errors import RunError
from hf_icl.history.history import unpack_hits
from hf_icl.summary.curves import Curves
from hf_icl.summary.measures import MEASURES, measures_of
from hf_icl.summary.verdicts import VERDICTS, judge

Band = tuple[np.ndarray, np.ndarray, np.ndarray]
LEVEL = 0.95
N_RESAMPLES = 1000
_BLOCK_ITEMS = 4_000_000  # resampled numbers held at a time, 32 MB


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Intervals of one curve's measures.

    `measures` maps names to (low, high), or to None where a measure exists in too few resamples to say. A
    resample in which an event never comes counts as later than all steps, so `high` of a step is None where
    the event may well lie beyond training. `verdicts` maps each verdict to the share of resamples that reach
    it. `band` is that of the curve itself: steps, low and high end, each float64 (n_evaluations,).
    """

    measures: dict[str, tuple[float, float | None] | None]
    verdicts: dict[str, float]
    band: Band = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class ReplicaEstimate:
    """Mean over the `n` replicas that have a measure, with its interval;
    None where there is nothing to say."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def stack_hits(
    rows: Iterable[Mapping[str, Any]], metric: str, n_sequences: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return steps float64 (n_evaluations,), rising,
    and hits bool (n_evaluations, n_sequences) of one metric.

    Rows without hits are skipped; of equal steps the last counts, as in a summary.

    Raises:
        RunError: If a row's hits are not those of so many sequences.

    >>> rows = [{"step": 7, "hits": {"icl/accuracy": "oA=="}}, {"step": 8}]
    >>> stack_hits(rows, "icl/accuracy", 3)
    (array([7.]), array([[ True, False,  True]]))
    """
    latest = {row["step"]: row["hits"][metric] for row in rows if metric in row.get("hits", {})}
    steps = sorted(latest)
    n_characters = 4 * -(-n_sequences // 24)
    for step in steps:
        if len(latest[step]) != n_characters:
            raise RunError(
                f"history, step {step}: hits of {metric} are not those of {n_sequences} sequences. "
                "The row is damaged, or comes from another run."
            )
    hits = [unpack_hits(latest[step], n_sequences) for step in steps]
    return np.asarray(steps, float), np.asarray(hits, bool).reshape(len(steps), n_sequences)


def bootstrap_curve(
    steps: np.ndarray,
    hits: np.ndarray,
    chance: float,
    metric: str,
    *,
    floor: float = 0.0,
    pretrained: bool = False,
    seed: int = 0,
) -> Intervals | None:
    """Return 95 % intervals of a curve's measures over its evaluation sequences.

    The peak's is that of the curve at the step where it peaked: the highest of many resampled values lies
    above the highest measured one nearly always, and would rarely cover the truth.

    Args:
        steps: Training steps, shape (n_evaluations,), strictly increasing.
        hits: Whether each sequence was answered right, bool (n_evaluations, n_sequences); same sequences in
            each row.
        chance: Chance level of the mean of a row, in [0, 1].
        metric: Name, which decides on the measures.
        floor: What the mean must top to count as emerged; see `find_floor`.
        pretrained: Whether the first row is of a model that was trained before.
        seed: Seed of the resampling.

    Returns:
        The intervals; None without evaluations or sequences.

    >>> steps, hits = np.array([0.0, 10.0]), np.array([[False] * 8, [True] * 8])
    >>> sure = bootstrap_curve(steps, hits, 0.0, "icl/accuracy")
    >>> sure.measures["peak"], sure.measures["onset_step"], sure.verdicts
    ((1.0, 1.0), (5.0, 5.0), {'still rising': 1.0})
    >>> [column.tolist() for column in sure.band]
    [[0.0, 10.0], [0.0, 1.0], [0.0, 1.0]]
    """
    n_evaluations, n_sequences = hits.shape
    if not hits.size:
        return None
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_ITEMS // max(n_evaluations, n_sequences))
    known = measures_of(metric, pretrained=pretrained)
    measures = {name: [] for name in known}
    verdicts, means = [], []
    peak_index = hits.mean(axis=1).argmax()
    for start in range(0, N_RESAMPLES, block):
        counts = draw_counts(rng, min(block, N_RESAMPLES - start), n_sequences)
        curves = Curves(steps, _weigh(counts, hits), chance, floor, pretrained)
        for name, one in known.items():
            measures[name].append(curves.values[:, peak_index] if name == "peak" else one.find(curves))
        verdicts.append(judge(curves))
        means.append(curves.values)
    shares = np.bincount(np.concatenate(verdicts) + 1, minlength=len(VERDICTS) + 1)[1:] / N_RESAMPLES
    return Intervals(
        measures={name: _interval(name, np.concatenate(parts)) for name, parts in measures.items()},
        verdicts={verdict: float(share) for verdict, share in zip(VERDICTS, shares, strict=True) if share},
        band=(steps, *_find_ends(np.concatenate(means))),
    )


def draw_counts(rng: np.random.Generator, n_resamples: int, n_items: int) -> np.ndarray:
    """Return how often each item enters each resample, float32 (n_resamples, n_items);
    rows sum to n_items."""
    drawn = rng.integers(n_items, size=(n_resamples, n_items), dtype=np.int64)
    drawn += np.arange(n_resamples)[:, None] * n_items
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * n_items)
    return counts.reshape(n_resamples, n_items).astype(np.float32)


def bootstrap_replicas(values: Sequence[float | None], *, seed: int = 0) -> ReplicaEstimate:
    """Return the mean of one measure over replicas, with a 95 % interval that resamples replicas.

    Replicas without the measure (None) are left out and not counted in `n`. With few replicas a percentile
    interval is on the narrow side; with one there is none.

    >>> bootstrap_replicas([0.5, 0.5, None])
    ReplicaEstimate(mean=0.5, low=0.5, high=0.5, n=2)
    """
    known = np.array([value for value in values if value is not None], float)
    if known.size < 2:
        return ReplicaEstimate(float(known[0]) if known.size else None, None, None, int(known.size))
    low, high = bootstrap_band(known[:, None], seed=seed)
    return ReplicaEstimate(float(known.mean()), float(low[0]), float(high[0]), int(known.size))


def bootstrap_median(
    values: Sequence[float | None], *, seed: int = 0
) -> tuple[float | None, tuple[float, float | None] | None]:
    """Return the median of a step over replicas and its 95 % interval, which resamples replicas.

    A replica in which the event never comes (None) counts as later than all: leaving it out would make a
    setting in which the event is rare look early. Of an even number the upper middle one counts.

    Returns:
        The median, None where it lies beyond training, and the interval, its upper end None likewise; None
        with fewer than two replicas, or where the event comes in too few of them to say.

    >>> bootstrap_median([100, 300, None])
    (300.0, (100.0, None))
    >>> bootstrap_median([100, None, None])
    (None, (100.0, None))
    """
    steps = np.array([np.inf if value is None else value for value in values], float)
    if not steps.size:
        return None, None
    middle = steps.size // 2
    median = np.sort(steps)[middle]
    median = float(median) if np.isfinite(median) else None
    if steps.size < 2:
        return median, None
    drawn = np.random.default_rng(seed).integers(steps.size, size=(N_RESAMPLES, steps.size))
    medians = np.sort(steps[drawn], axis=1)[:, middle]
    low, high = np.quantile(medians, _ends(), method="inverted_cdf").tolist()
    if np.isinf(low):
        return median, None
    return median, (low, high if np.isfinite(high) else None)


def bootstrap_band(values: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % band of the mean over replicas, two arrays (n_points,),
    from values (n_replicas, n_points).

    >>> [end.tolist() for end in bootstrap_band(np.array([[0.2, 0.6], [0.2, 0.6]]))]
    [[0.2, 0.6], [0.2, 0.6]]
    """
    counts = draw_counts(np.random.default_rng(seed), N_RESAMPLES, len(values)).astype(float)
    return _find_ends(counts @ values / len(values))


def bootstrap_hits(hits: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Return the ends of the 95 % interval of the mean of one evaluation's outcomes, bool (n_sequences,).

    >>> low, high = bootstrap_hits(np.arange(400) < 100)
    >>> 0.2 < low < 0.22 and 0.28 < high < 0.3
    True
    """
    low, high = bootstrap_band(hits[:, None].astype(float), seed=seed)
    return low.item(), high.item()


def _find_ends(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the middle 95 % at each point, from resampled curves (n_resamples, n_points)."""
    low, high = np.quantile(resampled, _ends(), axis=0, method="inverted_cdf")
    return low, high


def _weigh(counts: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return resampled means, float64 (n_resamples, n_evaluations). Sums are exact:
    float32 holds integers to 2^24."""
    width = max(1, _BLOCK_ITEMS // hits.shape[1])
    parts = [counts @ hits[at : at + width].T.astype(np.float32) for at in range(0, len(hits), width)]
    return np.concatenate(parts, axis=1).astype(float) / hits.shape[1]


def _interval(name: str, values: np.ndarray) -> tuple[float, float | None] | None:
    missing = np.isnan(values)
    if MEASURES[name].is_step:
        known = np.where(missing, np.inf, values)
    elif missing.mean() > 1 - LEVEL:
        return None
    else:
        known = values[~missing]
    low, high = np.quantile(known, _ends(), method="inverted_cdf").tolist()
    if np.isinf(low):
        return None
    return low, high if np.isfinite(high) else None


def _ends() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2
