"""A task: a bank of exemplars, the sequences drawn from it, and the evaluators that ask how they are solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import pydantic
import torch
from torch import Tensor

from hf_icl.banks import Bank, BankConfig, GaussianConfig, load_bank
from hf_icl.config import Config, suggest
from hf_icl.errors import ConfigError
from hf_icl.evaluators import Evaluator, measure, standard_specs
from hf_icl.philox import normals, stream_of
from hf_icl.sampler import Sampler
from hf_icl.sequences import SequenceBatch, SequenceSpec

STANDARD_EVALUATORS = ("train", "icl", "icl_holdout", "iwl", "ciwl", "flip")


class TaskConfig(Config):
    """What is learned and what is asked."""

    bank: BankConfig = pydantic.Field(
        default_factory=GaussianConfig, description="Where exemplars come from."
    )
    train: SequenceSpec | tuple[SequenceSpec, ...] = pydantic.Field(
        default_factory=lambda: SequenceSpec(n_context=4, burst=1),
        description="How training sequences are drawn; a list is a mixture by weight.",
    )
    evaluators: tuple[str, ...] | None = pydantic.Field(
        None, description=f"Which of {', '.join(STANDARD_EVALUATORS)}; null: all that the bank allows."
    )
    extra_evaluators: dict[str, SequenceSpec] = pydantic.Field(
        default_factory=dict, description="Evaluators of your own: name to sequence spec."
    )
    n_eval_sequences: int = pydantic.Field(1000, ge=1, description="Sequences per evaluator, drawn once.")

    @property
    def train_specs(self) -> tuple[SequenceSpec, ...]:
        """The training mixture, one spec or more."""
        return self.train if isinstance(self.train, tuple) else (self.train,)

    @pydantic.model_validator(mode="after")
    def _check_evaluators(self) -> Self:
        for name in self.evaluators or ():
            if name not in STANDARD_EVALUATORS:
                raise ConfigError("evaluators", name, "no such evaluator", suggest(name, STANDARD_EVALUATORS))
        if taken := set(self.extra_evaluators) & set(STANDARD_EVALUATORS):
            raise ConfigError(
                "extra_evaluators", sorted(taken), "these names are taken", "Call yours otherwise."
            )
        longest = self.train_specs[0].n_context
        for name, spec in self.extra_evaluators.items():
            if spec.n_context > longest:
                rule = f"no evaluator may be longer than the training context of {longest}"
                raise ConfigError(f"extra_evaluators.{name}.n_context", spec.n_context, rule, "Shorten it.")
        return self


class Task:
    """A bank with its training sequences and evaluators: all that a model or a callback needs to know.

    Args:
        config: What to learn and to ask; the embedded default if left out.
        seed: Seed of the sequences, and of the bank where its config names none.
        bank: A bank of your own instead of `config.bank`.
        progress: Show a bar while a bank is fetched or decoded.

    Raises:
        ConfigError: If the bank cannot serve the sequences that are asked for.

    >>> task = Task(TaskConfig(bank={"kind": "gaussian", "n_classes": 16, "dim": 8, "n_labels": 4}))
    >>> batch = task.sampler().draw(start=0, count=3)
    >>> {name: tuple(value.shape) for name, value in task.encode(batch).items()}
    {'exemplars': (3, 5, 8), 'context_labels': (3, 4), 'labels': (3,)}
    """

    def __init__(
        self,
        config: TaskConfig | None = None,
        *,
        seed: int = 0,
        bank: Bank | None = None,
        progress: bool = False,
    ) -> None:
        self.config = config or TaskConfig()
        self.seed = seed
        self.bank = bank if bank is not None else load_bank(self.config.bank, seed=seed, progress=progress)
        self.train_sampler = self.sampler()  # drawn from at once, so that a bad spec fails here

    @property
    def n_labels(self) -> int:
        """Labels that a model chooses among."""
        return self.bank.n_labels

    @property
    def n_context(self) -> int:
        """Exemplar–label pairs before the query."""
        return self.config.train_specs[0].n_context

    @cached_property
    def specs(self) -> dict[str, tuple[SequenceSpec, ...]]:
        """Sequence specs by evaluator name; `train` is the training mixture."""
        available = {"train": self.config.train_specs}
        if self.n_context >= 2:
            available |= {name: (spec,) for name, spec in standard_specs(self.n_context).items()}
        if len(self.bank.class_pools["holdout"]) < 2:
            available.pop("icl_holdout", None)
        for name in self.config.evaluators or ():
            if name not in available:
                rule = (
                    "the bank has fewer than 2 holdout classes"
                    if self.n_context >= 2
                    else "the context has 1 place"
                )
                raise ConfigError("evaluators", name, rule, "Leave the evaluator out, or change the task.")
        chosen = self.config.evaluators or available
        own = {name: (spec,) for name, spec in self.config.extra_evaluators.items()}
        return {name: available[name] for name in chosen} | own

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """All evaluators, their sequences drawn from streams of their own."""
        count = self.config.n_eval_sequences
        return {
            name: Evaluator(name, specs[0], self.sampler(name).draw(0, count), self.n_labels)
            for name, specs in self.specs.items()
        }

    @cached_property
    def chance(self) -> dict[str, float]:
        """The level that guessing reaches, by metric name."""
        return {
            name: level
            for evaluator in self.evaluators.values()
            for name, level in evaluator.chance().items()
        }

    def sampler(self, evaluator: str | None = None, *, device: str | torch.device = "cpu") -> Sampler:
        """Return the sampler of the training sequences, or that of an evaluator.

        Evaluators draw from other streams than training, so `train` as an evaluator asks about fresh sequences.
        """
        specs = self.config.train_specs if evaluator is None else self.specs[evaluator]
        stream = stream_of("training" if evaluator is None else f"evaluator/{evaluator}")
        bank = self.bank
        try:
            return Sampler(
                specs,
                bank.labels,
                bank.class_pools,
                bank.exemplar_pools,
                seed=self.seed,
                stream=stream,
                device=device,
            )
        except ConfigError as error:
            raise error.within("train" if evaluator is None else f"evaluators.{evaluator}") from error

    def features(self, batch: SequenceBatch) -> Tensor:
        """Look up the exemplars of a batch, with the within-class noise that its spec asks for.

        Noise is normal, in units of the bank's root-mean-square feature, and a function of (seed, stream, index,
        place) alone: x' = (x + noise · scale · z) / sqrt(1 + noise²).

        Returns:
            float32 (n_sequences, n_context + 1, *shape), or int64 (n_sequences, n_context + 1) for a bank of ids.
        """
        exemplars = self.bank.lookup(batch.class_ids, batch.exemplar_ids)
        if batch.noise is None:
            return exemplars
        n_values = exemplars[0].numel()
        z = normals(batch.index, n_values, seed=batch.seed, stream=batch.stream)
        noise = batch.noise.view(-1, *[1] * (exemplars.ndim - 1))
        return (exemplars + noise * self.bank.scale * z.view_as(exemplars)) / (1 + noise.square()).sqrt()

    def encode(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Turn a batch of indices into what `ICLModel.forward` takes."""
        return {
            "exemplars": self.features(batch),
            "context_labels": batch.labels[:, :-1],
            "labels": batch.labels[:, -1],
        }

    def predict(self, model: torch.nn.Module, batch: SequenceBatch) -> Tensor:
        """Return a model's label logits at the query, shape (n_sequences, n_labels)."""
        inputs = self.to(model.device).encode(batch.to(model.device))
        return model(exemplars=inputs["exemplars"], context_labels=inputs["context_labels"]).logits

    def check_model(self, model: torch.nn.Module) -> None:
        """Raise `ConfigError` if a model that says how many labels its head has, has too few for this task."""
        n_labels = getattr(getattr(model, "config", None), "n_labels", self.n_labels)
        if n_labels < self.n_labels:
            rule = f"the head has fewer labels than the {self.n_labels} of the task's bank"
            hint = "Build the model with ICLModel.from_backbone(backbone, task.bank), or take another task."
            raise ConfigError("n_labels", n_labels, rule, hint)

    def to(self, device: str | torch.device) -> Self:
        """Move the bank, once, to the device where exemplars are looked up. Returns the task itself."""
        self.bank = self.bank.to(device)
        return self

    @torch.no_grad()
    def measure(
        self, model: torch.nn.Module, *, batch_size: int = 512
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Put all evaluators to a model, in evaluation mode, and leave its mode as it was.

        Returns:
            Means by metric name, and per-sequence hits of each evaluator's primary metric.

        Raises:
            ConfigError: If the model's head has too few labels.
        """
        self.check_model(model)
        was_training = model.training
        model.eval()
        try:
            return measure(self.evaluators, lambda batch: self.predict(model, batch), batch_size=batch_size)
        finally:
            model.train(was_training)

    def dataset(self, n_sequences: int) -> SequenceDataset:
        """Return the first `n_sequences` training sequences as a torch dataset, for a stock `Trainer`."""
        return SequenceDataset(self, n_sequences)

    def collate(self, rows: Sequence[SequenceBatch | Mapping[str, Any]]) -> dict[str, Tensor]:
        """Data collator for a stock `Trainer`: takes rows of `dataset()`, or of `load_dataset("hf_icl", …)`."""
        if not isinstance(rows[0], SequenceBatch):
            from hf_icl.data import batch_from_rows  # that module builds on this one

            rows = [batch_from_rows(rows, seed=self.seed, stream=stream_of("training"))]
        return self.to("cpu").encode(rows[0] if len(rows) == 1 else SequenceBatch.cat(rows))


class SequenceDataset(torch.utils.data.Dataset):
    """A map-style dataset whose i-th item is the i-th training sequence, drawn when it is asked for."""

    def __init__(self, task: Task, n_sequences: int) -> None:
        self.task, self.n_sequences = task, n_sequences

    def __len__(self) -> int:
        return self.n_sequences

    def __getitem__(self, index: int) -> SequenceBatch:
        if not 0 <= index < self.n_sequences:
            raise IndexError(f"sequence {index} of {self.n_sequences}")
        return self.task.train_sampler.draw(index, 1)

    def __getitems__(self, indices: Sequence[int]) -> list[SequenceBatch]:
        """Draw a whole batch at once; it stays one item, which `Task.collate` takes."""
        return [self.task.train_sampler.draw_at(torch.as_tensor(indices))]


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
