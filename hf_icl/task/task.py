"""A task: a bank of exemplars, the sequences drawn from it,
and the evaluators that ask how they are solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from hf_icl.banks.bank import Bank
from hf_icl.banks.facts import describe_bank
from hf_icl.banks.kinds import load_bank
from hf_icl.config import Config, name_part, suggest
from hf_icl.errors import ConfigError
from hf_icl.memory import ask_for_memory
from hf_icl.philox import stream_of
from hf_icl.sequences.batch import SequenceBatch, batch_from_rows
from hf_icl.sequences.sampler import Sampler
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.task.choosing import choose_form, choose_specs
from hf_icl.task.config import TaskConfig
from hf_icl.task.datasets import SequenceDataset, SequenceRows
from hf_icl.task.forms import TokenForm, look_up
from hf_icl.task.measuring import EVALUATION_BATCH, Evaluator, Measure, Reading, measure
from hf_icl.task.scoring import MEASURES
from hf_icl.task.wrapped import see_through
from hf_icl.wording import render_table


class Instrument(Protocol):
    """Something that is measured of a model, such as what `ask_evaluators` asks.

    It is called with the model in evaluation mode and without gradients. With `spread`, all processes of a
    training call it, and each must get all results (`hf_icl.distributed.map_spread` deals work out).
    """

    def __call__(self, task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
        """Return what was found, under names `<instrument>/<measure>` that no other instrument uses."""


def ask_evaluators(task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
    """Put a task's evaluators to a model: the instrument that is always there."""
    return measure(
        task.evaluators, lambda batch: task.predict(model, batch), batch_size=batch_size, spread=spread
    )


