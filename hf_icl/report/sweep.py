"""What a sweep is made for: measures of ICL against the settings that it varies, as table and figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from hf_icl.config import flatten
from hf_icl.report.diagrams import draw_diagrams
from hf_icl.report.figures import (
    DARK,
    DARK_COLOURS,
    GROUP_COLOURS,
    MAX_LINES,
    NARROW,
    STYLE,
    WIDTH,
    fit_legend,
    wrap,
)
from hf_icl.report.words import format_measure, headline_entries, say_verdicts, title_measure
from hf_icl.summary.verdicts import VERDICTS
from hf_icl.task.evaluators import ICL

COLUMNS = ("peak", "late", "late_persistence", "half_decay_step")
PANELS = {"peak": "ICL accuracy, peak", "late": "ICL accuracy, late", "late_persistence": "Late persistence"}
NO_VERDICT = "none yet"
MAX_TICKS = 7
PANEL_HEIGHT = 2.2  # inches
MIN_RATIO = 30.0  # between largest and least positive value, from which an axis is logarithmic


def tabulate(document: Mapping[str, Any], varied: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry `sweep` of `transience.json`: measures of ICL for each combination of varied settings.

    Args:
        document: Of an `Analysis`.
        varied: Dotted keys of the config to what they are called; seeds are no settings.

    Returns:
        `keys` (a list of `key` and `label`) and `rows`, one per group of replicas or run without replicas:
        `name`, `runs`, `values` (key to value), `verdicts`, and `measures` as in `groups`, of ICL accuracy
        alone.
    """
    runs = {run["name"]: run for run in document["runs"]}
    rows = []
    for entry in headline_entries(document):
        names = entry.get("runs", [entry["name"]])
        config = flatten(runs[names[0]]["config"])
        rows.append(
            {
                "name": entry["name"],
                "runs": names,
                "values": {key: config.get(key) for key in varied},
                "verdicts": entry.get("verdicts") or {entry.get("verdict") or NO_VERDICT: 1},
                "measures": entry["measures"].get(ICL, {}),
            }
        )
    return {"keys": [{"key": key, "label": label} for key, label in varied.items()], "rows": rows}


