"""What a report says of heads: where their curves come from, their summary, and what ablations do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_icl.history.record import RunRecord
from hf_icl.report.axis import axis_of, format_place, tell_place
from hf_icl.summary.heads import INDUCTION, HeadCurves, read_heads, summarize_heads
from hf_icl.task.evaluators import CIWL, EVALUATORS, FLIP_SHARE, ICL, IWL

ON_ICL, ON_FLIP = (metric.partition("/")[0] for metric in (ICL, FLIP_SHARE))
EFFECT_METRICS = (ICL, CIWL, IWL, FLIP_SHARE)
LOOKS_AWAY = 0.1  # induction strength below minus this one: a head that looks at the class's own label


@dataclasses.dataclass(frozen=True)
class RunHeads:
    """Induction strengths of one run's heads over training.

    Attributes:
        icl: On sequences that ask for ICL.
        flip: On sequences with swapped labels; None where they were not measured.
    """

    icl: HeadCurves
    flip: HeadCurves | None


def find_heads(run: RunRecord) -> RunHeads | None:
    """Return a run's heads, as measured while it trained, else of its checkpoints; None if neither was."""
    found = read_heads(run.rows) or read_heads(run.circuits.get("heads", ()))
    icl = found.get((INDUCTION, ON_ICL))
    return None if icl is None else RunHeads(icl, found.get((INDUCTION, ON_FLIP)))


def analyse_circuits(run: RunRecord, peak_step: float | None) -> dict[str, Any]:
    """Return what a run's entry in a report says of its heads, of those things that were measured.

    Args:
        run: Whose heads.
        peak_step: Where its ICL peaks.

    Returns:
        `heads`, the fields of a `HeadsSummary`; `effects`, for each checkpoint what changes do to the primary
        metrics.
    """
    found: dict[str, Any] = {}
    if (heads := find_heads(run)) is not None:
        found["heads"] = dataclasses.asdict(summarize_heads(heads.icl, heads.flip, peak_step))
    if effects := _list_effects(run):
        found["effects"] = effects
    return found


def _list_effects(run: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "step": row["step"],
            "effects": [
                {
                    "name": effect["name"],
                    "metrics": {name: effect["metrics"].get(name) for name in EFFECT_METRICS},
                    "changes": effect["changes"],
                }
                for effect in row["effects"]
            ],
        }
        for row in run.circuits.get("effects", ())
    ]


def describe_heads(run: Mapping[str, Any]) -> str:
    """Return what the heads of a run (an entry of `analyse`) look at, and what replaced ICL, in sentences.

    >>> heads = {"peak_step": 1500, "last_step": 9000, "head": "L1H3", "at_peak": 0.62, "at_end": 0.1}
    >>> run = {"heads": heads | {"own_head": None}, "verdict": "persistent"}
    >>> describe_heads(run)  # doctest: +NORMALIZE_WHITESPACE
    "At ICL's peak head L1H3 looks most at the right label: induction strength +0.62 at step 1,500,
    +0.10 at the end."
    """
    heads = run.get("heads")
    if heads is None:
        return ""
    axis = axis_of(run)
    text = (
        f"At ICL's peak head {heads['head']} looks most at the right label: induction strength "
        f"{write_gap(heads['at_peak'])} at {tell_place(axis, format_place(axis, heads['peak_step']))}"
    )
    ended = heads["peak_step"] == heads["last_step"]
    text += "." if ended else f", {write_gap(heads['at_end'])} at the end."
    if heads["own_head"] is None or run["verdict"] not in ("transient", "lost"):
        return text
    lowest = write_gap(heads["own_at_end"])
    if heads["own_at_end"] > -LOOKS_AWAY:
        return (
            f"{text} With labels flipped no head looks for the class's own label at the end (the lowest "
            f"strength is {lowest}): what replaced ICL answers from the weights, {_tell_finals(run)}."
        )
    return (
        f"{text} What replaced ICL looks for the class's own label in the context: with labels flipped, head "
        f"{heads['own_head']} went from {write_gap(heads['own_at_peak'])} to {lowest}, {_tell_finals(run)}."
    )


def _tell_finals(run: Mapping[str, Any]) -> str:
    """Return how accurate answers from the weights are at the end, with the label in context and without."""
    finals = []
    for metric in (CIWL, IWL):
        found = run["measures"].get(metric, {}).get("final")
        if found is not None and found["value"] is not None:
            finals.append(f"{EVALUATORS[metric.partition('/')[0]].title} at {found['value']:.2f}")
    return f"and training ends with {' and '.join(finals)}" if finals else "whatever they are worth"


def write_gap(value: float) -> str:
    """Return a strength or a difference, two decimals with a sign.

    >>> write_gap(-0.249), write_gap(-0.001)
    ('−0.25', '+0.00')
    """
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")
