"""Arrow tables of sequences: one row per sequence, without a Python list on the way."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator, Sequence

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import torch
from torch import Tensor

from hf_icl.banks.bank import PIXEL_LEVELS, Bank
from hf_icl.data.config import DatasetConfig
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.task.evaluators import EVALUATORS, TRAIN_SPLIT
from hf_icl.task.task import Task

COLUMNS = {"class_ids": "int32", "exemplar_ids": "int32", "labels": "int32", "roles": "int8"}
MAX_SHARDS = 64  # divides evenly among 2, 4, 8 … processes
MIN_SHARD_ROWS = 16
MAX_TABLE_ROWS = 16_384
MAX_TABLE_BYTES = 1 << 26
MAX_CACHED_PICTURES = 1 << 16

Range = tuple[int, int]


def make_features(config: DatasetConfig, bank: Bank | None = None) -> datasets.Features:
    """Return the columns of all splits.

    `index` int64 (the number of the sequence in its stream), then lists with one entry per place, the query
    last: `class_ids`, `exemplar_ids`, `labels` int32 and `roles` int8 (see `Role`). The lists are of fixed
    length unless some evaluator's context is shorter. `noise` float32 where some spec has noise. With
    exemplars, `exemplars`: pictures (PNG, 255 for 1.0) where a bank stores bytes, else float32 lists; int64
    ids for a bank of ids.

    Args:
        config: What the set holds.
        bank: Its bank; needed with exemplars only.

    >>> make_features(DatasetConfig())["labels"].length
    5
    """
    length = _find_length(config)
    columns = {"index": datasets.Value("int64")}
    columns |= {
        name: datasets.Sequence(datasets.Value(dtype), length=length) for name, dtype in COLUMNS.items()
    }
    if _has_noise(config):
        columns["noise"] = datasets.Value("float32")
    if config.with_exemplars:
        if bank is None:
            raise ValueError("with_exemplars needs the bank, for the shape of an exemplar")
        columns["exemplars"] = _describe_exemplars(bank, length, as_pictures=_stores_pictures(config, bank))
    return datasets.Features(columns)


def _find_length(config: DatasetConfig) -> int:
    """Return the places of a sequence, or −1 (lists of any length) where evaluators may be shorter."""
    n_context = config.task.train_specs[0].n_context
    others = {spec.n_context for spec in config.task.extra_evaluators.values()}
    return n_context + 1 if n_context % 2 == 0 and others <= {n_context} else -1


def _has_noise(config: DatasetConfig) -> bool:
    return any(spec.noise for spec in (*config.task.train_specs, *config.task.extra_evaluators.values()))


def _stores_pictures(config: DatasetConfig, bank: Bank) -> bool:
    return bank.kind == "images" and bank.data.dtype == torch.uint8 and not _has_noise(config)


def _describe_exemplars(bank: Bank, length: int, *, as_pictures: bool) -> datasets.Sequence:
    if as_pictures:
        return datasets.Sequence(datasets.Image())
    feature = datasets.Value("int64" if bank.kind == "ids" else "float32")
    for size in reversed(bank.shape):
        feature = datasets.Sequence(feature, length=size)
    return datasets.Sequence(feature, length=length)


class SequenceTables:
    """The rows of a data set, split by split.

    Args:
        task: What to draw; its config and seed must be those of `config`.
        config: What the set holds.

    Attributes:
        features: Columns of all splits.
        evaluators: Name of the evaluator (None: training) by split.
    """

    def __init__(self, task: Task, config: DatasetConfig) -> None:
        self.task, self.config = task, config
        self.features = make_features(config, task.bank)
        self._schema = self.features.arrow_schema.remove_metadata()
        self.evaluators = {TRAIN_SPLIT: None} | {
            EVALUATORS[name].split if name in EVALUATORS else name: name for name in task.specs
        }
        self._samplers = {split: task.sampler(name) for split, name in self.evaluators.items()}
        self._encode = make_picture_encoder(task.bank)
        self._n_table_rows = MAX_TABLE_ROWS
        if config.with_exemplars:
            row_bytes = 4 * (task.n_context + 1) * math.prod(task.bank.shape)
            self._n_table_rows = max(1, min(MAX_TABLE_ROWS, MAX_TABLE_BYTES // row_bytes))

    def count_rows(self, split: str) -> int:
        """Return the number of rows of a split."""
        return (
            self.config.n_sequences if self.evaluators[split] is None else self.config.task.n_eval_sequences
        )

    def generate(self, split: str, ranges: Sequence[Range]) -> Iterator[pa.Table]:
        """Yield the rows of half-open ranges of indices, in their order.

        The i-th row of train is the i-th training sequence, that of an evaluator's split its i-th sequence.
        """
        sampler = self._samplers[split]
        for start, stop in self.cut(ranges):
            yield self.make_table(sampler.draw(start, stop - start))

    def cut(self, ranges: Sequence[Range]) -> list[Range]:
        """Return the ranges anew, each as long as one table."""
        step = self._n_table_rows
        return [
            (start, min(start + step, last))
            for first, last in merge_ranges(ranges)
            for start in range(first, last, step)
        ]

    def make_table(self, batch: SequenceBatch) -> pa.Table:
        """Return the sequences of a batch as rows."""
        schema = self._schema
        columns = [pa.array(batch.index.numpy())]
        for name in COLUMNS:
            columns.append(_wrap(getattr(batch, name), schema.field(name).type))
        if "noise" in schema.names:
            noise = torch.zeros(len(batch)) if batch.noise is None else batch.noise
            columns.append(pa.array(noise.numpy()))
        if "exemplars" in schema.names:
            columns.append(self._make_exemplars(batch, schema.field("exemplars").type))
        return pa.Table.from_arrays(columns, schema=schema)

    def _make_exemplars(self, batch: SequenceBatch, target: pa.DataType) -> pa.Array:
        if not _stores_pictures(self.config, self.task.bank):
            return _wrap(self.task.features(batch), target)
        ids = zip(batch.class_ids.flatten().tolist(), batch.exemplar_ids.flatten().tolist(), strict=True)
        pictures = pa.array([self._encode(*pair) for pair in ids], pa.binary())
        paths = pa.nulls(len(pictures), pa.string())
        cells = pa.StructArray.from_arrays([pictures, paths], fields=list(target.value_type))
        return _wrap_once(cells, batch.class_ids.shape[1], target)


def merge_ranges(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges that follow one another, so that shards of one process are drawn in larger pieces.

    >>> merge_ranges([(0, 5), (5, 9), (20, 30)])
    [(0, 9), (20, 30)]
    """
    merged: list[Range] = []
    for start, stop in ranges:
        if merged and merged[-1][1] == start:
            start, _ = merged.pop()
        merged.append((start, stop))
    return merged