def list_sweep(sweep: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table, as text: varied settings, replicas, in how many ICL
    emerged, its measures, verdicts."""
    head = [key["label"] for key in sweep["keys"]]
    head += ["runs", "ICL emerged", *(title_measure(name) for name in COLUMNS), "verdict on ICL"]
    rows = []
    for row in sweep["rows"]:
        column = {"measures": {ICL: row["measures"]}, "verdict": next(iter(row["verdicts"]))}
        if len(row["runs"]) > 1:
            column |= {"verdicts": row["verdicts"], "runs": row["runs"]}
        total = len(row["runs"])
        emerged = total - sum(row["verdicts"].get(none, 0) for none in (VERDICTS[0], NO_VERDICT))
        cells = [write_value(row["values"][key["key"]]) for key in sweep["keys"]]
        cells += [str(total), f"{emerged} of {total}"]
        rows.append([*cells, *(format_measure(column, ICL, name) for name in COLUMNS), say_verdicts(column)])
    return head, rows


def draw_sweep(
    sweep: Mapping[str, Any], document: Mapping[str, Any], *, dark: bool = False, narrow: bool = False
) -> Figure:
    """Return the figure: measures of ICL against the settings that vary.

    With few settings: a row of panels for each key, a panel for each measure; dots are runs, lines the means
    over replicas with 95 % intervals, one colour per combination of the other keys. With more than
    `MAX_LINES` combinations: a diagram for each measure over the two keys of most values, a row of them for
    each combination of the others.

    Args:
        sweep: Of `tabulate`.
        document: Of an `Analysis`.
        dark: For a dark background.
        narrow: For a telephone: all panels one below the other.
    """
    with matplotlib.rc_context(STYLE | (DARK if dark else {})):
        if is_grid(sweep):
            return draw_diagrams(sweep, PANELS, write_value, narrow=narrow)
        return _draw_lines(sweep, document, DARK_COLOURS if dark else GROUP_COLOURS, narrow)


def is_grid(sweep: Mapping[str, Any]) -> bool:
    """Whether a sweep has too many combinations for a colour each."""
    return any(len(_split_by_others(sweep, key["key"])) > MAX_LINES for key in sweep["keys"])


def _draw_lines(
    sweep: Mapping[str, Any], document: Mapping[str, Any], colours: Sequence[str], narrow: bool
) -> Figure:
    runs = {run["name"]: run for run in document["runs"]}
    lines = {key["key"]: _split_by_others(sweep, key["key"]) for key in sweep["keys"]}
    width, shape = (NARROW, (len(PANELS), 1)) if narrow else (WIDTH, (1, len(PANELS)))
    legends = {key: _make_legend(list(own), colours, width) for key, own in lines.items() if len(own) > 1}
    height = PANEL_HEIGHT * shape[0]
    heights = [part for key in lines for part in (height, *([legends[key][1]] if key in legends else []))]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = iter(figure.add_gridspec(len(heights), 1, height_ratios=heights))
    for key in sweep["keys"]:
        values = [row["values"][key["key"]] for row in sweep["rows"]]
        panels = next(grid).subgridspec(*shape).subplots()
        for axes, (measure, title) in zip(panels, PANELS.items(), strict=True):
            place = _dress(axes, values, wrap(key["label"], 40))
            axes.set_title(title, fontsize=8, loc="left")
            for colour, rows in zip(colours, lines[key["key"]].values(), strict=False):
                _draw_line(axes, rows, key["key"], measure, place, colour, runs)
            axes.set_ylim(0, max(1.02, axes.get_ylim()[1]))
        if key["key"] in legends:
            below = figure.add_subplot(next(grid))
            below.set_axis_off()
            below.legend(**legends[key["key"]][0], loc="center")
    return figure


def _make_legend(labels: Sequence[str], colours: Sequence[str], width: float) -> tuple[dict[str, Any], float]:
    handles = [
        Line2D([], [], color=colour, marker="o", ms=3, label=label)
        for colour, label in zip(colours, labels, strict=False)
    ]
    return fit_legend(handles, width)


def _split_by_others(sweep: Mapping[str, Any], key: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows by what the other settings are."""
    others = [other for other in sweep["keys"] if other["key"] != key]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in sweep["rows"]:
        label = ", ".join(f"{other['label']} {write_value(row['values'][other['key']])}" for other in others)
        lines.setdefault(label, []).append(row)
    return lines


def _draw_line(axes: Axes, rows, key: str, measure: str, place, colour: str, runs: Mapping[str, Any]) -> None:
    points = []
    for row in rows:
        x, entry = place(row["values"][key]), row["measures"].get(measure)
        for name in row["runs"] if len(row["runs"]) > 1 else ():
            own = runs[name]["measures"].get(ICL, {}).get(measure)
            if own is not None and own["value"] is not None:
                axes.plot(x, own["value"], "o", color=colour, ms=2.5, alpha=0.4, mew=0)
        if entry is not None and entry["value"] is not None:
            low, high = entry["interval"] or (entry["value"], entry["value"])
            points.append((x, entry["value"], low, high))
    if not points:
        return
    xs, values, lows, highs = zip(*sorted(points), strict=True)
    reach = [
        [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
        [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
    ]
    axes.errorbar(xs, values, reach, color=colour, marker="o", ms=4, lw=1.2, elinewidth=0.9, capsize=2)


def _dress(axes: Axes, values: Sequence[Any], label: str):
    """Scale and label the x axis for these values; return what turns a value into a place on it."""
    distinct = list(dict.fromkeys(values))
    axes.set_xlabel(label)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct):
        order = {repr(value): place for place, value in enumerate(distinct)}
        axes.set_xticks(range(len(distinct)), [write_value(value) for value in distinct])
        axes.set_xlim(-0.5, len(distinct) - 0.5)
        return lambda value: order[repr(value)]
    distinct = sorted(distinct)
    positive = [value for value in distinct if value > 0]
    if distinct[0] >= 0 and positive and positive[-1] / positive[0] >= MIN_RATIO:
        width = math.log10(positive[-1] / positive[0])
        if distinct[0] == 0:  # as far left of the least value as the others lie apart on average
            step = width / max(1, len(positive) - 1)
            axes.set_xscale("symlog", linthresh=positive[0], linscale=step)
            axes.set_xlim(-0.3 * positive[0], positive[-1] * 10 ** (0.06 * width))
        else:
            axes.set_xscale("log")
    if len(distinct) <= MAX_TICKS:
        axes.set_xticks(distinct, [write_value(value) for value in distinct])
        axes.xaxis.set_minor_locator(NullLocator())
        if len(distinct) > 4:
            axes.tick_params(axis="x", labelsize=6.5)
    return float


def write_value(value: Any) -> str:
    """Return a setting's value in few characters.

    >>> [write_value(value) for value in (0.0, 1e-5, 0.003, 30000, True, None, "icl", [1, 2])]
    ['0', '1e-5', '0.003', '30000', 'true', 'null', 'icl', '[1, 2]']
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float) or isinstance(value, bool):
        return json.dumps(value)
    if not 0 < abs(value) < 1e-3:
        return f"{value:.12g}"
    mantissa, exponent = f"{value:.11e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
