"""A race of two rates: ICL forms soon, memory slowly, and what memory explains no longer drives ICL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Race:
    """Two learners of one answer, each driven by the error that both leave.

    ICL's strength w grows by itself, as a product of parts does: w' = icl_rate · error · w (1 − w) − fading ·
    m w. Memory grows item by item: m' = iwl_rate · error · (1 − m). The error is (1 − ceiling · w)(1 − m):
    context alone never explains all of it, and the better memory is, the less drives ICL.

    Source: the two rates, and ICL that stops once memory explains what it does, after Nguyen & Reddy 2024
        (arXiv 2412.00104). The equations are ours.

    Attributes:
        icl_rate: Rate of ICL, per step.
        iwl_rate: Rate of memory, per step.
        ceiling: Share of the error that ICL can take away.
        fading: Rate at which ICL decays where memory answers.
        start: ICL's strength at step 0.
    """

    icl_rate: float = 1e-2
    iwl_rate: float = 1e-4
    ceiling: float = 0.9
    fading: float = 1e-3
    start: float = 1e-2

    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        "icl_rate": (1e-5, 10.0),
        "iwl_rate": (1e-7, 1.0),
        "ceiling": (0.1, 1.0),
        "fading": (1e-7, 1.0),
        "start": (1e-4, 0.9),
    }

    def begin(self) -> tuple[float, ...]:
        """Return w and m at step 0."""
        return self.start, 0.0

    def move(self, state: Sequence[float]) -> tuple[float, ...]:
        """Return their derivatives by the step."""
        w, m = state
        error = (1 - self.ceiling * w) * (1 - m)
        return self.icl_rate * error * w * (1 - w) - self.fading * m * w, self.iwl_rate * error * (1 - m)

    def read(self, states: np.ndarray) -> np.ndarray:
        """Return the strengths of ICL and memory, (2, n): the states themselves."""
        return states
