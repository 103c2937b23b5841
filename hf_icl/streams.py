"""Training sequences as torch datasets: a map-style one, and an endless stream of ready batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hf_icl.task import Task


class SequenceDataset(torch.utils.data.Dataset):
    """A map-style dataset whose i-th item is the i-th training sequence, encoded for the model, drawn when asked for."""

    def __init__(self, task: Task, n_sequences: int) -> None:
        self.task, self.n_sequences = task, n_sequences

    def __len__(self) -> int:
        return self.n_sequences

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.n_sequences:
            raise IndexError(f"sequence {index} of {self.n_sequences}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Draw and encode a whole batch at once, and hand it out row by row."""
        batch = self.task.train_sampler.draw_at(torch.as_tensor(indices))
        inputs = self.task.to("cpu").encode(batch)
        names, columns = inputs.keys(), (values.unbind() for values in inputs.values())
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class SequenceStream(torch.utils.data.IterableDataset):
    """Endless ready batches for the project's Trainer, drawn on the model's device, many steps at a time.

    Args:
        task: What to draw.
        batch_size: Sequences per batch.
        device: Where to draw and to look up exemplars.
        first_batch: Called when iteration starts; the number of the batch to start from.
        n_ahead: Batches drawn in one go.
    """

    def __init__(
        self, task: Task, batch_size: int, device: torch.device, first_batch, n_ahead: int = 64
    ) -> None:
        self.task, self.batch_size, self.n_ahead = task, batch_size, n_ahead
        self.device, self.first_batch = device, first_batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        sampler = self.task.to(self.device).sampler(device=self.device)
        start, size = self.first_batch() * self.batch_size, self.batch_size
        while True:
            drawn = sampler.draw(start, self.n_ahead * size)
            for offset in range(0, self.n_ahead * size, size):
                yield self.task.encode(drawn[offset : offset + size])
            start += self.n_ahead * size
