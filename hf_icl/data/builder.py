"""The `datasets` builder, and `load_dataset` without anything registered anywhere."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch

from hf_icl.banks.kinds import KINDS
from hf_icl.data.config import DatasetConfig, fingerprint_files, parse_arguments
from hf_icl.data.packaged import NAME, fingerprint_sources
from hf_icl.data.tables import MAX_TABLE_ROWS, Range, SequenceTables, make_features, make_ranges
from hf_icl.errors import ConfigError, FileError
from hf_icl.task.task import Task

logger = logging.getLogger(__name__)

DEFAULT_KIND = "gaussian"
DESCRIPTION = "Few-shot sequences that show in-context learning appear and fade, one row per sequence."
HOME_PROCESS = os.getpid()
# Nothing is read from files, nor from a card that lies beside a loading script.
IGNORED = ("data_files", "data_dir", "info")
HOST_ARGUMENTS = (
    "base_path", "features", "token", "repo_id", "storage_options", "writer_batch_size", "config_id",
)  # fmt: skip


@dataclass
class SequencesConfig(datasets.BuilderConfig):
    """What `datasets` keeps and hashes of a configuration.

    Attributes:
        settings: JSON of the resolved `DatasetConfig`, every default written out, and of the bank's files.
    """

    settings: str = ""

    @property
    def resolved(self) -> DatasetConfig:
        """The config that the settings are of, checked again."""
        return DatasetConfig(**json.loads(self.settings)["config"])


class HfIclSequences(datasets.ArrowBasedBuilder):
    """Few-shot sequences as indices: the split `train`, and one split per evaluator.

    Use it through `load_dataset("hf_icl", "gaussian", …)`, or directly. Keyword arguments are those of
    `hf_icl.data.load_dataset`; `data_files` and `data_dir` are ignored.

    Raises:
        ConfigError: If an argument is unknown, out of range, or at odds with another.

    >>> sorted(HfIclSequences.builder_configs)
    ['features', 'gaussian', 'omniglot', 'symbolic', 'texts', 'vocabulary']
    """

    BUILDER_CONFIG_CLASS = SequencesConfig
    BUILDER_CONFIGS = [SequencesConfig(name=kind, version=datasets.Version("1.0.0")) for kind in KINDS]
    DEFAULT_CONFIG_NAME = DEFAULT_KIND
    DEFAULT_WRITER_BATCH_SIZE = (
        MAX_TABLE_ROWS  # tables are written as they come; cut into 1,000 rows it takes longer
    )

    def __init__(
        self,
        cache_dir: str | None = None,
        dataset_name: str | None = None,
        config_name: str | None = None,
        hash: str | None = None,
        **arguments: Any,
    ) -> None:
        host = {name: arguments.pop(name) for name in HOST_ARGUMENTS if name in arguments}
        for name in IGNORED:
            arguments.pop(name, None)
        kind = config_name or DEFAULT_KIND
        config = parse_arguments(kind, arguments)
        # Set as a whole: `datasets` sets single fields unchecked, and skips those that are None.
        settings = {"config": config.to_dict(), "files": fingerprint_files(config.task.bank)}
        super().__init__(
            cache_dir=choose_cache(cache_dir),
            dataset_name=dataset_name or NAME,
            config_name=kind,
            hash=fingerprint_sources(),
            settings=json.dumps(settings, sort_keys=True),
            **host,
        )

    def _info(self) -> datasets.DatasetInfo:
        config = self.config.resolved
        features = (
            open_tables(self.config.settings).features if config.with_exemplars else make_features(config)
        )
        return datasets.DatasetInfo(description=DESCRIPTION, features=features)

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        tables = open_tables(self.config.settings)
        return [
            datasets.SplitGenerator(
                name=split, gen_kwargs={"split": split, "ranges": make_ranges(tables.count_rows(split))}
            )
            for split in tables.evaluators
        ]

    def _generate_tables(self, split: str, ranges: list[Range]) -> Iterator[tuple[int, pa.Table]]:
        if os.getpid() != HOME_PROCESS:
            torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, and every process has its core
        yield from enumerate(open_tables(self.config.settings).generate(split, ranges))


def choose_cache(cache_dir: str | None) -> str | None:
    """Return where prepared rows are kept: where asked, or where `datasets` keeps them if it can be written.

    Else a folder that is removed when the process ends: streaming needs none, and `datasets` makes one.

    Raises:
        FileError: If the folder that was asked for cannot be written.
    """
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return cache_dir
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if cache_dir is not None:
            raise FileError(folder, error, "Name another cache_dir.") from error
        logger.warning("%s cannot be written: what is prepared is kept for this process only", folder)
        return _make_cache().name


@functools.lru_cache(maxsize=1)
def _make_cache() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="hf_icl_", ignore_cleanup_errors=True)


@functools.lru_cache(maxsize=2)
def open_tables(settings: str) -> SequenceTables:
    """Build what a builder's settings describe, once per process: kept out of the builder,
    which gets pickled."""
    config = DatasetConfig(**json.loads(settings)["config"])
    return SequenceTables(Task(config.task, seed=config.seed), config)


def load_dataset(
    path: str = NAME,
    name: str | None = None,
    *,
    split: str | datasets.Split | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | None = None,
    download_mode: datasets.DownloadMode | str | None = None,
    keep_in_memory: bool = False,
    **arguments: Any,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """Load few-shot sequences: the same as `datasets.load_dataset`, without private names behind it.

    Row i of `train` is sequence i of the sampler, whatever `num_proc` and `streaming` are.

    Args:
        path: "hf_icl", as for `datasets.load_dataset`; may be left out.
        name: Kind of bank: gaussian (default), symbolic, omniglot, features or vocabulary.
        split: One split or a slice such as "train[:100]"; None: all. Beside train there is one per evaluator,
            such as icl and iwl; `train_eval` holds the evaluator `train`, fresh sequences of the training
            distribution.
        streaming: Draw rows while they are read; nothing is written.
        num_proc: Processes that write the split train.
        cache_dir: Where prepared rows are kept.
        download_mode: As for `datasets.load_dataset`; "force_redownload" prepares again.
        keep_in_memory: Copy the rows into memory instead of mapping them.
        **arguments: Fields of the bank (`n_classes`, `eps`, `source`, …, its own seed as `bank_seed`), of the
            training sequences (`n_context`, `burst`, `zipf`, …), or `train`, `evaluators`,
            `extra_evaluators`, `n_eval_sequences` as in `TaskConfig`; `n_sequences` of train (100,000);
            `seed`; `with_exemplars`, for the exemplars themselves.

    Raises:
        ConfigError: If an argument is unknown, out of range, or at odds with another.
        BankError: If the exemplars cannot be had.

    >>> rows = load_dataset("gaussian", split="train", streaming=True, n_classes=16, n_context=2)
    >>> sorted(next(iter(rows)))
    ['class_ids', 'exemplar_ids', 'index', 'labels', 'roles']
    """
    if path != NAME:
        if name is not None:
            hint = 'Write load_dataset("hf_icl", "gaussian") or load_dataset("gaussian").'
            raise ConfigError("path", path, f'path must be "{NAME}" where a name follows', hint)
        path, name = NAME, path
    builder = HfIclSequences(cache_dir=cache_dir, config_name=name, **arguments)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(download_mode=download_mode, num_proc=num_proc)
    return builder.as_dataset(split=split, in_memory=keep_in_memory)
