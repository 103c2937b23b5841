"""A trace on disk: what was asked, and a history for each series of revisions. Loads nothing that is slow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pydantic

from hf_icl.config import list_differences
from hf_icl.errors import ConfigError, RunError
from hf_icl.files import write_whole
from hf_icl.history.history import HISTORY_FILE, History
from hf_icl.history.lines import Row
from hf_icl.history.record import RunRecord
from hf_icl.local import hide_paths
from hf_icl.reading import read_json

TRACE_FILE = "trace.json"
TRACE_SCHEMA = 1
Axis = Literal["step", "tokens"]


class Series(pydantic.BaseModel):
    """The revisions of one model in one stage of its training.

    Attributes:
        name: What it is called, unique in a trace; also its folder.
        place: Repository, or path of a folder.
        shown: What reports call that: of a folder only its name, as they are published.
        stage: Of training; empty where there are none.
        pretrained: Whether its first revision is of a model that was trained before.
        model: What was seen of the model: type and parameters; empty before the first row.
    """

    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    name: str = pydantic.Field(pattern=r"^[\w.-]+$")
    place: str
    shown: str
    stage: str = ""
    pretrained: bool = False
    model: dict[str, Any] = {}


class About(pydantic.BaseModel):
    """What stands in `trace.json`.

    Attributes:
        questions: What is asked, see `hf_icl.traces.questions`; the bank's source as it was found.
        provenance: Versions, commit, machine, command.
        chance: Chance level by metric name.
        n_sequences: Evaluation sequences by evaluator.
        bank: What is known of the exemplars.
        bank_digest: Hash of the exemplars and labels; the same bank is asked for ever after.
        tokenizer: Fingerprint of the tokenizer of the revision that the bank is made from, if it has one.
        series: What is measured.
        skipped: Series, revision and reason of each revision that could not be.
    """

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    schema_: Literal[1] = pydantic.Field(default=TRACE_SCHEMA, alias="schema")
    questions: dict[str, Any]
    provenance: dict[str, Any]
    chance: dict[str, float]
    n_sequences: dict[str, int]
    bank: dict[str, Any]
    bank_digest: str
    tokenizer: str | None = None
    series: list[Series] = []
    skipped: list[dict[str, str]] = []


class Trace:
    """A trace folder: `trace.json`, and `SERIES/history.jsonl` with a row for each revision.

    Attributes:
        folder: Where it lies.
        about: What was asked of what.
    """

    def __init__(self, folder: Path, about: About) -> None:
        self.folder, self.about = folder, about

    def __repr__(self) -> str:
        rows = ", ".join(f"{one.name}: {len(self.history(one).rows)} revisions" for one in self.about.series)
        return f"Trace({str(self.folder)!r}: {rows or 'nothing measured'})"

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a trace folder.

        Raises:
            RunError: If it is none, or cannot be read.
        """
        folder = Path(folder)
        try:
            return cls(folder, About.model_validate(read_json(folder / TRACE_FILE)))
        except FileNotFoundError as error:
            raise RunError(f"{folder}: not a trace folder ({TRACE_FILE} is missing).") from error
        except (OSError, ValueError) as error:  # pydantic's is one
            said = str(error).splitlines()[0]
            raise RunError(f"{folder}: cannot be read as a trace folder ({said}).") from error

    def save(self) -> None:
        """Write `trace.json`, whole or not at all."""
        told = self.about.model_dump(mode="json", by_alias=True)
        write_whole(self.folder / TRACE_FILE, json.dumps(told, indent=1).encode())

    def check_same(self, questions: Mapping[str, Any], bank_digest: str) -> None:
        """Raise `RunError` unless this is what was asked before, with the same bank."""
        names = list_differences(self.about.questions, questions)
        if names:
            raise RunError(
                f"{self.folder}: holds a trace that was asked otherwise, in {', '.join(names)}. Go on with "
                "the same settings, or choose another --output."
            )
        if bank_digest != self.about.bank_digest:
            raise RunError(
                f"{self.folder}: the bank is not the one that was asked about before, though its settings "
                "are the same: the model that it comes from has changed. Choose another --output."
            )

    def history(self, series: Series) -> History:
        """Return the rows of a series, as they are on disk now."""
        return History(self.folder / series.name / HISTORY_FILE)

    def put(self, series: Series, row: Row) -> None:
        """Write a row, in its place; one of the same step is replaced."""
        history = self.history(series)
        if row["step"] > history.last_step:
            history.append(row)
            return
        others = [one for one in history.rows if one["step"] != row["step"]]
        history.restore(sorted([*others, row], key=lambda one: one["step"]))

    def add_series(self, series: Series) -> Series:
        """Return the series of that place and stage, which may be there already."""
        for one in self.about.series:
            if (one.place, one.stage) == (series.place, series.stage):
                return one
        taken = {one.name for one in self.about.series}
        if series.name in taken:
            series = series.model_copy(update={"name": f"{series.name}-{len(taken)}"})
        self.about.series.append(series)
        return series

    def skip(self, series: str, revision: str, why: str) -> None:
        """Keep why a revision was not measured."""
        told = {"series": series, "revision": revision, "why": why}
        if told not in self.about.skipped:
            self.about.skipped.append(told)
            self.save()

    def records(self, axis: Axis = "step") -> list[RunRecord]:
        """Return what a report needs to know of each series.

        Args:
            axis: What curves are drawn over: steps, or the tokens seen by then.

        Raises:
            RunError: If nothing was measured, or the tokens of a row are not known.
        """
        records = [self._record(one, axis) for one in self.about.series if self.history(one).rows]
        if not records:
            raise RunError(f"{self.folder}: nothing has been measured yet. Go on with the same hf-icl trace.")
        return records

    def _record(self, series: Series, axis: Axis) -> RunRecord:
        rows: Sequence[Row] = self.history(series).rows
        if axis == "tokens":
            unknown = [row["step"] for row in rows if row.get("tokens") is None]
            if unknown:
                raise RunError(
                    f"{self.folder}: the tokens seen by step {unknown[0]:,} of {series.name} are not known, "
                    "as names of revisions do not tell. Trace anew with --tokens-per-step."
                )
            rows = [row | {"step": row["tokens"]} for row in rows]
        about = self.about
        questions, _ = hide_paths(about.questions)
        return RunRecord(
            name=series.name,
            config={"model": series.model, "stage": series.stage, **questions},
            provenance=about.provenance | {"model": series.shown},
            rows=rows,
            chance=about.chance,
            n_sequences=about.n_sequences,
            bank=about.bank,
            begins_pretrained=series.pretrained,
            axis=axis,
        )


def check_axis(axis: str) -> None:
    """Raise `ConfigError` unless curves can be drawn over this."""
    if axis not in get_args(Axis):
        raise ConfigError("--axis", axis, f"must be one of {', '.join(get_args(Axis))}")
