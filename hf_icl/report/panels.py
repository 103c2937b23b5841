"""Heads as small multiples: a panel for each, strength over steps; for the page and for papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import thin
from hf_icl.report.axis import TITLES
from hf_icl.report.figures import EVALUATOR_COLOURS, STYLE, format_tick
from hf_icl.report.heads import (
    EFFECT_METRICS,
    ON_FLIP,
    ON_ICL,
    RunHeads,
    describe_heads,
    find_heads,
    write_gap,
)
from hf_icl.summary.heads import HeadCurves, name_head
from hf_icl.task.evaluators import EVALUATORS

MOST_PANELS = 64  # of models with more heads, those that look most at labels, either way
POINTS_PER_PANEL = 120
WIDTH, HEIGHT = 120, 64  # of a panel on the page, in its own units
PANEL_HEIGHT, MARGINS = 0.85, 0.9  # of the figure, in inches
LINES = {ON_ICL: "on ICL sequences", ON_FLIP: "with labels flipped"}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One head over training.

    Attributes:
        name: The head's.
        curves: Evaluator to steps and induction strengths.
    """

    name: str
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


def list_panels(heads: RunHeads) -> dict[int, list[Panel]]:
    """Return the panels of a run by layer; of a model with many heads those with the largest strengths."""
    own = {ON_ICL: heads.icl} | ({ON_FLIP: heads.flip} if heads.flip is not None else {})
    largest = np.nanmax([_reach(curves) for curves in own.values()], axis=0)
    places = np.argsort(-np.nan_to_num(largest, nan=-1), axis=None)[:MOST_PANELS]
    panels: dict[int, list[Panel]] = {layer: [] for layer in heads.icl.layers}
    for row, head in sorted(zip(*np.unravel_index(places, largest.shape), strict=True)):
        if np.isnan(largest[row, head]):
            continue  # a layer with fewer heads than another
        layer = heads.icl.layers[row]
        curves = {name: (found.steps, found.values[:, row, head]) for name, found in own.items()}
        panels[layer].append(Panel(name_head(layer, int(head)), curves))
    return {layer: found for layer, found in panels.items() if found}


def _reach(curves: HeadCurves) -> np.ndarray:
    """Return the largest strength of each head, either way, (n_layers, n_heads)."""
    known = ~np.isnan(curves.values)
    return np.where(known.any(0), np.abs(np.where(known, curves.values, 0)).max(0), np.nan)


