"""Heads in one number: of one head, or of a layer's strongest one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hf_icl.config import suggest
from hf_icl.errors import ConfigError
from hf_icl.report.heads import ON_FLIP, ON_ICL
from hf_icl.summary.curves import LATE_WINDOW, Curves
from hf_icl.summary.heads import INSTRUMENT, HeadCurves, name_head
from hf_icl.task.evaluators import EVALUATORS

OF_HEADS = ("at_icl_peak", "peak", "final", "late")
SCORES = ("induction", "context_mass", "previous_token", "own_token")
ASKED = (ON_ICL, ON_FLIP)  # on whose sequences runs measure heads
_NAME = re.compile(rf"{INSTRUMENT}/(\w+)/(\w+)/L(\d{{1,4}})(?:H(\d{{1,4}}))?")


class HeadTarget(NamedTuple):
    """A score on an evaluator's sequences, of one head or of a layer's strongest one.

    The strongest one is the head of the highest value at ICL's peak, followed to the end.

    >>> HeadTarget.read("heads/induction/flip/L1")
    HeadTarget(score='induction', evaluator='flip', layer=1, head=None)
    >>> HeadTarget.read("heads/induction/flip/L1H3").title, HeadTarget.read("icl/accuracy")
    ('induction of head L1H3 (flip)', None)
    """

    score: str
    evaluator: str
    layer: int
    head: int | None

    @classmethod
    def read(cls, metric: str) -> HeadTarget | None:
        """Return what a metric's name says; None if it is of no head.

        Raises:
            ConfigError: If it begins like one and is none.
        """
        found = _NAME.fullmatch(metric)
        if found is not None:
            for word, known in ((found[1], SCORES), (found[2], ASKED)):
                if word not in known:
                    raise ConfigError("metric", metric, f"heads have no {word}", suggest(word, known))
            head = None if found[4] is None else int(found[4])
            return cls(found[1], found[2], int(found[3]), head)
        if metric.startswith(f"{INSTRUMENT}/"):
            hint = "As heads/induction/flip/L1H3, or heads/induction/flip/L1 for its strongest head."
            raise ConfigError("metric", metric, "must name score, evaluator, and a head or a layer", hint)
        return None

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        score = self.score.replace("_", " ")
        of = (
            f"the strongest head of layer {self.layer}"
            if self.head is None
            else f"head {name_head(self.layer, self.head)}"
        )
        kind = EVALUATORS.get(self.evaluator)
        return f"{score} of {of} ({self.evaluator if kind is None else kind.title.lower()})"

    def check(self, counts: Mapping[int, int]) -> None:
        """Raise `ConfigError` if a model with so many heads in each layer does not have this one."""
        if self.layer not in counts or (self.head or 0) >= counts[self.layer]:
            there = ", ".join(f"L{layer}H0–{count - 1}" for layer, count in counts.items())
            raise ConfigError("metric", self.title, "the model has no such head", f"It has {there}.")

    def find(
        self, curves: Mapping[tuple[str, str], HeadCurves], measure: str, icl_peak: float | None
    ) -> float | None:
        """Return the number; None where heads were not measured, or ICL never peaked and must have.

        Args:
            curves: Of all heads, by score and evaluator; see `read_heads`.
            measure: One of `OF_HEADS`.
            icl_peak: Step of ICL's peak.
        """
        own = curves.get((self.score, self.evaluator))
        if own is None or self.layer not in own.layers:
            return None
        if icl_peak is None and (self.head is None or measure == "at_icl_peak"):
            return None
        head = self.head
        if head is None:
            head = int(np.nanargmax(own.at(icl_peak)[own.layers.index(self.layer)]))
        if head >= own.values.shape[2]:
            return None
        if measure == "at_icl_peak":
            return own.read(icl_peak, (self.layer, head))
        curve = Curves.clean(own.steps, own.of(self.layer, head), chance=0.0)
        if curve is None:
            return None
        if measure == "late":
            return curve.mean_of_last(LATE_WINDOW).item()
        return float(curve.values.max() if measure == "peak" else curve.values[0, -1])
