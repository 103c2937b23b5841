"""Asking a model: an evaluator's sequences, drawn once, its scores and its chance level;
and what any instrument gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hf_icl.distributed import map_spread
from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.spec import Role, SequenceSpec
from hf_icl.task.evaluators import choose_measure
from hf_icl.task.scoring import score

EVALUATION_BATCH = 512  # sequences handed to a model at a time
Measure = Callable[[SequenceBatch, Tensor], Tensor]
"""A measure of one's own: from sequences and label logits (n, n_labels) to values (n,), numbers or bool."""
CONTEXT_MEASURES = ("context_accuracy", "context_probability", "context_mass")


ANSWER = "answer"  # among an evaluator's results: no number of which there is a mean


class Answers(NamedTuple):
    """What a model answered to an evaluator's sequences, on the CPU.

    Attributes:
        labels: int64 (n_sequences,), the label with the largest logit, of those that the primary metric lets
            choose among: the context's for swapped labels, else all; −1 where logits are no numbers.
        probabilities: float32 (n_sequences,), of the right label among these.
    """

    labels: Tensor
    probabilities: Tensor


class _Pair(NamedTuple):
    means: dict[str, float]
    hits: dict[str, Tensor]


class Reading(_Pair):
    """What an instrument found; it unpacks into means and hits.

    Attributes:
        means: Metric name, as in `icl/accuracy`, to a number.
        hits: Metric name to per-sequence outcomes, bool (n_sequences,), from which intervals over sequences
            are computed; only where there are some.
        answers: Evaluator name to what the model answered.

    >>> means, hits = Reading({"mine/margin": 0.5}, {})
    >>> means
    {'mine/margin': 0.5}
    """

    def __new__(
        cls, means: dict[str, float], hits: dict[str, Tensor], answers: Mapping[str, Answers] | None = None
    ) -> Self:
        """Return what was found."""
        found = super().__new__(cls, means, hits)
        found.answers = dict(answers or {})
        return found


@dataclass(frozen=True)
class Evaluator:
    """One question put to a model: a fixed set of sequences and its scores.

    Attributes:
        name: What its metrics are called after, as in `icl/accuracy`.
        spec: How its sequences are drawn.
        batch: The sequences, drawn once.
        n_labels: Labels that the model chooses among.
        measures: Measures of one's own, by name, beside accuracy and the others.
    """

    name: str
    spec: SequenceSpec
    batch: SequenceBatch
    n_labels: int
    measures: Mapping[str, Measure] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Evaluator({self.primary}: {len(self.batch):,} sequences of {self.spec})"

    def _repr_html_(self) -> str:
        return self.batch.render_html(repr(self))

    @property
    def primary(self) -> str:
        """The metric to look at: in-context share for swapped labels, else accuracy over all labels."""
        return f"{self.name}/{choose_measure(self.spec)}"

    @property
    def chooses_in_context(self) -> bool:
        """Whether its primary metric lets a model choose among the labels of the context alone."""
        return choose_measure(self.spec) == "context_accuracy"

    @property
    def scores_context(self) -> bool:
        """Whether the right answer always stands in the context,
        so that choosing among its labels makes sense."""
        target, context = self.batch.labels[:, -1:], self.batch.labels[:, :-1]
        return bool((context == target).any(1).all())

    def chance(self) -> dict[str, float]:
        """Return the level that guessing reaches, per accuracy and probability metric."""
        levels = dict.fromkeys(("accuracy", "probability"), 1 / self.n_labels)
        if self.spec.labels == "swapped":
            levels["in_weights_accuracy"] = 1 / self.n_labels
        if self.scores_context:
            zeros = torch.zeros(len(self.batch), self.n_labels)
            guess = score(zeros, self.batch.labels[:, :-1].cpu(), self.batch.labels[:, -1].cpu())
            level = guess["context_chance"].mean().item()
            levels |= {"context_accuracy": level, "context_probability": level}
        return {f"{self.name}/{measure}": level for measure, level in levels.items()}

    def results(self, predict: Callable[[SequenceBatch], Tensor], part: slice) -> dict[str, Tensor]:
        """Score some of the sequences.

        Args:
            predict: Takes a `SequenceBatch`, returns label logits (n_sequences, n_labels).
            part: Which sequences.

        Returns:
            Metric name to per-sequence values, each of shape (n_sequences,), on the CPU; and what was
            answered, as `<evaluator>/answer`.
        """
        batch = self.batch[part]
        logits = predict(batch)
        labels = batch.labels.to(logits.device)
        scores = score(logits, labels[:, :-1], labels[:, -1])
        if self.spec.labels == "swapped":
            own = score(logits, labels[:, :-1], _swapped_away(batch).to(logits.device))
            scores["in_weights_accuracy"] = own["accuracy"]
        if self.chooses_in_context:
            scores[ANSWER] = scores["context_answer"]
        left_out = {"context_chance", "context_answer"}
        left_out |= set() if self.scores_context else set(CONTEXT_MEASURES)
        scores = {measure: values for measure, values in scores.items() if measure not in left_out}
        for measure, find in self.measures.items():
            scores[measure] = _check_values(find(batch, logits), f"{self.name}/{measure}", len(batch))
        return {f"{self.name}/{measure}": values.cpu() for measure, values in scores.items()}


