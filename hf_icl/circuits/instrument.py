"""Heads measured like everything else: an instrument of `Task.measure`, by the name of `heads`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hf_icl.circuits.attention import Visitor, visit
from hf_icl.circuits.heads import Layout, lay_out, score_heads
from hf_icl.circuits.held import HeldText
from hf_icl.circuits.language import REPEATS, RepeatInstrument, TextInstrument
from hf_icl.circuits.prompted import PROMPT, PromptInstrument
from hf_icl.config import suggest
from hf_icl.distributed import map_spread
from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.summary.heads import INSTRUMENT, HeadMetric
from hf_icl.summary.intervals import bootstrap_band
from hf_icl.task.evaluators import FLIP_SHARE, ICL
from hf_icl.task.forms import TokenForm
from hf_icl.task.measuring import EVALUATION_BATCH, Evaluator, Reading
from hf_icl.task.phrases import PhraseForm
from hf_icl.task.task import Instrument, Task

Scores = dict[str, dict[int, Tensor]]  # score, layer: (n_sequences, n_heads)


@dataclass(frozen=True)
class HeadScores:
    """The scores of all heads on the sequences of one evaluator.

    Attributes:
        evaluator: Whose sequences.
        layers: The model's layers that have heads, in order.
        values: Score to float32 (n_sequences, n_layers, n_heads); not-a-number where a score is not defined.
    """

    evaluator: str
    layers: tuple[int, ...]
    values: dict[str, Tensor]

    def mean(self, score: str) -> np.ndarray:
        """Return a score's mean over the sequences that have it, float64 (n_layers, n_heads)."""
        return self.values[score].double().nanmean(0).numpy()

    def interval(self, score: str, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the mean's 95 % bootstrap interval over sequences, (n_layers, n_heads) each."""
        values = self.values[score].flatten(1)
        known = values[~values.isnan().all(1)].double().numpy()
        shape = self.values[score].shape[1:]
        if not len(known):
            return np.full(shape, np.nan), np.full(shape, np.nan)
        low, high = bootstrap_band(known, seed=seed)
        return low.reshape(shape), high.reshape(shape)

    def metrics(self) -> dict[str, float]:
        """Return the means as a history names them; those that are not defined are left out."""
        return {
            HeadMetric(score, self.evaluator, layer, head).name: float(value)
            for score in self.values
            for layer, row in zip(self.layers, self.mean(score), strict=True)
            for head, value in enumerate(row)
            if np.isfinite(value)
        }


@dataclass(frozen=True)
class HeadInstrument:
    """Measures all heads on the sequences of some evaluators; see `score_heads`.

    Patterns are scored layer by layer while the model runs and then dropped; of a batch at most one layer's
    are there at a time (of families that write their attention out themselves, all layers').

    Args:
        evaluators: Names; None: those that ask for ICL and for swapped labels, or of a task without them all
            whose contexts hold the right label.

    >>> from hf_icl.task.config import TaskConfig
    >>> from hf_icl.task.task import Task
    >>> from hf_icl.models import ICLModel
    >>> small = {"kind": "gaussian", "n_classes": 16, "dim": 8, "n_labels": 4}
    >>> task = Task(TaskConfig(bank=small, n_eval_sequences=50))
    >>> model = ICLModel.from_backbone(None, task.bank, n_context=task.n_context)
    >>> found = task.measure(model, instruments=[HeadInstrument()]).means
    >>> -1 <= found["heads/induction/icl/L1H7"] <= 1
    True
    """

    evaluators: tuple[str, ...] | None = None

    def __call__(self, task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
        """Return the means of all scores, under names such as `heads/induction/EVALUATOR/L1H3`."""
        found = self.measure(task, model, batch_size=batch_size, spread=spread)
        return Reading({name: value for scores in found for name, value in scores.metrics().items()}, {})

    @torch.no_grad()
    def measure(
        self, task: Task, model: nn.Module, *, batch_size: int = EVALUATION_BATCH, spread: bool = False
    ) -> list[HeadScores]:
        """Return the scores of every sequence, by evaluator. The model should be in evaluation mode.

        Raises:
            ConfigError: If the model has no heads to look into, or no evaluator fits.
        """
        chosen = self.choose(task)
        jobs = [
            (evaluator, slice(start, start + batch_size))
            for evaluator in chosen
            for start in range(0, len(evaluator.batch), batch_size)
        ]

        def do(number: int) -> Scores:
            evaluator, part = jobs[number]
            return score_batch(task, model, evaluator.batch[part])

        done = map_spread(do, len(jobs)) if spread else [do(number) for number in range(len(jobs))]
        of = {evaluator.name: [] for evaluator in chosen}
        for (evaluator, _), scores in zip(jobs, done, strict=True):
            of[evaluator.name].append(scores)
        return [_join(name, parts) for name, parts in of.items()]

    def choose(self, task: Task) -> list[Evaluator]:
        """Return the evaluators on whose sequences heads are measured.

        Raises:
            ConfigError: If the task has no such evaluator, or none fits.
        """
        known = task.evaluators
        for name in self.evaluators or ():
            if name not in known:
                raise ConfigError("evaluators", name, "the task has no such evaluator", suggest(name, known))
        chosen = [known[name] for name in self.evaluators or ()]
        chosen = chosen or [one for one in known.values() if one.primary in (ICL, FLIP_SHARE)]
        chosen = chosen or [one for one in known.values() if one.scores_context]
        if not chosen:
            rule = "in none of the task's evaluators does the context show the right label"
            raise ConfigError("evaluators", list(known), rule, "Add one such as a two-class evaluator.")
        return chosen


def score_batch(task: Task, model: nn.Module, batch: SequenceBatch) -> Scores:
    """Score all heads on some sequences; returns score, then layer, to (n_sequences, n_heads) on the CPU."""
    batch = batch.to(model.device)
    layout = find_layout(task, model, batch.labels.shape[1] - 1)
    scorer = _Scorer(layout, batch.labels[:, :-1], batch.labels[:, -1])
    with visit(model, scorer):
        task.predict(model, batch)
    return scorer.found


def find_layout(task: Task, model: nn.Module, n_context: int) -> Layout:
    """Return where the parts of a task's sequences stand among a model's places."""
    if isinstance(task.form, TokenForm):
        if isinstance(task.form, PhraseForm):
            rule = "heads are looked at where each exemplar and label is one token"
            hint = "Leave heads and interventions out, or take a bank of kind vocabulary."
            raise ConfigError("bank", task.bank.name, rule, hint)
        template = task.form.find_template(task.bank)
        exemplars, labels = template.exemplar_places(n_context), template.label_places(n_context)
        return Layout(exemplars[:-1], labels[:-1], int(exemplars[-1]), template.count_places(n_context) - 1)
    return lay_out(n_context, model.config.places)


class _Scorer(Visitor):
    """Keeps the scores of each layer, and no pattern."""

    def __init__(self, layout: Layout, context_labels: Tensor, target: Tensor) -> None:
        self.about = layout, context_labels, target
        self.found: Scores = {}

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        for name, values in score_heads(pattern, *self.about).items():
            self.found.setdefault(name, {})[layer] = values.cpu()
        return pattern


def _join(evaluator: str, parts: Sequence[Scores]) -> HeadScores:
    layers = tuple(sorted(next(iter(parts[0].values()))))
    values = {
        score: _stack(torch.cat([part[score][layer] for part in parts]) for layer in layers)
        for score in parts[0]
    }
    return HeadScores(evaluator, layers, values)


def _stack(layers: Iterable[Tensor]) -> Tensor:
    """Return (n_sequences, n_layers, n_heads); a layer with fewer heads than another is filled up."""
    layers = list(layers)
    most = max(values.shape[1] for values in layers)
    pad = nn.functional.pad
    return torch.stack([pad(v, (0, most - v.shape[1]), value=torch.nan) for v in layers], dim=1)


INSTRUMENTS: dict[str, Instrument] = {
    INSTRUMENT: HeadInstrument(),
    REPEATS: RepeatInstrument(),
    PROMPT: PromptInstrument(),
}
"""By the names that callbacks and configs know them by."""


def find_instruments(instruments: Iterable[Instrument | HeldText | str]) -> tuple[Instrument, ...]:
    """Return instruments, of which some are given by name, or as the held text that one reads.

    Raises:
        ConfigError: If a name is unknown.

    >>> find_instruments(["heads"])
    (HeadInstrument(evaluators=None),)
    """
    found = []
    for one in instruments:
        if isinstance(one, str):
            if one not in INSTRUMENTS:
                raise ConfigError("instruments", one, "no such instrument", suggest(one, INSTRUMENTS))
            one = INSTRUMENTS[one]
        elif isinstance(one, HeldText):
            one = TextInstrument(**one.to_dict())
        found.append(one)
    return tuple(found)
