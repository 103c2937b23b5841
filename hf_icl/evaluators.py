"""Evaluators: named sequence specs, drawn once from a stream of their own, with what counts as right and by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_icl.processes import map_spread
from hf_icl.scoring import score
from hf_icl.sequences import Role, SequenceBatch, SequenceSpec

CONTEXT_MEASURES = ("context_accuracy", "context_probability", "context_mass")


@dataclass(frozen=True)
class Evaluator:
    """One question put to a model: a fixed set of sequences and its scores.

    Attributes:
        name: What its metrics are called after, as in `icl/accuracy`.
        spec: How its sequences are drawn.
        batch: The sequences, drawn once.
        n_labels: Labels that the model chooses among.
    """

    name: str
    spec: SequenceSpec
    batch: SequenceBatch
    n_labels: int

    @property
    def primary(self) -> str:
        """The metric to look at: in-context share for swapped labels, else accuracy over all labels."""
        return f"{self.name}/{'context_accuracy' if self.spec.labels == 'swapped' else 'accuracy'}"

    @property
    def scores_context(self) -> bool:
        """Whether the right answer always stands in the context, so that choosing among its labels makes sense."""
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
            Metric name to per-sequence values, each of shape (n_sequences,), on the CPU.
        """
        batch = self.batch[part]
        logits = predict(batch)
        labels = batch.labels.to(logits.device)
        scores = score(logits, labels[:, :-1], labels[:, -1])
        if self.spec.labels == "swapped":
            scores["in_weights_accuracy"] = logits.argmax(1) == _swapped_away(batch).to(logits.device)
        left_out = {"context_chance"} | (set() if self.scores_context else set(CONTEXT_MEASURES))
        return {
            f"{self.name}/{measure}": values.cpu()
            for measure, values in scores.items()
            if measure not in left_out
        }


def _swapped_away(batch: SequenceBatch) -> Tensor:
    """Return the query's own label: with the two labels swapped, it stands on the distractor class."""
    place = (batch.roles == Role.DISTRACTOR).int().argmax(1, keepdim=True)
    return batch.labels.gather(1, place).squeeze(1)


def standard_specs(n_context: int) -> dict[str, SequenceSpec]:
    """Return the evaluators of the transience literature that have a spec of their own (all but `train`).

    Args:
        n_context: Context length of the training sequences, at least 2. An odd one is rounded down where two
            classes share the context.

    Returns:
        - `icl`: 2 classes with n_context/2 shots each, their labels remapped at random to {0, 1}.
        - `icl_holdout`: the same on classes that training never shows.
        - `iwl`: the query's class and label are absent, so only the weights can know.
        - `ciwl`: the query's class is absent, its label pasted on a random context exemplar.
        - `flip`: the labels of the two classes are swapped; the in-context answer counts as right.

    Source: Singh et al. 2023 (arXiv 2311.08360) and 2025 (arXiv 2503.05631).

    >>> sorted(standard_specs(4))
    ['ciwl', 'flip', 'icl', 'icl_holdout', 'iwl']
    >>> standard_specs(4)["icl"].burst
    2
    """
    shots = n_context // 2
    two_classes = SequenceSpec(n_context=2 * shots, burst=shots, distractor=True)
    alone = SequenceSpec(n_context=n_context, burst=0, distractor=False, fillers="different", query="absent")
    return {
        "icl": two_classes.replace(labels="remapped", n_remap=2),
        "icl_holdout": two_classes.replace(labels="remapped", n_remap=2, classes="holdout"),
        "iwl": alone,
        "ciwl": alone.replace(labels="pasted"),
        "flip": two_classes.replace(labels="swapped"),
    }


def measure(
    evaluators: Mapping[str, Evaluator],
    predict: Callable[[SequenceBatch], Tensor],
    *,
    batch_size: int = 512,
    spread: bool = False,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Put all evaluators to one model.

    Args:
        evaluators: What to ask.
        predict: Takes a `SequenceBatch`, returns label logits (n_sequences, n_labels).
        batch_size: Sequences handed to `predict` at a time.
        spread: Deal the work out to all processes of a training; every one must call, and gets all results. The parts
            are those of one process, so the results are the same.

    Returns:
        The mean of every metric, and the per-sequence hits (bool) of each evaluator's primary metric, from which
        intervals over evaluation sequences are computed.
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
    means = {name: values.double().mean().item() for name, values in whole.items()}
    return means, {evaluator.primary: whole[evaluator.primary] for evaluator in evaluators.values()}
