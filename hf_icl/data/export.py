"""Writes a task as Parquet with a card, which plain `load_dataset(folder)` reads without any code of ours."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq

from hf_icl.banks.bank import track
from hf_icl.data.card import SplitFacts, describe_for_parquet, write_card
from hf_icl.data.config import DatasetConfig
from hf_icl.data.tables import Range, SequenceTables
from hf_icl.errors import ConfigError
from hf_icl.files import fill_whole, is_unused
from hf_icl.task.task import Task

FILE_BYTES = 1 << 28  # of rows in memory; the files are smaller
CARD = "README.md"


def export_parquet(
    task: Task,
    folder: str | Path,
    *,
    n_sequences: int = 100_000,
    with_exemplars: bool = False,
    name: str | None = None,
    progress: bool = False,
) -> Path:
    """Write a task's training sequences and evaluators as Parquet, beside a card that lists them.

    The files are `<name>/<split>-00000-of-0000N.parquet`. The rows equal those of `load_dataset("hf_icl", …)`
    with the same settings. The folder appears once it is complete.

    Args:
        task: What to write.
        folder: A new or empty folder.
        n_sequences: Rows of the split train.
        with_exemplars: Write the exemplars too, not only their ids.
        name: What the configuration is called; after the bank if left out.
        progress: Show a bar on standard error, if that is a terminal.

    Returns:
        The folder.

    Raises:
        ConfigError: If the folder is not empty, or a setting is out of range.
        FileError: If it cannot be written.
    """
    folder = Path(folder)
    config = DatasetConfig(
        task=task.config, n_sequences=n_sequences, with_exemplars=with_exemplars, seed=task.seed
    )
    name = name_configuration(task, name)
    tables = SequenceTables(task.to("cpu"), config)
    progress = progress and sys.stderr.isatty()
    _check_empty(folder)
    with fill_whole(folder, last=CARD, way_out="Make room, or choose another folder.") as draft:
        (draft / name).mkdir()
        splits = {split: _write_split(tables, split, draft / name, progress) for split in tables.evaluators}
        (draft / CARD).write_text(write_card(name, config, tables.features, splits), encoding="utf-8")
    return folder


def name_configuration(task: Task, name: str | None = None) -> str:
    """Return what a configuration is called: as asked, or after the bank.

    Raises:
        ConfigError: If it cannot be called so.
    """
    if name is None:
        return re.sub(r"\W+", "_", task.bank.name)
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError("name", name, "a configuration is a folder", "Use letters, digits, _ and -.")
    return name


def _check_empty(folder: Path) -> None:
    if not is_unused(folder):
        is_folder = folder.is_dir()
        rule = "the folder is not empty, and nothing is overwritten" if is_folder else "this is a file"
        hint = "Choose a new folder, or empty this one." if is_folder else "Choose a new folder."
        raise ConfigError("folder", str(folder), rule, hint)


def _write_split(tables: SequenceTables, split: str, folder: Path, progress: bool) -> SplitFacts:
    n_rows, n_bytes, n_file_bytes = tables.count_rows(split), 0, 0
    files = _cut_files(tables, split, n_rows)
    schema = tables.features.arrow_schema.with_metadata(
        {"huggingface": json.dumps({"info": {"features": describe_for_parquet(tables.features)}})}
    )
    for number, rows in enumerate(files):
        path = folder / f"{split}-{number:05d}-of-{len(files):05d}.parquet"
        parts = tables.cut([rows])
        with pq.ParquetWriter(path, schema) as writer:
            for part in track(parts, f"Writing {path.name}", show=progress and len(parts) > 1):
                for table in tables.generate(split, [part]):
                    writer.write_table(table.cast(schema))
                    n_bytes += table.nbytes
        n_file_bytes += path.stat().st_size
    return SplitFacts(n_rows, n_bytes, n_file_bytes)


def _cut_files(tables: SequenceTables, split: str, n_rows: int) -> list[Range]:
    """Cut a split into files of similar size, judged by its first rows."""
    sample = next(tables.generate(split, [(0, min(n_rows, 16))]))
    n_files = -(-n_rows * sample.nbytes // (sample.num_rows * FILE_BYTES))
    bounds = [n_rows * number // n_files for number in range(n_files + 1)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))