def collect_page(run: RunRecord, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the page's section of one run's heads shows; None where heads were not measured.

    Args:
        run: Whose heads.
        entry: What `analyse` says of it.
    """
    heads = find_heads(run)
    if heads is None:
        return None
    panels, last = list_panels(heads), int(heads.icl.steps[-1])
    n_heads = int((~np.isnan(_reach(heads.icl))).sum())
    return {
        "name": run.name,
        "text": describe_heads(entry),
        "layers": [
            {"number": layer, "panels": [_write_panel(panel, last) for panel in found]}
            for layer, found in panels.items()
        ],
        "lines": {name: LINES[name] for name in panels[min(panels)][0].curves},
        "last": last,
        "peak": _place(entry["heads"]["peak_step"], last),
        "n_left_out": n_heads - sum(map(len, panels.values())),
        "effects": list_effects(entry),
        "attention": list_attention(run, {panel.name for found in panels.values() for panel in found}),
    }


def _write_panel(panel: Panel, last: int) -> dict[str, Any]:
    """Return a panel as an SVG's paths, and in words."""
    paths, words = {}, []
    for name, (steps, values) in panel.curves.items():
        known = ~np.isnan(values)
        steps, values = thin(steps[known], values[known], POINTS_PER_PANEL)
        points = [
            f"{_place(step, last):.1f},{HEIGHT / 2 * (1 - value):.1f}"
            for step, value in zip(steps, values, strict=True)
        ]
        paths[name] = "M" + "L".join(points)
        if len(values):
            words.append(f"{LINES[name]} {values[0]:.2f} at the start, {values[-1]:.2f} at the end")
    return {"name": panel.name, "paths": paths, "words": f"{panel.name}: {'; '.join(words)}"}


def _place(step: float, last: int) -> float:
    return WIDTH * step / max(last, 1)


def list_effects(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of what ablations do: a line each, a column for each step and metric; None without."""
    rows = entry.get("effects")
    if not rows:
        return None
    metrics = [
        name
        for name in EFFECT_METRICS
        if any(row["effects"][0]["metrics"].get(name) is not None for row in rows)
    ]
    shorts = [EVALUATORS[name.partition("/")[0]].short for name in metrics]
    steps = [row["step"] for row in rows]
    names = dict.fromkeys(effect["name"] for row in rows for effect in row["effects"])
    lines = []
    for name in names:
        found = [{one["name"]: one for one in row["effects"]}.get(name) for row in rows]
        lines.append((name, [_write_effect(one, metric) for one in found for metric in metrics]))
    labels = [f"step {step:,}, {short}" for step in steps for short in shorts]
    return {"steps": steps, "metrics": shorts, "labels": labels, "lines": lines}


def _write_effect(effect: Mapping[str, Any] | None, metric: str) -> str:
    if effect is None or effect["metrics"].get(metric) is None:
        return "–"
    value = f"{effect['metrics'][metric]:.3f}"
    if metric not in effect["changes"]:
        return value
    gap, low, high = map(write_gap, effect["changes"][metric])
    return f"{value} ({gap} [{low}, {high}])"


def list_attention(run: RunRecord, heads: Container[str]) -> list[dict[str, Any]]:
    """Return what the page draws of a few sequences' attention: a table each, a line for each head.

    Args:
        run: Whose.
        heads: Those that are shown.
    """
    drawn = []
    for row in run.circuits.get("attention", ()):
        for sequence in row["sequences"]:
            shown = [(name, shares) for name, shares in sequence["attention"].items() if name in heads]
            places = [
                {
                    "role": place["role"] or "",
                    "label": "" if place["label"] is None else place["label"],
                    "is_right": place["label"] is not None and place["label"] == sequence["target"],
                }
                for place in sequence["places"]
            ]
            kind = EVALUATORS.get(sequence["evaluator"])
            title = kind.short if kind is not None else sequence["evaluator"]
            about = {"step": row["step"], "title": title, "target": sequence["target"]}
            drawn.append(about | {"places": places, "heads": shown})
    return drawn


def draw_heads(run: RunRecord) -> Figure | None:
    """Return the figure of one run's heads, a row of panels per layer; None where heads were not measured."""
    heads = find_heads(run)
    if heads is None:
        return None
    panels = list_panels(heads)
    n_columns = max(map(len, panels.values()))
    colours = dict(zip(EVALUATORS, EVALUATOR_COLOURS, strict=False))
    height = MARGINS + PANEL_HEIGHT * len(panels)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, height))
        grid = figure.add_gridspec(
            len(panels), n_columns, left=0.08, right=0.99, top=1 - 0.45 / height, bottom=0.45 / height,
            wspace=0.15, hspace=0.4,
        )  # fmt: skip  # by hand: for many panels, matplotlib's own layouts take seconds
        first = None
        for row, found in enumerate(panels.values()):
            for column, panel in enumerate(found):
                axes = figure.add_subplot(grid[row, column], sharex=first, sharey=first)
                first = first or axes
                _draw_panel(axes, panel, colours)
                axes.tick_params(labelleft=column == 0, labelbottom=row == len(panels) - 1)
        first.set_ylim(-1, 1)
        first.xaxis.set_major_locator(MaxNLocator(2, integer=True))
        first.xaxis.set_major_formatter(FuncFormatter(format_tick))
        figure.supxlabel(TITLES[run.axis], fontsize=8, y=0.03 / height)
        figure.supylabel("Induction strength", fontsize=8, x=0.005)
        shown = panels[min(panels)][0].curves
        handles = [Line2D([], [], color=colours[name], label=LINES[name]) for name in shown]
        figure.legend(handles=handles, loc="upper center", ncols=2, handlelength=1.8)
    return figure


def _draw_panel(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    axes.axhline(0, color="0.6", lw=0.6)
    for name, (steps, values) in panel.curves.items():
        axes.plot(steps, values, color=colours[name], lw=1, marker="o" if len(steps) == 1 else "", ms=3)
    axes.set_title(panel.name, fontsize=7, loc="left", pad=2)
    axes.tick_params(labelsize=6)