def make_ranges(n_rows: int) -> list[Range]:
    """Cut a split into shards: a power of two of them, none smaller than 16 rows unless it is the only one.

    >>> make_ranges(70)
    [(0, 17), (17, 35), (35, 52), (52, 70)]
    >>> len(make_ranges(1_000_000))
    64
    """
    n_shards = 1
    while n_shards < MAX_SHARDS and n_rows // (2 * n_shards) >= MIN_SHARD_ROWS:
        n_shards *= 2
    bounds = [n_rows * shard // n_shards for shard in range(n_shards + 1)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def make_picture_encoder(bank: Bank) -> Callable[[int, int], bytes]:
    """Return a function from class id and exemplar id to the exemplar's PNG, which remembers recent ones."""

    @functools.lru_cache(MAX_CACHED_PICTURES)
    def encode(class_id: int, exemplar_id: int) -> bytes:
        values = bank.lookup(torch.tensor([class_id]), torch.tensor([exemplar_id]))[0]
        pixels = (values * PIXEL_LEVELS).round().to(torch.uint8)
        pixels = pixels.movedim(0, -1).squeeze(-1) if pixels.ndim == 3 else pixels
        file = io.BytesIO()
        PIL.Image.fromarray(pixels.numpy()).save(file, format="PNG")
        return file.getvalue()

    return encode


def _wrap(values: Tensor, target: pa.DataType) -> pa.Array:
    """Return a tensor (n_rows, …) as an array of lists of lists …, as deep as the tensor."""
    types = [target]
    while pa.types.is_list(types[-1]) or pa.types.is_fixed_size_list(types[-1]):
        types.append(types[-1].value_type)
    array = pa.array(values.flatten().numpy().astype(types[-1].to_pandas_dtype(), copy=False))
    for size, list_type in zip(reversed(values.shape[1:]), reversed(types[:-1]), strict=True):
        array = _wrap_once(array, size, list_type)
    return array


def _wrap_once(array: pa.Array, size: int, list_type: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(list_type):
        return pa.FixedSizeListArray.from_arrays(array, type=list_type)
    offsets = pa.array(np.arange(0, len(array) + 1, size, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, array, type=list_type)
