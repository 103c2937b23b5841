"""What a run folder says of its run, read without loading what trains one, which takes seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
import yaml

from hf_icl.config import list_differences
from hf_icl.errors import RunError
from hf_icl.history.history import HISTORY_FILE, History
from hf_icl.history.record import RunRecord, begins_pretrained
from hf_icl.reading import MOST_BYTES, parse_json, read_bounded, read_json, read_yaml

CONFIG_FILE, RUN_FILE, CARD_FILE = "config.yaml", "run.json", "README.md"
RUN_SCHEMA = 1
CIRCUITS, HEADS_FILE, EFFECTS_FILE = "circuits", "heads.jsonl", "effects.jsonl"
ATTENTION_FILE = "attention.jsonl"


def read_record(folder: str | Path) -> RunRecord:
    """Return what a report needs to know of a run.

    Raises:
        RunError: As `read_about`, or if nothing has been measured yet.
    """
    return make_record(Path(folder), read_about(folder))


def make_record(folder: Path, about: Mapping[str, Any]) -> RunRecord:
    """Return what a report needs to know of a run, of which `read_about` said the rest.

    Raises:
        RunError: If nothing has been measured yet, or the history cannot be read.
    """
    rows = History(folder / HISTORY_FILE).rows
    if not rows:
        raise RunError(f"{folder}: nothing has been measured yet. Continue it with: hf-icl resume {folder}")
    check_counts(folder, about["config"]["training"], rows.columns.steps, rows.columns.sequences)
    return RunRecord(
        name=folder.resolve().name,
        config=about["config"],
        provenance=about["provenance"],
        rows=rows,
        chance=about["chance"],
        n_sequences=about["n_sequences"],
        bank=about.get("bank") or {},  # runs made before it was kept
        circuits=read_circuits(folder / CIRCUITS),
        sample=about.get("sample") or {},
        begins_pretrained=begins_pretrained(about["config"]),
    )


def read_circuits(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what was measured of a run's circuits beside its history: rows of `heads`, `effects`
    and `attention`.

    Raises:
        RunError: If a file cannot be read.
    """
    found = {}
    for name, key in ((HEADS_FILE, "metrics"), (EFFECTS_FILE, "effects"), (ATTENTION_FILE, "sequences")):
        path, kind = folder / name, Path(name).stem
        if not path.exists():
            continue
        try:
            rows = [parse_json(line) for line in read_bounded(path, MOST_BYTES).splitlines()]
            found[kind] = [{"step": int(row["step"]), key: row[key], **row} for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            way_out = f"Measure it again with: hf-icl circuits {folder.parent}"
            raise RunError(f"{path}: cannot be read ({error}). {way_out}") from error
    return found


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what `read_about` reads: `run.json`, and the config in it once more as `config.yaml`."""
    config = yaml.safe_dump(about["config"], sort_keys=False)
    (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
    (folder / RUN_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")


def read_about(folder: str | Path) -> dict[str, Any]:
    """Return what was written when a run was made: config, versions, commit, chance levels, evaluation sizes,
    the bank.

    Raises:
        RunError: If it is no run folder, cannot be read, comes from another version, or was edited.
    """
    folder = Path(folder)
    try:
        about, written = read_json(folder / RUN_FILE), read_yaml(folder / CONFIG_FILE)
    except FileNotFoundError as error:
        raise RunError(f"{folder}: not a run folder ({Path(error.filename).name} is missing).") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: cannot be read as a run folder ({error}).") from error
    if not isinstance(about, dict):
        raise RunError(f"{folder}: cannot be read as a run folder ({RUN_FILE} holds no mapping).")
    schema = about.get("schema")
    if schema != RUN_SCHEMA and type(schema) is int:
        raise RunError(
            f"{folder}: was written in format {schema}, this version of hf_icl reads format {RUN_SCHEMA}. "
            f"Use the version that made it: {_find_version(about)}."
        )
    try:
        _About.model_validate(about)
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the whole file"
        raise RunError(f"{folder / RUN_FILE}: is damaged in {where} ({wrong['msg']}).") from error
    config = about["config"]
    names = list_differences(config, written) if isinstance(written, dict) else ["the whole file"]
    if names and not _is_half_extended(about, written, names):
        raise RunError(
            f"{folder / CONFIG_FILE}: differs from the config that the run was made with, in "
            f"{', '.join(names)}. Put it back, or start a new run from it: "
            f"hf-icl run {folder / CONFIG_FILE} --output NEW_FOLDER"
        )
    return about


def _is_half_extended(about: Mapping[str, Any], written: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Return whether a run was given more steps and its process died before the config was written anew."""
    earlier = about.get("extended")
    if names != ["training.steps"] or not isinstance(earlier, list) or not isinstance(earlier[-1], dict):
        return False
    return written["training"]["steps"] == earlier[-1].get("steps")


def _find_version(about: Mapping[str, Any]) -> str:
    """Return which version says that it made a run, whatever else it wrote."""
    for name in ("provenance", "versions"):
        about = about.get(name) if isinstance(about.get(name), dict) else {}
    return str(about.get("hf-icl", "?"))


class _Sequence(pydantic.BaseModel):
    """A sampled sequence, as `hf_icl.task.sample` writes it."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    index: int
    classes: list[int] = pydantic.Field(min_length=2)
    exemplars: list[int]
    labels: list[int]
    names: list[str] | None = None

    @pydantic.model_validator(mode="after")
    def _is_of_one_length(self) -> Self:
        columns = (self.exemplars, self.labels, self.names or self.classes)
        if any(len(column) != len(self.classes) for column in columns):
            raise ValueError("its columns differ in length")
        return self


class _Sample(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    label_names: list[str] | None
    sequences: dict[str, list[_Sequence]]


class _Spread(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    within: float
    between: float


class _Lengths(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    fewest: int
    most: int


class _BankFacts(pydantic.BaseModel):
    """What a report says of a bank: see `hf_icl.banks.facts`."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    name: str
    n_classes: Annotated[int, pydantic.Field(ge=1)]
    n_holdout_classes: Annotated[int, pydantic.Field(ge=0)]
    n_exemplars: Annotated[int, pydantic.Field(ge=1)]
    source: str | None = None
    metric: str | None = None
    spread: _Spread | None = None
    holdout_spread: _Spread | None = None
    data: str | None = None
    tokens: _Lengths | None = None

    @pydantic.model_validator(mode="after")
    def _is_told_whole(self) -> Self:
        if "source" in self.model_fields_set and None in (self.source, self.metric, self.spread):
            raise ValueError("of a vocabulary, source, metric and spread belong together")
        if "data" in self.model_fields_set and None in (self.data, self.tokens):
            raise ValueError("of texts, data and tokens belong together")
        return self


class _About(pydantic.BaseModel):
    """What is used of `run.json`; what else stands there is shown."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    schema_: Literal[1] = pydantic.Field(alias="schema")
    config: dict[str, Any]
    provenance: dict[str, Any]
    chance: dict[str, float]
    n_sequences: dict[str, Annotated[int, pydantic.Field(ge=1)]]
    bank: _BankFacts | None = None
    model_bytes: int | None = None
    sample: _Sample | None = None

    @pydantic.field_validator("bank", mode="before")
    @classmethod
    def _has_none(cls, bank: Any) -> Any:
        return None if bank == {} else bank  # of runs that were made before it was kept


def check_counts(
    folder: Path, training: Mapping[str, Any], steps: Sequence[int], sequences: Sequence[int]
) -> None:
    """Raise `RunError` unless steps, and the sequences seen by then, are such as a run's config allows."""
    steps, sequences = np.asarray(steps), np.asarray(sequences)
    wrong = (steps < 0) | (steps > training["steps"]) | (sequences != steps * training["batch_size"])
    if wrong.any():
        step, seen = int(steps[wrong.argmax()]), int(sequences[wrong.argmax()])
        raise RunError(
            f"{folder}: says that at step {step:,} {seen:,} sequences were seen, and its config allows "
            f"{training['steps']:,} steps of {training['batch_size']:,}. It holds another run's files, or "
            "was edited: put them back, or start a new run."
        )