def _check_values(values: object, name: str, n_sequences: int) -> Tensor:
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (n_sequences,) or values.is_complex():
        rule = f"must be a tensor with a number for each of the {n_sequences} sequences"
        raise ConfigError(f"measures.{name}", shape, rule, "Return values of shape (len(batch),).")
    return values.detach()


def _swapped_away(batch: SequenceBatch) -> Tensor:
    """Return the query's own label: with the two labels swapped, it stands on the distractor class."""
    place = (batch.roles == Role.DISTRACTOR).int().argmax(1, keepdim=True)
    return batch.labels.gather(1, place).squeeze(1)


def measure(
    evaluators: Mapping[str, Evaluator],
    predict: Callable[[SequenceBatch], Tensor],
    *,
    batch_size: int = EVALUATION_BATCH,
    spread: bool = False,
) -> Reading:
    """Put all evaluators to one model.

    Args:
        evaluators: What to ask.
        predict: Takes a `SequenceBatch`, returns label logits (n_sequences, n_labels).
        batch_size: Sequences handed to `predict` at a time.
        spread: Deal the work out to all processes of a training; every one must call, and gets all results.
            The parts are those of one process, so the results are the same.

    Returns:
        The mean of every metric; the per-sequence hits (bool) of each evaluator's primary metric, from which
        intervals over evaluation sequences are computed; and all answers.
    """
    jobs = [
        (evaluator, slice(start, start + batch_size))
        for evaluator in evaluators.values()
        for start in range(0, len(evaluator.batch), batch_size)
    ]

    def do(number: int) -> dict[str, Tensor]:
        evaluator, part = jobs[number]
        return evaluator.results(predict, part)

    done = map_spread(do, len(jobs)) if spread else [do(number) for number in range(len(jobs))]
    parts: dict[str, list[Tensor]] = {}
    for results in done:
        for name, values in results.items():
            parts.setdefault(name, []).append(values)
    whole = {name: torch.cat(values) for name, values in parts.items()}
    answers = {name: _take_answers(evaluator, whole) for name, evaluator in evaluators.items()}
    means = {name: values.double().mean().item() for name, values in whole.items()}
    own = {f"{evaluator.name}/{name}" for evaluator in evaluators.values() for name in evaluator.measures}
    wanted = {evaluator.primary for evaluator in evaluators.values()}
    wanted |= {name for name in own if whole[name].dtype == torch.bool}
    return Reading(means, {name: values for name, values in whole.items() if name in wanted}, answers)


def _take_answers(evaluator: Evaluator, results: dict[str, Tensor]) -> Answers:
    """Take an evaluator's answers out of what it has found."""
    share = "context_probability" if evaluator.chooses_in_context else "probability"
    labels = results.pop(f"{evaluator.name}/{ANSWER}")
    return Answers(labels, results[f"{evaluator.name}/{share}"].float())
