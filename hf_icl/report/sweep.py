"""What a sweep is made for: measures of ICL against the settings that it varies, as table and figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hf_icl.config import flatten
from hf_icl.report.figures import GROUP_COLOURS, STYLE
from hf_icl.report.words import format_measure, headline_entries, say_verdicts, title_measure
from hf_icl.summary.verdicts import VERDICTS
from hf_icl.task.evaluators import ICL

COLUMNS = ("peak", "late", "late_persistence", "half_decay_step")
PANELS = {"peak": "ICL accuracy, peak", "late": "ICL accuracy, late", "late_persistence": "Late persistence"}
NO_VERDICT = "none yet"
MAX_TICKS = 7
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


def draw_sweep(sweep: Mapping[str, Any], document: Mapping[str, Any]) -> Figure:
    """Return the figure: a row of panels for each varied setting, a panel for each measure of ICL.

    Dots are runs, lines the means over replicas with 95 % intervals; one colour per combination of the other
    settings.
    """
    keys = sweep["keys"]
    runs = {run["name"]: run for run in document["runs"]}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4 * len(keys) + 0.2), layout="constrained")
        grid = figure.subplots(len(keys), len(PANELS), squeeze=False)
        for panels, key in zip(grid, keys, strict=True):
            values = [row["values"][key["key"]] for row in sweep["rows"]]
            lines = _split_by_others(sweep, key["key"])
            for axes, (measure, title) in zip(panels, PANELS.items(), strict=True):
                place = _dress(axes, values, key["label"])
                axes.set_title(title, fontsize=8, loc="left")
                for colour, rows in zip(GROUP_COLOURS * len(lines), lines.values(), strict=False):
                    _draw_line(axes, rows, key["key"], measure, place, colour, runs)
                axes.set_ylim(0, max(1.02, axes.get_ylim()[1]))
            if len(lines) > 1:
                handles = [
                    axes.plot([], [], color=colour, marker="o", ms=3, label=f" {label}")[0]
                    for colour, label in zip(GROUP_COLOURS * len(lines), lines, strict=False)
                ]
                axes.legend(handles=handles, fontsize=6, loc="best")
    return figure


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
