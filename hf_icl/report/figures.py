"""The figure of a report, for papers: curves over training steps, one line style per run,
bands over replicas."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from hf_icl.history.record import RunRecord, label_group
from hf_icl.report.analysis import POINTS_PER_CURVE, Analysis, thin
from hf_icl.report.axis import TITLES
from hf_icl.report.sides import SidePanel, list_sides
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
INK, PAPER = "#e7ebef", "#14171b"  # the page's, in its dark scheme
DARK = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
}
DARK_COLOURS = ("#4ba3e3", "#ff8a4c", "#3fd0a4", "#e79fc9", "#f5be4f", "#a3d4f5", "#b4b4b4")
WIDTH = 7.2  # inches
NARROW = 3.5  # of what a telephone shows whole
MOST_EVEN = 8  # ends of a range, high to low, up to which a logarithmic scale is marked evenly
MAX_LINES = 6  # configs whose curves can share a panel; of more, each gets one of its own
PANELS_PER_ROW = 4
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
    of its own: one colour per config; of more than `MAX_LINES` configs each has a small panel. Replicas are
    thin lines, with their mean and its 95 % band; a few runs without replicas have the band that their
    evaluation sequences leave open. Events are marked on the mean's curve, or on the run's if there is one
    run alone.
    """
    with matplotlib.rc_context(STYLE):
        figure = InlineFigure(figsize=(WIDTH, 2.25), layout="constrained")
        n_groups = len(analysis.groups)
        draw = _draw_one if n_groups == 1 else _draw_many if n_groups <= MAX_LINES else _draw_each
        add_legend(figure, draw(figure, analysis))
    return figure


@contextmanager
def _lacking_glyphs() -> Iterator[None]:
    """A run's name may hold signs that the font lacks; a box in a legend is no reason to fail."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put a legend below a figure, which grows by as much: in as many columns as fit, every label whole."""
    options, height = fit_legend(handles)
    figure.legend(**options, loc="outside lower center")
    figure.set_figheight(figure.get_figheight() + height)


def fit_legend(handles: Sequence[Artist], width: float = WIDTH) -> tuple[dict[str, Any], float]:
    """Return what makes a legend no wider than a figure of so many inches, and its height in inches.

    Long labels are broken into lines. Labels may start with an underscore, which matplotlib would hide.
    """
    figure = Figure(figsize=(width, 1))
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [wrap(str(handle.get_label()).strip(), int(12.5 * width)) for handle in handles]
    labels = [f" {label}" if label.startswith("_") else label for label in labels]
    for n_columns in range(min(len(handles), 5), 0, -1):
        options = {"handles": handles, "labels": labels, "ncols": n_columns, "handlelength": 1.8}
        with _lacking_glyphs():
            box = figure.legend(**options).get_window_extent(renderer)
        if box.width <= figure.bbox.width:
            break
        figure.legends.clear()
    return options, box.height / figure.dpi + 0.05


def wrap(text: str, width: int) -> str:
    """Return text broken into lines of so many characters, after commas and spaces where there are some.

    >>> wrap("strength=0.001,width=64", 16).split("\\n")
    ['strength=0.001,', 'width=64']
    """
    words = re.split(r"(?<=[,;/ ])", text)
    lines = [""]
    for part in (word[i : i + width] for word in words for i in range(0, len(word), width)):
        lines = [*lines, part] if len(lines[-1] + part.rstrip()) > width else [*lines[:-1], lines[-1] + part]
    return "\n".join(line.rstrip() for line in lines if line)


