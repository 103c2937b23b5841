"""Phase diagrams: a measure over two settings, of sweeps with too many combinations for a line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hf_icl.report.figures import NARROW, WIDTH, wrap

COLOURS = "cividis"  # read alike by colour-blind readers, and in grey
MAX_WRITTEN = 8  # columns of cells wide enough for a number each
LINE = 0.14  # inches

Rows = Sequence[Mapping[str, Any]]


def draw_diagrams(
    sweep: Mapping[str, Any],
    panels: Mapping[str, str],
    write: Callable[[Any], str],
    *,
    narrow: bool = False,
) -> Figure:
    """Return a figure of phase diagrams: the two keys of most values are the axes; a row of panels for each
    combination of the others, a panel for each measure, from 0 to 1. Cells without a run, or without the
    measure, stay empty.

    Args:
        sweep: Of `tabulate`: its rows hold means over replicas.
        panels: Measures of ICL to their titles.
        write: Turns a setting's value into text.
        narrow: One panel below the other, for a telephone.
    """
    by_size = sorted(sweep["keys"], key=lambda key: -len(list_values(sweep["rows"], key["key"])))
    across, down, *others = by_size
    parts = _split(sweep["rows"], others, write)
    n_down = len(list_values(sweep["rows"], down["key"]))
    heights = [0.55 + LINE * (2 + label.count("\n")) + max(0.8, 0.19 * n_down) for label in parts]
    if narrow:
        heights = [height for height in heights for _ in panels]
    figure = Figure(figsize=(NARROW if narrow else WIDTH, sum(heights) + 0.2), layout="constrained")
    grid = figure.subplots(len(heights), 1 if narrow else len(panels), squeeze=False, height_ratios=heights)
    for line, (label, rows) in zip(grid.reshape(len(parts), len(panels)), parts.items(), strict=True):
        for axes, (measure, title) in zip(line, panels.items(), strict=True):
            image = _draw_cells(axes, sweep["rows"], rows, (across["key"], down["key"]), measure, write)
            axes.set_title(title, fontsize=8, loc="left")
            axes.set_xlabel(wrap(across["label"], 34))
        for axes in line if narrow else line[:1]:
            axes.set_ylabel(wrap(down["label"], 20))
        if label:
            line[0].set_title(f"{label}\n{line[0].get_title(loc='left')}", fontsize=8, loc="left")
    side = (
        {"location": "top", "aspect": 30} if narrow else {"shrink": min(1.0, 2 / sum(heights)), "aspect": 15}
    )
    figure.colorbar(image, ax=list(grid.flat), **side)
    return figure


def list_values(rows: Rows, key: str) -> list[Any]:
    """Return the different values of a key: numbers by size, anything else in order of appearance."""
    values = list({repr(row["values"][key]): row["values"][key] for row in rows}.values())
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return sorted(values) if plain else values


def _split(rows: Rows, keys: Sequence[Mapping[str, str]], write: Callable[[Any], str]) -> dict[str, Rows]:
    """Return the rows by what the keys are, under labels of lines that fit."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = ", ".join(f"{key['label']} {write(row['values'][key['key']])}" for key in keys)
        parts.setdefault(wrap(label, 34), []).append(row)
    return parts


def _draw_cells(
    axes: Axes, every: Rows, rows: Rows, keys: tuple[str, str], measure: str, write: Callable[[Any], str]
) -> AxesImage:
    across, down = (list_values(every, key) for key in keys)
    cells = np.full((len(down), len(across)), np.nan)
    places = [{repr(value): place for place, value in enumerate(values)} for values in (across, down)]
    for row in rows:
        x, y = (place[repr(row["values"][key])] for place, key in zip(places, keys, strict=True))
        found = row["measures"].get(measure, {}).get("value")
        cells[y, x] = np.nan if found is None else found
    image = axes.imshow(cells, cmap=COLOURS, vmin=0, vmax=1, origin="lower", aspect="auto")
    for (y, x), value in np.ndenumerate(cells) if len(across) <= MAX_WRITTEN else ():
        if np.isfinite(value):
            ink = "black" if np.clip(value, 0, 1) > 0.5 else "white"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=5.5, color=ink)
    names = [wrap(write(value), 16) for value in across]
    is_long = sum(map(len, names)) > 24
    axes.set_xticks(range(len(across)), names, rotation=90 if is_long else 0, fontsize=6)
    axes.set_yticks(range(len(down)), [wrap(write(value), 16) for value in down], fontsize=6)
    axes.set_facecolor(colormaps["Greys"](0.15))
    return image
