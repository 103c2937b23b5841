"""The figure of a claim: the curves of its arms, and the numbers that its criteria compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_icl.experiments.claim import Claim
from hf_icl.experiments.judging import Finding
from hf_icl.experiments.measuring import Measured, is_step
from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import average_curve, thin
from hf_icl.report.figures import GROUP_COLOURS, STYLE, use_log_scale
from hf_icl.report.words import format_step
from hf_icl.task.evaluators import TRAIN_LOSS, title_metric

N_POINTS = 300
BOUND_COLOUR = "#D55E00"


def draw_claim(claim: Claim, findings: Sequence[Finding], runs: Mapping[tuple[str, int], Measured]) -> Figure:
    """Return the figure of a claim: a panel for each of its curves, and one for each criterion.

    Curves are means over seeds with 95 % bands. In a criterion's panel dots are seeds, the bar is the
    interval of their mean, and the dashed line what it must be beyond. Those without numbers have none.
    """
    findings = [finding for finding in findings if finding.numbers]
    arms = [arm for arm in claim.all_arms if any(of == arm for of, _ in runs)]
    colours = dict(zip(arms, pick_colours(len(arms), ordered=bool(claim.doses)), strict=True))
    n_rows = 2 if findings else 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4 * n_rows + 0.3), layout="constrained")
        top, *bottom = figure.subfigures(n_rows, 1) if findings else [figure.subfigures(1, 1)]
        for axes, metric in zip(np.atleast_1d(top.subplots(1, len(claim.figure))), claim.figure, strict=True):
            for arm in arms:
                records = [run.record for (of, _), run in runs.items() if of == arm]
                _draw_arm(axes, records, metric, colours[arm])
            axes.set_title(_fold(title_metric(metric), most=60 // len(claim.figure)), fontsize=8, loc="left")
            axes.set_xlabel("Training step")
            if metric == TRAIN_LOSS:
                use_log_scale(axes)
            else:
                axes.set_ylim(0, 1.02)
        handles = [matplotlib.lines.Line2D([], [], color=colours[arm], label=f" {arm}") for arm in arms]
        top.legend(handles=handles, loc="outside right upper", fontsize=6)
        for part in bottom:
            for axes, finding in zip(np.atleast_1d(part.subplots(1, len(findings))), findings, strict=True):
                _draw_finding(axes, finding, most=100 // len(findings))
    return figure


def pick_colours(number: int, *, ordered: bool) -> list:
    """Return so many colours: of arms in an order a scale from dark to light, else ones that differ."""
    if not ordered and number <= len(GROUP_COLOURS):
        return list(GROUP_COLOURS[:number])
    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0, 0.9, max(1, number))]


def _draw_arm(axes: Axes, records: Sequence[RunRecord], metric: str, colour) -> None:
    mean = average_curve(records, metric, N_POINTS)
    if mean is not None:
        steps, values, low, high = mean
        axes.plot(steps, values, color=colour, lw=1.3)
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        return
    for record in records:
        steps, values = record.curve(metric)
        if steps.size:
            axes.plot(*thin(steps, values, N_POINTS), color=colour, lw=1.1)


def _draw_finding(axes: Axes, finding: Finding, most: int) -> None:
    values = list(finding.numbers.values())
    spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
    axes.plot(spread, values, "o", ms=3, color=GROUP_COLOURS[0], alpha=0.6, mew=0)
    interval = finding.interval
    if interval.low is not None:
        axes.plot([0.3, 0.3], [interval.low, interval.high], color="0.2", lw=1.6)
    if interval.mean is not None:
        axes.plot(0.3, interval.mean, "_", ms=9, color="0.2", mew=1.6)
    axes.axhline(finding.bound, color=BOUND_COLOUR, lw=0.9, ls=(0, (4, 2)))
    axes.set_xlim(-0.5, 0.6)
    axes.set_xticks([])
    criterion = finding.criterion
    if criterion.over is not None and values:
        use_log_scale(axes)
    elif criterion.trend is None and criterion.minus is None and is_step(criterion.take.measure):
        axes.yaxis.set_major_formatter(lambda step, _position: format_step(step))
    axes.set_title(_fold(criterion.that, most), fontsize=6.5, loc="left")
    axes.set_xlabel(finding.verdict, fontsize=7)


def _fold(text: str, most: int) -> str:
    """Return a text in lines of at most so many characters, where words are no longer."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > most and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
