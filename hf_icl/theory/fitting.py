"""Models of theory integrated, and fitted to the first part of a run's curves, to predict the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from hf_icl.errors import ConfigError
from hf_icl.history.columns import Columns, clean_points
from hf_icl.summary.measures import Curves, measure_half_decay_step, measure_onset_step, measure_peak_step
from hf_icl.task.evaluators import ICL, IWL

N_STARTS = 6  # of a fit: the best of so many counts
HORIZON = 8  # how far beyond the last point is looked for a half-decay, in lengths of the curve
FINEST = 2_000  # points of a predicted curve


class Model(Protocol):
    """Differential equations of two strengths, in [0, 1] or so: a frozen dataclass of positive numbers."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]]
    __dataclass_fields__: ClassVar[dict]

    def begin(self) -> tuple[float, ...]: ...

    def move(self, state: Sequence[float]) -> tuple[float, ...]: ...

    def read(self, states: np.ndarray) -> np.ndarray: ...


Kind = TypeVar("Kind", bound=Model)


@dataclass(frozen=True)
class Pair:
    """What a run measured of two strengths, 0 at chance and 1 at best.

    Attributes:
        steps: Rising, (n,).
        icl: (n,).
        iwl: (n,).
    """

    steps: np.ndarray
    icl: np.ndarray
    iwl: np.ndarray

    def until(self, step: float) -> Self:
        """Return the part up to a step."""
        known = self.steps <= step
        return type(self)(self.steps[known], self.icl[known], self.iwl[known])

    def find(self) -> dict[str, float | None]:
        """Return onset, peak and half-decay of ICL, as steps; None: it has not come.

        >>> pair = Pair(np.arange(5), np.array([0.0, 0.8, 0.6, 0.2, 0.0]), np.zeros(5))
        >>> pair.find()
        {'onset': 0.5, 'peak': 1.0, 'half_decay': 2.5}
        """
        curves = Curves.clean(self.steps, self.icl, chance=0)
        found = {
            "onset": measure_onset_step(curves),
            "peak": measure_peak_step(curves),
            "half_decay": measure_half_decay_step(curves),
        }
        return {name: None if np.isnan(value.item()) else value.item() for name, value in found.items()}


def read_pair(rows: Sequence[Mapping], chance: Mapping[str, float], icl: str = ICL, iwl: str = IWL) -> Pair:
    """Return a run's two strengths: accuracies with chance taken off, as shares of what is above it.

    Args:
        rows: Of a history.
        chance: Metric to its chance level.
        icl: What measures ICL.
        iwl: What measures memory.

    Raises:
        ConfigError: If a metric is missing.
    """
    columns = Columns.of(rows)
    found = {}
    for name in (icl, iwl):
        steps, values = clean_points(*columns.curve(name))
        if not steps.size:
            raise ConfigError(
                "metric", name, "the history does not have it", "Add its evaluator to the task."
            )
        level = chance.get(name, 0.0)
        found[name] = steps, (values - level) / (1 - level)
    steps = np.intersect1d(found[icl][0], found[iwl][0])
    one, two = (values[np.isin(known, steps)] for known, values in (found[icl], found[iwl]))
    return Pair(steps, one, two)


@dataclass(frozen=True)
class Fit(Generic[Kind]):
    """A model fitted to a run.

    Attributes:
        model: With the parameters that were found.
        gains: What the strengths of ICL and IWL are multiplied by, to be what is measured.
        residual: Root mean square of what is left, over both curves.
    """

    model: Kind
    gains: tuple[float, float]
    residual: float

    def course(self, steps: np.ndarray) -> Pair:
        """Return the two curves at some steps, rising from 0 or later."""
        icl, iwl = integrate(self.model, steps) * np.array(self.gains)[:, None]
        return Pair(np.asarray(steps), icl, iwl)

    def predict(self, last: float) -> dict[str, float | None]:
        """Return onset, peak and half-decay, as steps; None: not within 8 times `last`."""
        return self.course(np.linspace(0, HORIZON * last, HORIZON * FINEST + 1)).find()


def integrate(model: Model, steps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the strengths of ICL and IWL at some steps, (2, n).

    Args:
        model: What to integrate, from step 0.
        steps: Rising.

    >>> from hf_icl.theory.race import Race
    >>> integrate(Race(icl_rate=1.0, iwl_rate=1e-9, ceiling=1e-9, start=0.5), [0, 2]).round(3)[0].tolist()
    [0.5, 0.881]
    """
    from scipy.integrate import odeint

    steps = np.asarray(steps, float)
    whole = steps if steps[0] == 0 else np.concatenate([[0.0], steps])
    states, about = odeint(
        lambda state, _: model.move(state.tolist()),
        model.begin(),
        whole,
        rtol=1e-6,
        atol=1e-8,
        full_output=True,
    )
    if about["message"] != "Integration successful.":  # the equations run away
        return np.full((2, len(steps)), np.nan)
    return model.read(states[-len(steps) :].T)


def fit_model(kind: type[Kind], pair: Pair, *, seed: int = 0) -> Fit[Kind]:
    """Fit a model to two curves, by least squares from several starts; gains are found on the way.

    Args:
        kind: `Strategies` or `Race`.
        pair: At least as many points as the model has parameters.
        seed: Of the starts.

    Raises:
        ConfigError: If there are too few points.
    """
    from scipy.optimize import least_squares

    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if len(pair.steps) < len(names):
        rule = f"a model of {len(names)} parameters needs as many points"
        raise ConfigError("steps", len(pair.steps), rule, "Take a longer part of the run.")
    low, high = np.log([kind.bounds[name] for name in names]).T
    measured = np.stack([pair.icl, pair.iwl])

    def leave(logs: np.ndarray) -> np.ndarray:
        found = integrate(kind(**dict(zip(names, np.exp(logs), strict=True))), pair.steps)
        if not np.isfinite(found).all():
            return np.full(measured.size, 10.0)
        return (found * _find_gains(found, measured)[:, None] - measured).ravel()

    rng = np.random.default_rng(seed)
    middle = np.log([getattr(kind(), name) for name in names])
    best = None
    for number in range(N_STARTS):
        spread = 0.0 if number == 0 else 1.5
        start = np.clip(middle + spread * rng.standard_normal(len(names)), low + 1e-6, high - 1e-6)
        done = least_squares(leave, start, bounds=(low, high), max_nfev=40)
        if best is None or done.cost < best.cost:
            best = done
    model = kind(**dict(zip(names, map(float, np.exp(best.x)), strict=True)))
    gains = _find_gains(integrate(model, pair.steps), measured)
    residual = float(np.sqrt(np.mean(leave(best.x) ** 2)))
    return Fit(model, (float(gains[0]), float(gains[1])), residual)


def _find_gains(found: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the factor in [0, 2] that brings each curve nearest to what is measured, (2,)."""
    squares = (found**2).sum(1)
    return np.clip((found * measured).sum(1) / np.maximum(squares, 1e-12), 0, 2)
