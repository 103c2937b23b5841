"""A report on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from hf_icl.errors import RunError
from hf_icl.files import fill_whole, write_whole
from hf_icl.history.columns import NO_COUNT, NO_VALUE
from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import Analysis, analyse
from hf_icl.report.answers import write_answers
from hf_icl.report.card import render_card
from hf_icl.report.figures import draw_figure, render_figure
from hf_icl.report.page import render_page
from hf_icl.report.panels import draw_heads
from hf_icl.report.sweep import draw_sweep, is_grid, list_sweep, tabulate

HISTORY_TABLE, ANSWERS_TABLE = "history.parquet", "answers.parquet"
ROWS_AT_ONCE = 100_000
PAGE_DPI = 200
SWEEP_FIGURES = (  # as pages show them: name, whether narrow, whether dark
    ("wide", False, False),
    ("wide_dark", False, True),
    ("narrow", True, False),
    ("narrow_dark", True, True),
)

PAGE = "index.html"


@dataclasses.dataclass(frozen=True)
class Report:
    """A report on disk; where a path is asked for, it is that of its page.

    Attributes:
        page: Path of `index.html`.
        analysis: What it says.
    """

    page: Path
    analysis: Analysis

    @property
    def document(self) -> dict[str, Any]:
        """What `transience.json` holds."""
        return self.analysis.document

    def __fspath__(self) -> str:
        return str(self.page)


def write_report(
    runs: Sequence[RunRecord],
    folder: str | Path,
    *,
    card: str | Path | None = None,
    varied: Mapping[str, str] | None = None,
) -> Report:
    """Write the report of one or several runs, replacing an earlier one;
    other files in the folder are left alone.

    All files are made in a temporary folder first and then moved, the page last, so that a failure on the way
    (such as a full disk) leaves an earlier report as it was. The same runs give the same bytes.

    Args:
        runs: At least one; names must differ. Runs whose configs differ in seeds alone are averaged as
            replicas.
        folder: Made if need be. Gets `transience.json`, `history.parquet` (a row per run and evaluation),
            `transience.png`, `transience.svg`, and `index.html`; of runs whose answers were kept also
            `answers.parquet` (a row per run, evaluation, evaluator and sampled sequence); of one run whose
            heads were measured also `heads.png` and `heads.svg`.
        card: Also write the model card there, a README.md beside the folder.
        varied: Of a sweep, the dotted keys of the config that vary, to what they are called; seeds left out.
            Adds a table to page and `transience.json`, and the figure `sweep.png` and `sweep.svg`.

    Returns:
        What was written.

    Raises:
        RunError: If there is no run, names repeat, or the folder cannot be written to.
    """
    folder = Path(folder)
    _check_names([run.name for run in runs])
    analysis = analyse(runs)
    document = analysis.document
    figures, shown = {"transience": draw_figure(analysis)}, None
    if len(runs) == 1 and (heads := draw_heads(runs[0])) is not None:
        figures["heads"] = heads
    if varied:
        document["sweep"] = tabulate(document, varied)
        drawn = {
            name: draw_sweep(document["sweep"], document, dark=dark, narrow=narrow)
            for name, narrow, dark in SWEEP_FIGURES
        }
        figures["sweep"] = drawn["wide"]
        head, rows = list_sweep(document["sweep"])
        pictures = {name: render_figure(figure, "png", dpi=PAGE_DPI) for name, figure in drawn.items()}
        shown = {"head": head, "rows": rows, "is_grid": is_grid(document["sweep"]), "figures": pictures}
    files = {"transience.json": (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()}
    for name, figure in figures.items():
        files |= {f"{name}.{kind}": render_figure(figure, kind) for kind in ("png", "svg")}
    files[PAGE] = render_page(analysis, shown).encode()
    with fill_whole(folder, last=PAGE, way_out="Make room, or name another place for the report.") as draft:
        _write_history(runs, draft / HISTORY_TABLE)
        if any(run.sample for run in runs):
            write_answers(runs, draft / ANSWERS_TABLE)
        for name, content in files.items():
            (draft / name).write_bytes(content)
    if card is not None:
        write_whole(Path(card), render_card(analysis, report=f"{folder.name}/").encode())
    return Report(folder / PAGE, analysis)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise RunError("There is no run to report on. Name one run folder or more.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RunError(
            f"Several runs are called {', '.join(repeated)}. Give each run of a report a name of its own."
        )


def _write_history(runs: Sequence[RunRecord], path: Path) -> None:
    """Write all rows as Parquet: `run`, `step`, `sequences`, and a float column per metric,
    null where not measured."""
    metrics = sorted({metric for run in runs for metric in run.columns.metrics})
    fields = {"run": pa.string(), "step": pa.int64(), "sequences": pa.int64()}
    schema = pa.schema(fields | {metric: pa.float64() for metric in metrics})
    with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=["run"]) as writer:
        for run in runs:
            for start in range(0, len(run.columns), ROWS_AT_ONCE):
                part = slice(start, start + ROWS_AT_ONCE)
                writer.write_table(_tabulate_rows(run, part, schema))


def _tabulate_rows(run: RunRecord, part: slice, schema: pa.Schema) -> pa.Table:
    columns = run.columns
    steps, sequences = (np.array(column[part]) for column in (columns.steps, columns.sequences))
    found = {"run": pa.repeat(run.name, len(steps)), "step": steps}
    found["sequences"] = pa.array(sequences, mask=sequences == NO_COUNT)
    for metric in schema.names[3:]:
        known = columns.metrics.get(metric)
        values = np.full(len(steps), NO_VALUE) if known is None else np.array(known[part])
        found[metric] = pa.array(values, mask=values == NO_VALUE)
    return pa.table(found, schema=schema)
