"""Two strategies that share parts and compete: the toy model of Singh et al. 2025, on its targets'
directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Strategies:
    """Gradient descent on L = (L1 + floor)(L2) + competition · (a d)² / 2, with L1 = (1 − a b c)² / 2 and
    L2 = (1 − d b c)² / 2.

    The product a b c is the strength of ICL, d b c that of IWL: a and d are each one's own factor, b and c
    are shared. A loss that either can bring down lets the faster one win first; its floor then lets the other
    take over, and a d may not both be large.

    Source: Singh et al. 2025 (arXiv 2503.05631), whose a, b, c, d are vectors of 20, 20, 20 and 160 numbers.
        Here each is its length along its target, so that sizes turn into rates. Theirs: floor 0.1,
        competition 0.1.

    Attributes:
        rate: Of b and c, per step.
        icl_rate: Rate of a, as a multiple of that.
        iwl_rate: Rate of d, as a multiple.
        floor: What ICL leaves of the loss.
        competition: Price of both at once.
        start: Value of all four at step 0.
    """

    rate: float = 1e-2
    icl_rate: float = 1.0
    iwl_rate: float = 0.1
    floor: float = 0.1
    competition: float = 0.1
    start: float = 0.3

    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        "rate": (1e-6, 10.0),
        "icl_rate": (1e-2, 1e2),
        "iwl_rate": (1e-5, 10.0),
        "floor": (1e-4, 10.0),
        "competition": (1e-4, 100.0),
        "start": (1e-2, 0.9),
    }

    def begin(self) -> tuple[float, ...]:
        """Return a, b, c and d at step 0."""
        return (self.start,) * 4

    def move(self, state: Sequence[float]) -> tuple[float, ...]:
        """Return their derivatives by the step."""
        a, b, c, d = state
        left, other = 1 - a * b * c, 1 - d * b * c
        one, two = left**2 / 2 + self.floor, other**2 / 2
        shared = -(left * a * two + other * d * one)
        slope_a = -left * b * c * two + self.competition * a * d**2
        slope_d = -other * b * c * one + self.competition * a**2 * d
        rate = -self.rate
        return (
            rate * self.icl_rate * slope_a,
            rate * shared * c,
            rate * shared * b,
            rate * self.iwl_rate * slope_d,
        )

    def read(self, states: np.ndarray) -> np.ndarray:
        """Return the strengths of ICL and IWL, (2, n), of states (4, n).

        >>> Strategies().read(np.array([[1.0], [1.0], [1.0], [0.5]])).ravel().tolist()
        [1.0, 0.5]
        """
        a, b, c, d = states
        return np.stack([a * b * c, d * b * c])
