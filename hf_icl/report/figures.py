"""The figure of a report, for papers: curves over training steps, one line style per run,
bands over replicas."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from hf_icl.history.record import RunRecord, label_group
from hf_icl.report.analysis import POINTS_PER_CURVE, Analysis, thin
from hf_icl.report.words import find_typical, list_events
from hf_icl.summary.measures import MEASURES
from hf_icl.task.evaluators import EVALUATORS, FLIP_SHARE, ICL, IWL, TRAIN_LOSS, title_metric

EVALUATOR_COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#F0E442")
"""In the evaluators' order. Okabe and Ito's palette, told apart by colour-blind readers too."""
LOSS_COLOUR = "#444444"
GROUP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKERS = {  # of matplotlib's own triangles the corners' middle lies beside the point that is marked
    "up": ((-1, -2 / 3), (0, 4 / 3), (1, -2 / 3), (-1, -2 / 3)),
    "star": "*",
    "down": ((-1, 2 / 3), (0, -4 / 3), (1, 2 / 3), (-1, 2 / 3)),
    "cross": "X",
}
MAX_BANDS = 3  # runs without replicas, of whose bands one can still be told from another
STYLE = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "hf_icl",  # else element ids differ from one writing to the next
    "text.parse_math": False,  # names of runs may hold dollar signs
}


class InlineFigure(Figure):
    """A figure that notebooks show, whether or not they were told to use matplotlib."""

    def _repr_png_(self) -> bytes:
        return render_figure(self, "png", dpi=120)


def draw_figure(analysis: Analysis) -> Figure:
    """Return the figure of one or several runs.

    Replicas of one config share axes: one colour per evaluator. With several configs each measure has a panel
    of its own: one colour per config. Replicas are thin lines, with their mean and its 95 % band; a few runs
    without replicas have the band that their evaluation sequences leave open. Events are marked on the mean's
    curve, or on the run's if there is one run alone.
    """
    with matplotlib.rc_context(STYLE):
        figure = InlineFigure(figsize=(7.2, 2.75), layout="constrained")
        handles = (_draw_one if len(analysis.groups) == 1 else _draw_many)(figure, analysis)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 5), handlelength=1.8
        )
    return figure


def render_figure(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
    """Return a figure as the bytes of a "png" or "svg" file, the same for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A run's name may hold signs that the font lacks; a box in a legend is no reason to fail.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def _draw_one(figure: Figure, analysis: Analysis) -> list[Line2D]:
    wide, flip, loss = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    colours = {
        kind.metric: colour
        for kind, colour in zip(EVALUATORS.values(), itertools.cycle(EVALUATOR_COLOURS), strict=False)
    }
    shares = [kind.metric for kind in EVALUATORS.values() if kind.measure == "context_accuracy"]
    accuracies = [
        kind.metric
        for kind in EVALUATORS.values()
        if kind.table != () and kind.part is None and kind.metric not in shares
    ]
    colours[TRAIN_LOSS] = LOSS_COLOUR
    drawn = [
        metric
        for axes, metrics in ((wide, accuracies), (flip, shares), (loss, [TRAIN_LOSS]))
        for metric in metrics
        if _draw_curve(axes, analysis, analysis.groups[0], metric, colours[metric])
    ]
    _dress(wide, "a", "Accuracy", analysis.runs, [metric for metric in accuracies if metric in drawn])
    _dress(flip, "b", "In-context share, labels flipped", analysis.runs, shares)
    _dress(loss, "c", "Training loss", analysis.runs, [])
    lines = [Line2D([], [], color=colours[metric], label=title_metric(metric)) for metric in drawn]
    return lines + _event_handles()


