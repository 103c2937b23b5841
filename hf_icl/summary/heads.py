"""The heads of a history: what their metrics are called, and their curves by layer and head.

Loads no torch, so that reports start soon.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hf_icl.history.columns import NO_VALUE, Columns

INSTRUMENT = "heads"
INDUCTION = "induction"
_NAME = re.compile(rf"{INSTRUMENT}/(\w+)/(\w+)/L(\d+)H(\d+)")


class HeadMetric(NamedTuple):
    """One score of one head on one evaluator's sequences; layers and heads count from 0.

    >>> HeadMetric("induction", "mine", 1, 3).name
    'heads/induction/mine/L1H3'
    >>> HeadMetric.read("heads/induction/mine/L1H3").head, HeadMetric.read("mine/accuracy")
    (3, None)
    """

    score: str
    evaluator: str
    layer: int
    head: int

    @property
    def name(self) -> str:
        """What it is called in a history."""
        return f"{INSTRUMENT}/{self.score}/{self.evaluator}/{name_head(self.layer, self.head)}"

    @classmethod
    def read(cls, name: str) -> HeadMetric | None:
        """Return what a metric's name says; None if it is not one of a head."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(found[1], found[2], int(found[3]), int(found[4]))


def name_head(layer: int, head: int) -> str:
    """Return what a head is called.

    >>> name_head(1, 3)
    'L1H3'
    """
    return f"L{layer}H{head}"


class HeadCurves(NamedTuple):
    """One score over training, by layer and head.

    Attributes:
        steps: int64 (n_evaluations,), rising.
        values: float64 (n_evaluations, n_layers, n_heads); not-a-number where a head was not measured.
        layers: The model's layers that have heads, in order: which layer each row is.
    """

    steps: np.ndarray
    values: np.ndarray
    layers: tuple[int, ...]

    def at(self, step: float) -> np.ndarray:
        """Return the values of the evaluation nearest to a step, (n_layers, n_heads)."""
        return self.values[np.abs(self.steps - step).argmin()]

    def find_strongest(self, step: float) -> tuple[int, int]:
        """Return layer and head with the highest value at the evaluation nearest to a step."""
        row, head = np.unravel_index(np.nanargmax(self.at(step)), self.values.shape[1:])
        return self.layers[row], int(head)

    def read(self, step: float, head: tuple[int, int]) -> float:
        """Return the value of one head, (layer, head), at the evaluation nearest to a step."""
        return float(self.of(*head)[np.abs(self.steps - step).argmin()])

    def of(self, layer: int, head: int) -> np.ndarray:
        """Return the curve of one head, (n_evaluations,)."""
        return self.values[:, self.layers.index(layer), head]


def read_heads(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], HeadCurves]:
    """Return the curves of all heads that a history holds, by score and evaluator.

    Args:
        rows: Rows with `step` and `metrics`; of equal steps the last counts.

    >>> rows = [{"step": 8, "metrics": {"heads/induction/mine/L0H1": 0.5, "mine/accuracy": 1.0}}]
    >>> curves = read_heads(rows)["induction", "mine"]
    >>> curves.steps.tolist(), curves.values.tolist(), curves.find_strongest(8)
    ([8], [[[nan, 0.5]]], (0, 1))
    """
    columns = Columns.of(rows)
    found: dict[tuple[str, str], dict[tuple[int, int], np.ndarray]] = {}
    for name, values in columns.metrics.items():
        if (metric := HeadMetric.read(name)) is not None:
            curve = np.asarray(values, float)
            heads = found.setdefault((metric.score, metric.evaluator), {})
            heads[metric.layer, metric.head] = np.where(curve == NO_VALUE, np.nan, curve)
    steps = np.asarray(columns.steps)
    return {key: _stack(steps, heads) for key, heads in found.items()}


def _stack(steps: np.ndarray, heads: Mapping[tuple[int, int], np.ndarray]) -> HeadCurves:
    layers = tuple(sorted({layer for layer, _ in heads}))
    values = np.full((len(steps), len(layers), 1 + max(head for _, head in heads)), np.nan)
    for (layer, head), curve in heads.items():
        values[:, layers.index(layer), head] = curve
    known = ~np.isnan(values).all(axis=(1, 2))
    # of equal steps the last: the first one from behind
    unique, index = np.unique(steps[known][::-1], return_index=True)
    return HeadCurves(unique, values[known][::-1][index], layers)


@dataclasses.dataclass(frozen=True)
class HeadsSummary:
    """What the heads of one run look at, at ICL's peak and at the end.

    Attributes:
        peak_step: The evaluation of heads nearest to ICL's peak.
        last_step: Their last one.
        head: The one that looks most at the right label, at the peak.
        at_peak: Its induction strength then, on sequences that ask for ICL.
        at_end: The same at the end.
        flip_at_peak: Its strength with labels swapped, at the peak: negative where it looks at the class's
            own label.
        flip_at_end: The same at the end.
        own_head: The one that looks most at the class's own label, at the end, with labels swapped.
        own_at_peak: Its strength with labels swapped, at the peak.
        own_at_end: The same at the end, the lowest of all heads.

    Where swapped labels were not measured, their fields are None.
    """

    peak_step: int
    last_step: int
    head: str
    at_peak: float
    at_end: float
    flip_at_peak: float | None = None
    flip_at_end: float | None = None
    own_head: str | None = None
    own_at_peak: float | None = None
    own_at_end: float | None = None


def summarize_heads(
    icl: HeadCurves, flip: HeadCurves | None = None, peak_step: float | None = None
) -> HeadsSummary:
    """Return what heads look at, at ICL's peak and at the end.

    Args:
        icl: Induction strengths on sequences that ask for ICL.
        flip: The same on sequences with swapped labels.
        peak_step: Where ICL peaks; None: at the last evaluation.

    >>> def curves(*heads):
    ...     return HeadCurves(np.array([10, 90]), np.array(heads, float).T[:, None], (1,))
    >>> found = summarize_heads(curves([0.2, 0.1], [0.5, 0.3]), curves([0.1, -0.4], [0.4, 0.2]), peak_step=12)
    >>> found.head, found.at_peak, found.at_end, found.own_head, found.own_at_end
    ('L1H1', 0.5, 0.3, 'L1H0', -0.4)
    """
    last = int(icl.steps[-1])
    peak = last if peak_step is None else peak_step
    head = icl.find_strongest(peak)
    found = HeadsSummary(
        peak_step=int(icl.steps[np.abs(icl.steps - peak).argmin()]),
        last_step=last,
        head=name_head(*head),
        at_peak=icl.read(peak, head),
        at_end=icl.read(last, head),
    )
    if flip is None:
        return found
    own = flip._replace(values=-flip.values).find_strongest(last)
    return dataclasses.replace(
        found,
        flip_at_peak=flip.read(peak, head),
        flip_at_end=flip.read(last, head),
        own_head=name_head(*own),
        own_at_peak=flip.read(peak, own),
        own_at_end=flip.read(last, own),
    )
