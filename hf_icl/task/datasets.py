"""Training sequences as torch datasets: a map-style one, endless rows, and endless ready batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from hf_icl.banks.bank import Bank
from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.sampler import Sampler

ROWS_AT_ONCE = 4096
N_AHEAD = 64  # batches drawn in one go
DEVICE_SEQUENCES = 1 << 15  # or more, up to so many sequences: a device draws many as soon as few
CACHED_VALUES, DEVICE_VALUES = 1 << 19, 1 << 22  # numbers of exemplars looked up at once


class Drawable(Protocol):
    """What draws sequences and encodes them for a model: a `Task`."""

    bank: Bank
    train_sampler: Sampler

    @property
    def n_context(self) -> int:
        """Exemplar–label pairs before the query."""

    def to(self, device: str | torch.device) -> Self:
        """Move the bank to a device."""

    def sampler(self, *, device: str | torch.device) -> Sampler:
        """Return the sampler of the training sequences."""

    def encode(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Turn indices into what a model's forward takes."""


class SequenceDataset(torch.utils.data.Dataset):
    """A map-style dataset whose i-th item is the i-th training sequence, encoded for the model,
    drawn when asked for."""

    def __init__(self, task: Drawable, n_sequences: int) -> None:
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
    """Endless ready batches of one process, drawn on the model's device, many steps at a time.

    The sequences of batch m, over all processes, are numbers first + m · W · B to first + (m + 1) · W · B −
    1, where W processes take B each; process r has the r-th run of B. So all of them together see the same
    sequences in the same order, whatever W.

    Args:
        task: What to draw.
        batch_size: Sequences per batch and process, B.
        device: Where to draw and to look up exemplars.
        first: Called when iteration starts; the number of the sequence to start from.
        rank: This process's number, r.
        n_processes: How many there are, W.
        n_ahead: Batches drawn in one go; None: as many as suit the device.
    """

    def __init__(
        self,
        task: Drawable,
        batch_size: int,
        device: str | torch.device = "cpu",
        *,
        first: Callable[[], int] = lambda: 0,
        rank: int = 0,
        n_processes: int = 1,
        n_ahead: int | None = None,
    ) -> None:
        self.task, self.batch_size = task, batch_size
        self.device, self.first = torch.device(device), first
        on_cpu = self.device.type == "cpu"
        self.n_ahead = n_ahead or (N_AHEAD if on_cpu else max(N_AHEAD, DEVICE_SEQUENCES // batch_size))
        self.n_looked_up = CACHED_VALUES if on_cpu else DEVICE_VALUES
        self.rank, self.n_processes = rank, n_processes

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        sampler = self.task.to(self.device).sampler(device=self.device)
        size, n_drawn = self.batch_size, self.n_ahead * self.batch_size
        n_encoded = size * self._count_encoded()
        batch = torch.arange(self.n_ahead)[:, None] * self.n_processes + self.rank
        index = self.first() + (batch * size + torch.arange(size)).flatten()
        while True:
            drawn = sampler.draw_at(index)
            for start in range(0, n_drawn, n_encoded):
                inputs = self.task.encode(drawn[start : start + n_encoded])
                for offset in range(0, n_encoded, size):
                    yield {name: values[offset : offset + size] for name, values in inputs.items()}
            index = index + n_drawn * self.n_processes

    def _count_encoded(self) -> int:
        """Return how many batches to look up at once: as many as caches hold,
        and a part of those drawn in one go."""
        n_values = self.batch_size * (self.task.n_context + 1) * math.prod(self.task.bank.shape)
        wanted = max(1, self.n_looked_up // n_values)
        return max(
            number for number in range(1, self.n_ahead + 1) if number <= wanted and self.n_ahead % number == 0
        )


class SequenceRows(torch.utils.data.IterableDataset):
    """Endless training sequences one by one, in the order of their numbers, encoded: for a stock `Trainer`.

    `accelerate` deals the rows out to processes, whether the first one reads and sends them (its default) or
    each reads all and keeps its part (`dispatch_batches: False`); the sequences and their order over all
    processes are the same. A stock `Trainer` resumes by skipping batches, so sequences per step, over all
    devices, must stay as they were.

    Args:
        task: What to draw.
        start: Number of the first sequence.

    Raises:
        ConfigError: On iteration, if the `DataLoader` has workers: each would give all sequences again.

    >>> from hf_icl.task import Task
    >>> {name: tuple(value.shape) for name, value in next(iter(Task().stream())).items()}
    {'exemplars': (5, 64), 'context_answers': (4,), 'labels': ()}
    """

    def __init__(self, task: Drawable, start: int = 0) -> None:
        self.task, self.start = task, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            rule = "each worker would give all sequences again"
            hint = "Set it to 0: sequences are drawn many at a time, faster than workers send them."
            raise ConfigError("dataloader_num_workers", worker.num_workers, rule, hint)
        for batch in SequenceStream(self.task, ROWS_AT_ONCE, first=lambda: self.start, n_ahead=1):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
