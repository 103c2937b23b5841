"""The measures of a curve, and of a whole history."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hf_icl.history.columns import Columns, Numbers, clean_points
from hf_icl.summary.curves import Curves
from hf_icl.summary.measures import CurveSummary, measures_of
from hf_icl.summary.verdicts import VERDICTS, judge
from hf_icl.task.evaluators import EVALUATORS, FLIP_SHARE, ICL, IWL, PREFERENCE, SIDE_METRICS, TRAIN_LOSS
from hf_icl.wording import render_table


def summarize(
    steps: Numbers,
    values: Numbers,
    chance: float,
    floor: float = 0.0,
    *,
    metric: str = "",
    pretrained: bool = False,
) -> CurveSummary:
    """Return the measures of one curve.

    Args:
        steps: Training steps of the evaluations, in any order; of equal steps the last counts.
        values: As many accuracies or probabilities; None or not-a-number points are left out.
        chance: Value of a model that knows nothing, in [0, 1].
        floor: Value that the curve must top to count as emerged; see `find_floor`.
        metric: Its name, where it decides on the measures: see `measures_of`.
        pretrained: Whether the first evaluation is of a model that was trained before. Its curves may begin
            high: verdicts on those are lost, fading, kept and grown, and the rise is counted from the floor.

    >>> summary = summarize([0, 100, 200, 300, 400], [0, 0.8, 0.6, 0.2, 0], chance=0)
    >>> summary.peak, summary.onset_step, summary.half_decay_step, summary.verdict
    (0.8, 50.0, 250.0, 'transient')
    >>> summarize([0, 100, 200], [0, 0.4, 0.1], chance=0, floor=0.5).verdict
    'never emerged'
    >>> steps, values = [0, 30, 100, 200, 300], [0.66, 0.78, 0.58, 0.53, 0.56]
    >>> summary = summarize(steps, values, chance=1 / 32, floor=0.5, pretrained=True)
    >>> summary.start, summary.onset_step, round(summary.persistence, 2), summary.verdict
    (0.66, None, 0.21, 'lost')
    """
    curves = Curves.clean(steps, values, chance, floor, pretrained=pretrained)
    if curves is None:
        return CurveSummary(chance=float(chance))
    verdict = judge(curves).item()
    return CurveSummary(
        n_evaluations=curves.steps.size,
        chance=curves.chance,
        verdict=VERDICTS[verdict] if verdict >= 0 else None,
        **{
            name: _none_if_nan(one.find(curves))
            for name, one in measures_of(metric, pretrained=pretrained).items()
        },
    )


@dataclasses.dataclass(frozen=True)
class Side:
    """A number that has no chance level, such as the loss on a held text: at the first evaluation, at ICL's
    peak (linear between evaluations; None without ICL), and at the last one."""

    start: float
    at_icl_peak: float | None
    final: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """What one history says.

    `curves` maps metric names to their measures, with S (`prefer_context`) among them where ICL and IWL were
    measured; `verdict` is that of `icl/accuracy`; `loss_at_peak` is the training loss at ICL's peak step,
    `loss_at_end` the last one, `loss_falls` whether it fell between them, None where the peak is the last
    step; `sides` is what instruments found of the model beside it, by metric.
    """

    verdict: str | None
    curves: dict[str, CurveSummary]
    crossover_step: float | None
    iwl_onset_step: float | None
    loss_at_peak: float | None
    loss_at_end: float | None
    loss_falls: bool | None
    sides: dict[str, Side] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        icl = self.curves.get(ICL, CurveSummary())
        peak = f": {ICL} {icl.peak:.3f} at step {icl.peak_step:,.0f}" if icl.peak is not None else ""
        late = f", {icl.late:.3f} late" if icl.late is not None else ""
        return f"Summary({self.verdict or 'nothing measured'}{peak}{late}; {len(self.curves)} curves)"

    def _repr_html_(self) -> str:
        names = ("chance", "start", "onset_step", "peak", "peak_step", "half_decay_step", "late", "verdict")
        rows = [
            [name, *(_write(getattr(curve, field)) for field in names)] for name, curve in self.curves.items()
        ]
        return render_table(["metric", *(name.replace("_", " ") for name in names)], rows, str(self))


def summarize_history(
    rows: Iterable[Mapping[str, Any]], chance: Mapping[str, float], *, pretrained: bool = False
) -> Summary:
    """Return the summary of one history.

    Args:
        rows: Rows with `step` and `metrics`, in any order (docs/architecture.md, History).
        chance: Chance level by metric name. Every `<evaluator>/accuracy` found here, and every evaluator's
            primary metric, is summarised; others have no part in it.
        pretrained: Whether the first row is of a model that was trained before; see `summarize`.

    >>> rows = [{"step": s, "metrics": {"icl/accuracy": v}} for s, v in [(0, 0.0), (10, 1.0), (20, 0.0)]]
    >>> summarize_history(rows, {"icl/accuracy": 0.0}).verdict
    'transient'
    """
    columns = Columns.of(rows)
    shown = {kind.metric for kind in EVALUATORS.values()}
    names = [name for name in chance if name.endswith("/accuracy") or name in shown]
    curves = {
        name: summarize(
            *columns.curve(name),
            chance[name],
            find_floor(name, chance),
            metric=name,
            pretrained=pretrained,
        )
        for name in names
    }
    if ICL in curves and IWL in curves:
        about = {"metric": PREFERENCE, "pretrained": pretrained}
        curves[PREFERENCE] = summarize(*prefer_context(columns), 0.5, **about)
    icl, iwl, flip = (curves.get(name, CurveSummary()) for name in (ICL, IWL, FLIP_SHARE))
    steps, loss = clean_points(*columns.curve(TRAIN_LOSS))
    known = steps.size > 0 and icl.peak_step is not None
    at_peak = float(np.interp(icl.peak_step, steps, loss)) if known else None
    sides = {name: _follow(columns, name, icl.peak_step) for name in SIDE_METRICS if name in columns.metrics}
    return Summary(
        sides={name: side for name, side in sides.items() if side is not None},
        verdict=icl.verdict,
        curves=curves,
        crossover_step=flip.crossover_step,
        iwl_onset_step=iwl.onset_step,
        loss_at_peak=at_peak,
        loss_at_end=float(loss[-1]) if loss.size else None,
        loss_falls=bool(loss[-1] < at_peak) if known and steps[-1] > icl.peak_step else None,
    )


def _follow(columns: Columns, name: str, peak_step: float | None) -> Side | None:
    steps, values = clean_points(*columns.curve(name))
    if not steps.size:
        return None
    at_peak = None if peak_step is None else float(np.interp(peak_step, steps, values))
    return Side(float(values[0]), at_peak, float(values[-1]))


def prefer_context(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve of S = E_IWL / (E_ICL + E_IWL), where E is one minus the accuracy over all labels.

    Above 1/2 the context is used better than the weights, near 0 the weights alone; 1/2 where neither errs.

    Source: the evolutionary view of in-context and in-weights learning, ICLR 2026.

    Returns:
        Steps at which both were measured, and S there in [0, 1], float64 (n,) each.

    >>> rows = [{"step": 0, "metrics": {"icl/accuracy": 0.7, "iwl/accuracy": 0.1}}]
    >>> steps, values = prefer_context(Columns.of(rows))
    >>> values.round(6).tolist()
    [0.75]
    """
    (steps, icl), (others, iwl) = (clean_points(*columns.curve(name)) for name in (ICL, IWL))
    steps, mine, theirs = np.intersect1d(steps, others, return_indices=True)
    errors, own = 1 - iwl[theirs], 1 - icl[mine]
    both = errors + own
    return steps, np.divide(errors, both, out=np.full_like(both, 0.5), where=both > 0)


def find_floor(metric: str, chance: Mapping[str, float]) -> float:
    """Return what naming any label of the context, without matching exemplars,
    gives in an accuracy over all labels.

    With remapped labels the right one is always in the context, so a model that only learned to answer with a
    label that it has just seen is right as often as guessing among those: far above chance, and no in-context
    learning.

    >>> find_floor("icl/accuracy", {"icl/accuracy": 0.03, "icl/context_accuracy": 0.5})
    0.5
    >>> find_floor("iwl/accuracy", {"iwl/accuracy": 0.03})
    0.0
    """
    evaluator, _, measure = metric.rpartition("/")
    return chance.get(f"{evaluator}/context_accuracy", 0.0) if measure == "accuracy" else 0.0


def _write(value: float | str | None) -> str:
    return f"{value:,.4g}" if isinstance(value, float | int) else value or ""


def _none_if_nan(value: np.ndarray) -> float | None:
    number = value.item()
    return number if np.isfinite(number) else None