class Task:
    """A bank with its training sequences and evaluators: all that a model or a callback needs to know.

    Args:
        config: What to learn and to ask; the embedded default if left out.
        seed: Seed of the sequences, and of the bank where its config names none.
        bank: A bank of your own instead of `config.bank`, such as `hf_icl.bank_from_numpy` makes.
        measures: Measures of your own beside accuracy and the others, `<evaluator>/<measure>` to a function
            from a `SequenceBatch` and label logits (n, n_labels) to a value per sequence (n,), numbers or
            bool. For sequences of your own name an evaluator in `config.extra_evaluators`.
        progress: Show a bar while a bank is fetched or decoded.

    Raises:
        ConfigError: If the bank cannot serve the sequences that are asked for.

    >>> task = Task(TaskConfig(bank={"kind": "gaussian", "n_classes": 16, "dim": 8, "n_labels": 4}))
    >>> batch = task.sampler().draw(start=0, count=3)
    >>> {name: tuple(value.shape) for name, value in task.encode(batch).items()}
    {'exemplars': (3, 5, 8), 'context_answers': (3, 4), 'labels': (3,)}
    """

    def __init__(
        self,
        config: TaskConfig | None = None,
        *,
        seed: int = 0,
        bank: Bank | None = None,
        measures: Mapping[str, Measure] | None = None,
        progress: bool = False,
    ) -> None:
        self.config = config or TaskConfig()
        self.seed = seed
        self.has_own_bank = bank is not None
        if bank is not None:
            _check_bank(bank)
        with name_part("bank"):
            self.bank = load_bank(self.config.bank, seed=seed, progress=progress) if bank is None else bank
        self.form = choose_form(self.config.form, self.bank, self._all_specs(), self.config.prompt)
        self.measures = dict(measures or {})
        self._check_measures()
        self.given: tuple[Tensor, Tensor] | None = None  # see `note`
        self._is_asking = False
        self._ask_for_memory()
        self.train_sampler = self.sampler()  # drawn from at once, so that a bad spec fails here

    def __repr__(self) -> str:
        specs = ", ".join(map(str, self.config.train_specs))
        form = self.form_name
        return f"Task({self.bank}; {specs} as {form}; asks {', '.join(self.specs)}; seed {self.seed})"

    def _repr_html_(self) -> str:
        rows = [
            [name, ", ".join(map(str, specs)), f"{self.chance[self.evaluators[name].primary]:.3g}"]
            for name, specs in self.specs.items()
        ]
        return render_table(["evaluator", "sequences", "chance"], rows, str(self))

    def _ask_for_memory(self) -> None:
        """Raise `ConfigError` if there is no room for the evaluators' sequences: ids, labels and roles."""
        n_places = sum(1 + specs[0].n_context for specs in self.specs.values())
        count = self.config.n_eval_sequences
        ask_for_memory(24 * count * n_places, "n_eval_sequences", count, f"{len(self.specs)} evaluators")

    @property
    def form_name(self) -> str:
        """How sequences reach a model: tokens or vectors."""
        return "tokens" if isinstance(self.form, TokenForm) else "vectors"

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
        return choose_specs(self.config, self.bank)

    def _check_measures(self) -> None:
        for name in self.measures:
            evaluator, _, measure = name.partition("/")
            if evaluator not in self.specs or not measure:
                hint = suggest(evaluator, self.specs)
                raise ConfigError(
                    "measures", name, "must be <evaluator>/<measure> of an evaluator here", hint
                )
            if measure in MEASURES:
                rule = "is measured already, in another way"
                raise ConfigError("measures", name, rule, "Call yours otherwise.")

    def describe(self) -> dict[str, Any]:
        """Return the config as JSON types, with the bank that is really used in its place."""
        config = self.config.to_dict()
        if not self.has_own_bank:
            return config
        return config | {"bank": describe_bank(self.bank) | {"kind": "own"}, "form": self.form_name}

    def _all_specs(self) -> list[SequenceSpec]:
        return [*self.config.train_specs, *self.config.extra_evaluators.values()]

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """All evaluators, their sequences drawn from streams of their own."""
        count = self.config.n_eval_sequences
        return {
            name: Evaluator(
                name, specs[0], self.sampler(name).draw(0, count), self.n_labels, self._measures_of(name)
            )
            for name, specs in self.specs.items()
        }

    def _measures_of(self, evaluator: str) -> dict[str, Measure]:
        prefix = f"{evaluator}/"
        return {
            name.removeprefix(prefix): find for name, find in self.measures.items() if name.startswith(prefix)
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

        Evaluators draw from other streams than training, so `train` as an evaluator asks about fresh
        sequences.
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
        """Look up the exemplars of a batch, with its noise; see `hf_icl.task.forms.look_up`."""
        return look_up(self.bank, batch)

    def encode(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Turn a batch of indices into what a model's forward takes, by the task's form."""
        return self.form.encode(self.bank, batch)

    def predict(self, model: nn.Module, batch: SequenceBatch) -> Tensor:
        """Return a model's label logits at the query, shape (n_sequences, n_labels)."""
        model = see_through(model)
        bank, batch = self.to(model.device).bank, batch.to(model.device)
        self.given, self._is_asking = (batch.labels[:, :-1], batch.labels[:, -1]), True
        try:
            return self.form.predict(bank, model, batch)
        finally:
            self.given, self._is_asking = None, False

    def note(self, inputs: Mapping[str, Any]) -> None:
        """Remember the labels of what a model is given in training, for whoever looks into it meanwhile.

        `given` holds the context's labels (n_sequences, n_context) and the one that counts as right
        (n_sequences,), in the form's own numbers; while a model is asked, those of the question; else None.
        """
        if not self._is_asking:
            self.given = self.form.read_labels(self.bank, inputs)

    def check_model(self, model: nn.Module) -> None:
        """Raise `ConfigError`, with what to do, if a model cannot be trained on this task or asked about
        it."""
        self.form.check_model(self.bank, see_through(model), self.n_context)

    def to(self, device: str | torch.device) -> Self:
        """Move the bank, once, to the device where exemplars are looked up. Returns the task itself."""
        self.bank = self.bank.to(device)
        return self

    @torch.no_grad()
    def measure(
        self,
        model: nn.Module,
        *,
        instruments: Sequence[Instrument] = (),
        batch_size: int = EVALUATION_BATCH,
        spread: bool = False,
    ) -> Reading:
        """Put all evaluators to a model, in evaluation mode, and leave its mode as it was.

        Args:
            model: Any model that `check_model` lets pass, also in what torch or accelerate wrap around one.
            instruments: What else to measure; see `Instrument`.
            batch_size: Sequences per forward pass.
            spread: Deal the work out to all processes of a training; every one must call, and gets all
                results.

        Returns:
            Means by metric name, per-sequence hits of each evaluator's primary metric and of what
            instruments give, and the answers to each evaluator.

        Raises:
            ConfigError: If the model's head has too few labels, or two instruments give one name.
        """
        model = see_through(model)
        self.check_model(model)
        was_training = model.training
        model.eval()
        try:
            found = Reading({}, {})
            for instrument in (ask_evaluators, *instruments):
                _add(found, instrument(self, model, batch_size=batch_size, spread=spread))
            return found
        finally:
            model.train(was_training)

    def dataset(self, n_sequences: int) -> SequenceDataset:
        """Return the first `n_sequences` training sequences as a torch dataset, for a stock `Trainer`.

        Also for `eval_dataset`, beside a `compute_metrics` of your own: of vectors it gets logits
        (n, n_labels) and the query's labels (n,).
        """
        return SequenceDataset(self, n_sequences)

    def stream(self, start: int = 0) -> SequenceRows:
        """Return the training sequences without end, from a number on, encoded, for a stock `Trainer`."""
        return SequenceRows(self, start)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Data collator for a stock `Trainer`: takes rows of `dataset()`,
        `stream()` or `load_dataset("hf_icl", …)`.

        Raises:
            ConfigError: If the trainer has dropped what a model's forward does not name, as it does with rows
                of `load_dataset`, and with all rows where the model is wrapped.
        """
        if "class_ids" not in rows[0]:
            if not rows[0].keys() & {"exemplars", "input_ids"}:
                rule = f"the trainer has dropped columns, and sequences are left with {sorted(rows[0])}"
                hint = (
                    "Set TrainingArguments(remove_unused_columns=False): the collator makes a model's inputs."
                )
                raise ConfigError("remove_unused_columns", True, rule, hint)
            return default_collate(rows)
        return self.to("cpu").encode(batch_from_rows(rows, seed=self.seed, stream=stream_of("training")))


def _check_bank(bank: object) -> None:
    if isinstance(bank, Bank):
        return
    hint = "Make one of an array with hf_icl.bank_from_numpy, of a data set with hf_icl.bank_from_dataset."
    if isinstance(bank, Config | Mapping):
        hint = "Put it into the config: Task(TaskConfig(bank=…))."
    rule = "is no Bank"
    raise ConfigError("bank", type(bank).__name__, rule, hint)


def _add(found: Reading, more: Reading) -> None:
    """Add what one instrument found to what the others did."""
    for name in more.means:
        if name in found.means or "/" not in name:
            rule = "must be <instrument>/<measure>, and of one instrument alone"
            raise ConfigError("instruments", name, rule, "Call it otherwise.")
    found.means.update({name: float(value) for name, value in more.means.items()})
    found.hits.update(more.hits)
    found.answers.update(more.answers)
