"""Back from rows of a data set to a batch of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_icl.sequences import SequenceBatch


def batch_from_rows(rows: Sequence[Mapping[str, Any]], *, seed: int, stream: int) -> SequenceBatch:
    """Put rows of `load_dataset("hf_icl", …)`, in any format, together to a batch.

    Args:
        rows: Of one context length, each with index, class_ids, exemplar_ids, labels, roles and perhaps noise.
        seed: Seed that the set was made with, from which draw-time noise is drawn again.
        stream: Stream of the split, `stream_of("training")` for train.

    >>> row = {"index": 7, "class_ids": [4, 5], "exemplar_ids": [0, 1], "labels": [1, 0], "roles": [2, 3]}
    >>> batch = batch_from_rows([row, row], seed=0, stream=1)
    >>> batch.index.tolist(), batch.labels.tolist(), batch.noise
    ([7, 7], [[1, 0], [1, 0]], None)
    """

    def stack(name: str, dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(row[name], dtype) for row in rows]))

    names = ("index", "class_ids", "exemplar_ids", "labels", "roles")
    noise = stack("noise", np.float32) if "noise" in rows[0] else None
    if noise is not None and not noise.any():
        noise = None  # the column is there for the sake of other splits
    return SequenceBatch(
        **{name: stack(name, np.int64) for name in names}, noise=noise, seed=seed, stream=stream
    )
