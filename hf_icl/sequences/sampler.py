"""Draws sequences: the i-th of a stream is a function of (seed, stream, i) and of the specs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from hf_icl.errors import ConfigError
from hf_icl.philox import check_key, word_columns
from hf_icl.sequences.alias import AliasTable
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.drawing import Drawing, Pools
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.wording import render_table

CHUNK_WORDS = 1 << 18  # on a CPU, so that a chunk's columns stay in the cache
DEVICE_CHUNK_WORDS = 1 << 26


class Sampler:
    """Draw sequences of one spec, or of a mixture of specs, over a bank's classes.

    Args:
        specs: One spec, or several of one n_context, mixed by their weights.
        labels: int64 (n_classes, labels_per_class), the fixed labels; −1 for classes without. Of several
            labels of a class, each sequence draws one for all places of that class.
        class_pools: Class ids by pool name; a spec's Zipf ranks follow their order.
        exemplar_pools: Half-open range of exemplar numbers by pool name.
        seed: In [0, 2^64).
        stream: In [0, 2^32), different for training and each evaluator; see `philox.stream_of`.
        device: Where the draws are made and the batches lie. The numbers are the same on all.

    Raises:
        ConfigError: If the pools cannot satisfy a spec.

    >>> labels = torch.arange(100)[:, None]
    >>> pools = {"train": torch.arange(100)}
    >>> sampler = Sampler(SequenceSpec(), labels, pools, {"all": (0, 20)}, seed=0, stream=1)
    >>> batch = sampler.draw(0, 1000)
    >>> int((batch.class_ids[:, :-1] == batch.class_ids[:, -1:]).sum(1).min())
    3
    >>> torch.equal(batch.exemplar_ids[500:], sampler.draw(500, 500).exemplar_ids)
    True
    """

    def __init__(
        self,
        specs: SequenceSpec | Sequence[SequenceSpec],
        labels: torch.Tensor,
        class_pools: Mapping[str, torch.Tensor],
        exemplar_pools: Mapping[str, tuple[int, int]],
        *,
        seed: int,
        stream: int,
        device: str | torch.device = "cpu",
    ) -> None:
        check_key(seed, stream)
        if labels.ndim != 2:
            rule = "labels must have the shape (n_classes, labels_per_class)"
            raise ConfigError(
                "labels", tuple(labels.shape), rule, "For one label per class write labels[:, None]."
            )
        self.specs = [specs] if isinstance(specs, SequenceSpec) else list(specs)
        self.seed, self.stream, self.device = seed, stream, torch.device(device)
        self.n_context = _common_context(self.specs)
        self.has_noise = any(spec.noise for spec in self.specs)
        pools = Pools(labels, class_pools, exemplar_pools)
        self._drawings, weights = [], []
        for spec, bursty, weight in self._list_parts():
            self._drawings.append(self._bind(spec, pools, bursty))
            weights.append(weight)
        self.n_words = max(drawing.n_words for drawing in self._drawings)  # per sequence, redraws aside
        self._choice = AliasTable(
            torch.tensor(weights, dtype=torch.float64), torch.arange(len(weights)), self.device
        )

    def __repr__(self) -> str:
        specs = ", ".join(map(str, self.specs))
        return f"Sampler({specs}; seed {self.seed}, stream {self.stream}, {self.device})"

    def _repr_html_(self) -> str:
        total = sum(spec.weight for spec in self.specs)
        rows = [[str(spec), f"{spec.weight / total:.3g}"] for spec in self.specs]
        return render_table(["sequences", "share"], rows, repr(self))

    def _list_parts(self) -> Iterator[tuple[SequenceSpec, bool, float]]:
        for spec in self.specs:
            for bursty, share in ((True, spec.p_bursty), (False, 1 - spec.p_bursty)):
                if share > 0:
                    yield spec, bursty, share * spec.weight

    def _bind(self, spec: SequenceSpec, pools: Pools, bursty: bool) -> Drawing:
        try:
            return Drawing(spec, pools, bursty=bursty, seed=self.seed, stream=self.stream, device=self.device)
        except ConfigError as error:
            if len(self.specs) == 1:
                raise
            raise error.within(f"specs[{self.specs.index(spec)}]") from None

    def draw(self, start: int, count: int) -> SequenceBatch:
        """Return the sequences start, start + 1, …, start + count − 1."""
        if start < 0 or count < 0:
            raise ValueError(f"start = {start} and count = {count} must not be negative")
        return self._draw(torch.arange(start, start + count, device=self.device))

    def draw_at(self, index: torch.Tensor) -> SequenceBatch:
        """Return the sequences with the given numbers: int64 (batch,), each ≥ 0, in any order."""
        if index.ndim != 1 or index.dtype != torch.int64 or bool((index < 0).any()):
            raise ValueError("index must be int64 of shape (batch,), without negative numbers")
        return self._draw(index.to(self.device))

    def _draw(self, index: torch.Tensor) -> SequenceBatch:
        out = torch.empty(4, len(index), self.n_context + 1, dtype=torch.int64, device=self.device)
        noise = torch.empty(len(index) if self.has_noise else 0, device=self.device)
        chunk_words = CHUNK_WORDS if self.device.type == "cpu" else DEVICE_CHUNK_WORDS
        step = max(1, chunk_words // self.n_words)
        for start in range(0, len(index), step):
            chunk = slice(start, start + step)
            self._draw_chunk(index[chunk], out[:, chunk], noise[chunk])
        return SequenceBatch(index, *out, noise if self.has_noise else None, self.seed, self.stream)

    def _draw_chunk(self, index: torch.Tensor, out: torch.Tensor, noise: torch.Tensor) -> None:
        if len(self._drawings) == 1:
            self._drawings[0].draw_into(index, out)
            noise[:] = self._drawings[0].spec.noise
            return
        choice = self._choice.draw(word_columns(index, 1, seed=self.seed, stream=self.stream)[0])
        for number, drawing in enumerate(self._drawings):
            rows = (choice == number).nonzero().squeeze(1)
            part = torch.empty_like(out[:, : len(rows)])
            drawing.draw_into(index[rows], part)
            out[:, rows] = part
            if self.has_noise:
                noise[rows] = drawing.spec.noise


def _common_context(specs: Sequence[SequenceSpec]) -> int:
    lengths = sorted({spec.n_context for spec in specs})
    if len(lengths) != 1:
        rule = "a mixture needs at least one spec, and all of one context length"
        raise ConfigError("n_context", lengths, rule, "Give every spec the same n_context.")
    return lengths[0]
