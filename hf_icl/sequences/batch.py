"""Sequences as indices: what is drawn, stored, and looked up as late as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from hf_icl.wording import render_table

MOST_SHOWN = 8  # places of a context in a table
INDICES = ("index", "class_ids", "exemplar_ids", "labels", "roles")


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences as indices, all tensors on one device; the query is column -1.

    Args:
        index: int64 (batch,), the number of each sequence in its stream.
        class_ids: int64 (batch, n_context + 1).
        exemplar_ids: int64 (batch, n_context + 1), numbered within the class.
        labels: int64 (batch, n_context + 1), as shown; `labels[:, -1]` is the right answer (for swapped
            labels the one that the context gives).
        roles: int64 (batch, n_context + 1), values of `Role`.
        noise: float32 (batch,), standard deviation of the noise at draw time; None if there is none.
        seed: In [0, 2^64).
        stream: In [0, 2^32). With `seed` and `index` it gives the sequence, and its noise, again.
    """

    index: torch.Tensor
    class_ids: torch.Tensor
    exemplar_ids: torch.Tensor
    labels: torch.Tensor
    roles: torch.Tensor
    noise: torch.Tensor | None
    seed: int
    stream: int

    def __repr__(self) -> str:
        numbers = f", from number {int(self.index[0]):,} on" if len(self) else ""
        noise = ", noisy" if self.noise is not None else ""
        where = f"seed {self.seed}, stream {self.stream}, {self.index.device}"
        size = f"{len(self):,} sequences of {self.labels.shape[1] - 1} and a query"
        return f"SequenceBatch({size}{numbers}{noise}; {where})"

    def _repr_html_(self) -> str:
        return self.render_html(repr(self))

    def render_html(self, title: str, n_rows: int = 5) -> str:
        """Return the first sequences as an HTML table: class and exemplar, and the label shown with it."""
        rows = []
        for index, classes, exemplars, labels in zip(
            *(getattr(self, name)[:n_rows].tolist() for name in INDICES[:-1]), strict=True
        ):
            *context, query = (f"{one}.{other}" for one, other in zip(classes, exemplars, strict=True))
            pairs = [f"{place} → {label}" for place, label in zip(context, labels[:-1], strict=True)]
            left_out = len(pairs) - MOST_SHOWN
            more = [f"… {left_out:,} more"] if left_out > 0 else []
            rows.append([f"{index:,}", ", ".join(pairs[:MOST_SHOWN] + more), query, labels[-1]])
        return render_table(["sequence", "context: class.exemplar → label", "query", "answer"], rows, title)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | torch.Tensor) -> SequenceBatch:
        """Return the sequences of a slice, an index tensor or a boolean mask."""
        if isinstance(rows, int):
            raise TypeError(
                "a batch is indexed by a slice or a tensor; write batch[i : i + 1] for one sequence"
            )
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: str | torch.device) -> SequenceBatch:
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SequenceBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return SequenceBatch(**values | tensors)

    @staticmethod
    def cat(batches: Sequence[SequenceBatch]) -> SequenceBatch:
        """Join batches of one seed and stream, all with noise or all without.

        Raises:
            ValueError: If there is no batch, or the batches are of different kinds.
        """
        if len({(batch.seed, batch.stream, batch.noise is None) for batch in batches}) != 1:
            raise ValueError(
                "only batches of one seed and stream, all with or all without noise, can be joined"
            )
        first = batches[0]
        tensors = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in INDICES}
        noise = None if first.noise is None else torch.cat([batch.noise for batch in batches])
        return SequenceBatch(**tensors, noise=noise, seed=first.seed, stream=first.stream)


def batch_from_rows(rows: Sequence[Mapping[str, Any]], *, seed: int, stream: int) -> SequenceBatch:
    """Put rows of `load_dataset("hf_icl", …)`, in any format, together to a batch.

    Args:
        rows: Of one context length, each with index, class_ids, exemplar_ids, labels, roles and perhaps
            noise.
        seed: Seed that the set was made with, from which draw-time noise is drawn again.
        stream: Stream of the split, `stream_of("training")` for train.

    >>> row = {"index": 7, "class_ids": [4, 5], "exemplar_ids": [0, 1], "labels": [1, 0], "roles": [2, 3]}
    >>> batch = batch_from_rows([row, row], seed=0, stream=1)
    >>> batch.index.tolist(), batch.labels.tolist(), batch.noise
    ([7, 7], [[1, 0], [1, 0]], None)
    """

    def stack(name: str, dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(row[name], dtype) for row in rows]))

    noise = stack("noise", np.float32) if "noise" in rows[0] else None
    if noise is not None and not noise.any():
        noise = None  # the column is there for the sake of other splits
    return SequenceBatch(
        **{name: stack(name, np.int64) for name in INDICES}, noise=noise, seed=seed, stream=stream
    )
