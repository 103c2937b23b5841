"""A report on disk."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from hf_icl.errors import RunError
from hf_icl.report.analysis import analyse
from hf_icl.report.figures import draw_figure, render_figure
from hf_icl.report.page import render_page
from hf_icl.report.record import RunRecord
from hf_icl.report.varied import draw_sweep, list_sweep, tabulate


def write_report(
    runs: Sequence[RunRecord], folder: str | Path, *, varied: Mapping[str, str] | None = None
) -> Path:
    """Write the report of one or several runs, replacing an earlier one; other files in the folder are left alone.

    All files are made in a temporary folder first and then moved, the page last, so that a failure on the way (such as
    a full disk) leaves an earlier report as it was. The same runs give the same bytes.

    Args:
        runs: At least one; names must differ. Runs whose configs differ in seeds alone are averaged as replicas.
        folder: Made if need be. Gets `transience.json`, `history.parquet` (a row per run and evaluation),
            `transience.png`, `transience.svg`, and `index.html`.
        varied: Of a sweep, the dotted keys of the config that vary, to what they are called; seeds left out. Adds a
            table to page and `transience.json`, and the figure `sweep.png` and `sweep.svg`.

    Returns:
        The path of `index.html`.

    Raises:
        RunError: If there is no run, names repeat, or the folder cannot be written to.
    """
    folder = Path(folder)
    names = [run.name for run in runs]
    if not names:
        raise RunError("There is no run to report on. Name one run folder or more.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RunError(
            f"Several runs are called {', '.join(repeated)}. Give each run of a report a name of its own."
        )
    document = analyse(runs)
    figures, shown = {"transience": draw_figure(runs, document)}, None
    if varied:
        document["sweep"] = tabulate(document, varied)
        figures["sweep"] = draw_sweep(document["sweep"], document)
        head, rows = list_sweep(document["sweep"])
        shown = {"head": head, "rows": rows, "figure": render_figure(figures["sweep"], "png")}
    files = {
        "transience.json": (json.dumps(document, indent=1, allow_nan=False) + "\n").encode(),
        "history.parquet": _encode_history(runs),
        **{
            f"{name}.{kind}": render_figure(f, kind) for name, f in figures.items() for kind in ("png", "svg")
        },
        "index.html": render_page(runs, document, shown).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as writing:
            for name, content in files.items():
                (Path(writing) / name).write_bytes(content)
            for name in files:
                os.replace(Path(writing) / name, folder / name)
    except OSError as error:
        raise RunError(
            f"{folder}: the report cannot be written ({error.strerror}). Make room, or name another place for it."
        ) from error
    return folder / "index.html"


def _encode_history(runs: Sequence[RunRecord]) -> bytes:
    """Return all rows as Parquet: `run`, `step`, `sequences`, and a float column per metric, null where not measured."""
    rows = [(run.name, row) for run in runs for row in run.rows]
    metrics = sorted({metric for _, row in rows for metric in row["metrics"]})
    columns = {
        "run": pa.array([name for name, _ in rows], pa.string()),
        "step": pa.array([row["step"] for _, row in rows], pa.int64()),
        "sequences": pa.array([row.get("sequences") for _, row in rows], pa.int64()),
    } | {
        metric: pa.array([row["metrics"].get(metric) for _, row in rows], pa.float64()) for metric in metrics
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()