def _draw_many(figure: Figure, analysis: Analysis) -> list[Line2D]:
    panels = figure.subplots(1, 4)
    titles = ("ICL accuracy", "In-context share, flipped", "IWL accuracy", "Training loss")
    metrics = (ICL, FLIP_SHARE, IWL, TRAIN_LOSS)
    handles = []
    for index, group in enumerate(analysis.groups):
        colour = GROUP_COLOURS[index % len(GROUP_COLOURS)]
        style = ("-", "--", ":", "-.")[index // len(GROUP_COLOURS) % 4]
        for axes, metric in zip(panels, metrics, strict=True):
            _draw_curve(axes, analysis, group, metric, colour, style)
        label = label_group(group)
        label = label if len(label) <= 40 else label[:39] + "…"
        # matplotlib hides labels that start with an underscore
        handles.append(Line2D([], [], color=colour, linestyle=style, label=f" {label}"))
    for letter, axes, title, metric in zip("abcd", panels, titles, metrics, strict=True):
        _dress(axes, letter, title, analysis.runs, [metric])
    return handles + _event_handles()


def _draw_curve(
    axes: Axes, analysis: Analysis, group: Sequence[RunRecord], metric: str, colour: str, style: str = "-"
) -> bool:
    """Draw one metric of replicas; return whether there was anything to draw."""
    curves = [run.curve(metric) for run in group]
    curves = [thin(*curve, POINTS_PER_CURVE) for curve in curves if curve[0].size]
    mean = analysis.average(group, metric)
    for steps, values in curves:
        marker = "o" if steps.size == 1 else ""
        width, alpha = (1.4, 1) if mean is None else (0.5, 0.45)
        axes.plot(
            steps, values, color=colour, linestyle=style, lw=width, alpha=alpha, marker=marker, ms=3,
            solid_joinstyle="round",
        )  # fmt: skip
    if mean is not None:
        steps, values, low, high = mean
        axes.plot(steps, values, color=colour, linestyle=style, lw=1.4)
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    elif len(analysis.groups) <= MAX_BANDS and (band := analysis.bands.get((group[0].name, metric))):
        axes.fill_between(*band, color=colour, alpha=0.18, linewidth=0)
    if len(curves) == 1 or mean is not None:
        _mark_events(axes, analysis, group, metric, colour, curves[0] if mean is None else mean[:2])
    return bool(curves)


def _mark_events(axes, analysis, group, metric, colour, curve) -> None:
    """Mark a run's events, or the replicas' median ones, where they lie on the curve that stands for them."""
    document, label = analysis.document, label_group(group)
    entry = next(entry for entry in (*document["groups"], *document["runs"]) if entry["name"] == label)
    for event in list_events(metric):
        found = entry["measures"].get(metric, {}).get(event.name)
        step = None if found is None else find_typical(found)
        if step is None:
            continue
        axes.plot(
            step, np.interp(step, *curve), marker=MARKERS[event.marker],
            ms=9 if event.marker == "star" else 6, color=colour, markeredgecolor="white", markeredgewidth=0.7,
            zorder=5, clip_on=False,
        )  # fmt: skip


def _dress(axes: Axes, letter: str, title: str, runs: Sequence[RunRecord], metrics: Sequence[str]) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.text(
        -0.02, 1.02, letter, transform=axes.transAxes, ha="right", va="bottom", weight="bold", fontsize=9
    )
    axes.set_xlabel("Training step")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(format_tick))
    axes.set_xlim(left=0)
    if "loss" in title:
        if all(line.get_ydata().min() > 0 for line in axes.lines) and axes.lines:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.set_ylim(0, 1.02)
    for level in sorted({run.chance[metric] for run in runs for metric in metrics if metric in run.chance}):
        axes.axhline(level, color="0.6", lw=0.7, ls=(0, (4, 3)), zorder=0)
        axes.annotate(
            "chance", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=6, color="0.45", xytext=(0, 1), textcoords="offset points",
        )  # fmt: skip


def format_tick(step: float, _position: int) -> str:
    """Return a training step as an axis shows it."""
    return f"{step / 1e6:g}M" if step >= 1e6 else f"{step / 1e3:g}k" if step >= 1e3 else f"{step:g}"


def _event_handles() -> list[Line2D]:
    return [
        Line2D(
            [], [], color="0.35", marker=MARKERS[one.marker], ls="", ms=7 if one.marker == "star" else 5,
            label=one.title.removesuffix(", step"),
        )
        for one in MEASURES.values()
        if one.marker is not None
    ]  # fmt: skip