def render_figure(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
    """Return a figure as the bytes of a "png" or "svg" file, the same for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE), _lacking_glyphs():
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def _draw_one(figure: Figure, analysis: Analysis) -> list[Line2D]:
    sides = list_sides(metric for run in analysis.runs for metric in run.columns.metrics)
    upper, lower = figure.subfigures(2, 1) if sides else (figure, None)
    wide, flip, loss = upper.subplots(1, 3, width_ratios=(1.5, 1, 1))
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
    if sides:
        figure.set_figheight(2 * figure.get_figheight())
        _draw_sides(lower, analysis, sides)
    return lines + _event_handles()


def _draw_sides(figure: SubFigure, analysis: Analysis, sides: Sequence[SidePanel]) -> None:
    """Draw what instruments found of a language model, a panel for each kind of number."""
    panels = figure.subplots(1, len(sides), squeeze=False)[0]
    for letter, axes, side in zip("defg", panels, sides, strict=False):
        for metric, colour in zip(side.metrics, GROUP_COLOURS, strict=False):
            _draw_curve(axes, analysis, analysis.groups[0], metric, colour)
        _dress(axes, letter, side.short, analysis.runs, [], is_share=side.ends is not None)
        if len(side.metrics) > 1:
            lines = [
                Line2D([], [], color=colour, label=label)
                for label, colour in zip(side.metrics.values(), GROUP_COLOURS, strict=False)
            ]
            axes.legend(handles=lines, fontsize=5.5, handlelength=1.2, labelspacing=0.2)


def _draw_many(figure: Figure, analysis: Analysis) -> list[Line2D]:
    titles = {
        ICL: "ICL accuracy",
        FLIP_SHARE: "In-context share, flipped",
        IWL: "IWL accuracy",
        TRAIN_LOSS: "Training loss",
    }
    known = {metric for run in analysis.runs for metric in run.columns.metrics}
    metrics = [metric for metric in titles if metric in known] or list(titles)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    handles = []
    for colour, group in zip(GROUP_COLOURS, analysis.groups, strict=False):
        for axes, metric in zip(panels, metrics, strict=True):
            _draw_curve(axes, analysis, group, metric, colour)
        handles.append(Line2D([], [], color=colour, label=label_group(group)))
    for letter, axes, metric in zip("abcd", panels, metrics, strict=False):
        _dress(axes, letter, titles[metric], analysis.runs, [metric])
    return handles + _event_handles()


def _draw_each(figure: Figure, analysis: Analysis) -> list[Line2D]:
    """Draw a small panel for each config, with the accuracies that say which strategy it follows."""
    colours = {
        kind.metric: colour
        for kind, colour in zip(EVALUATORS.values(), itertools.cycle(EVALUATOR_COLOURS), strict=False)
    }
    titles = [wrap(label_group(group), 30) for group in analysis.groups]
    n_rows = -(-len(titles) // PANELS_PER_ROW)
    n_lines = sum(
        max(title.count("\n") for title in titles[at : at + PANELS_PER_ROW])
        for at in range(0, len(titles), PANELS_PER_ROW)
    )
    figure.set_figheight(1.3 * n_rows + 0.1 * n_lines + 0.3)
    panels = list(figure.subplots(n_rows, PANELS_PER_ROW, sharex=True, sharey=True, squeeze=False).flat)
    drawn = set()
    for axes, title, group in zip(panels, titles, analysis.groups, strict=False):
        for metric in (ICL, IWL, FLIP_SHARE):
            if _draw_curve(axes, analysis, group, metric, colours[metric]):
                drawn.add(metric)
        axes.set_title(title, fontsize=6, loc="left")
    for axes in panels[len(titles) :]:
        axes.remove()
    panels[0].set_ylim(0, 1.02)
    panels[0].set_xlim(left=0)
    panels[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[0].xaxis.set_major_formatter(FuncFormatter(format_tick))
    for axes in panels[max(0, len(titles) - PANELS_PER_ROW) : len(titles)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(TITLES[analysis.runs[0].axis])
    lines = [
        Line2D([], [], color=colours[metric], label=title_metric(metric))
        for metric in (ICL, IWL, FLIP_SHARE)
        if metric in drawn
    ]
    return lines + _event_handles()


def _draw_curve(axes: Axes, analysis: Analysis, group: Sequence[RunRecord], metric: str, colour: str) -> bool:
    """Draw one metric of replicas; return whether there was anything to draw."""
    curves = [run.curve(metric) for run in group]
    curves = [thin(*curve, POINTS_PER_CURVE) for curve in curves if curve[0].size]
    mean = analysis.average(group, metric)
    for steps, values in curves:
        marker = "o" if steps.size == 1 else ""
        width, alpha = (1.4, 1) if mean is None else (0.5, 0.45)
        axes.plot(
            steps, values, color=colour, lw=width, alpha=alpha, marker=marker, ms=3, solid_joinstyle="round",
        )  # fmt: skip
    if mean is not None:
        steps, values, low, high = mean
        axes.plot(steps, values, color=colour, lw=1.4)
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
            ms=9 if event.marker == "star" else 7.5, color=colour, markeredgecolor="white",
            markeredgewidth=0.7, zorder=5, clip_on=False,
        )  # fmt: skip


def _dress(
    axes: Axes,
    letter: str,
    title: str,
    runs: Sequence[RunRecord],
    metrics: Sequence[str],
    *,
    is_share: bool = True,
) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.text(
        -0.02, 1.02, letter, transform=axes.transAxes, ha="right", va="bottom", weight="bold", fontsize=9
    )
    axes.set_xlabel(TITLES[runs[0].axis])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(format_tick))
    axes.set_xlim(left=0)
    if "loss" in title:
        if all(line.get_ydata().min() > 0 for line in axes.lines) and axes.lines:
            use_log_scale(axes)
        return
    if is_share:
        axes.set_ylim(0, 1.02)
    for level in sorted({run.chance[metric] for run in runs for metric in metrics if metric in run.chance}):
        axes.axhline(level, color="0.6", lw=0.7, ls=(0, (4, 3)), zorder=0)
        axes.annotate(
            "chance", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=6, color="0.45", xytext=(0, 1), textcoords="offset points",
        )  # fmt: skip


def use_log_scale(axes: Axes) -> None:
    """Give a panel of positive values a logarithmic scale, with plain numbers however narrow its range."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > MOST_EVEN * low else MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def format_tick(step: float, _position: int) -> str:
    """Return a training step, or a number of tokens, as an axis shows it."""
    if step >= 1e9:
        return f"{step / 1e9:g}B"
    return f"{step / 1e6:g}M" if step >= 1e6 else f"{step / 1e3:g}k" if step >= 1e3 else f"{step:g}"


def _event_handles() -> list[Line2D]:
    return [
        Line2D(
            [], [], color="0.35", marker=MARKERS[one.marker], ls="", ms=7 if one.marker == "star" else 6,
            label=one.title.removesuffix(", step"),
        )
        for one in MEASURES.values()
        if one.marker is not None
    ]  # fmt: skip
