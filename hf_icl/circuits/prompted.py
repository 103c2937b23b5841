"""What a language model answers where it may say anything, and what it would say anyhow: the instrument
`prompt`.

`icl/accuracy` lets a model choose among the labels of the bank; a person who prompts it gets the likeliest of
all tokens. Both stand in the same rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_icl.circuits.language import LanguageInstrument
from hf_icl.distributed import map_spread
from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.task.evaluators import EVALUATORS, ICL
from hf_icl.task.measuring import Reading
from hf_icl.task.prompt import write_nothing
from hf_icl.task.scoring import score
from hf_icl.task.task import Task

PROMPT = "prompt"
ASKED = ICL.partition("/")[0]  # whose sequences
SCORES = {
    "context": "of the context's labels",
    "context_calibrated": "the same, calibrated",
    "labels": "of all labels",
    "labels_calibrated": "the same, calibrated",
    "whole_vocabulary": "of the whole vocabulary",
}
"""What counts as right, by name: the answer is the largest of these."""
MEASURED = {
    "vocabulary_accuracy": "whole_vocabulary",
    "calibrated_accuracy": "labels_calibrated",
    "calibrated_context_accuracy": "context_calibrated",
}
"""What the instrument measures, and which score it is; the others are `icl/context_accuracy` and
`icl/accuracy`."""
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class PromptInstrument(LanguageInstrument):
    """The answers to `icl`'s sequences in the whole vocabulary, and calibrated by the labels' prior.

    - `prompt/vocabulary_accuracy`: the right label's first token, or all of them, are the likeliest of all.
    - `prompt/calibrated_accuracy`, `prompt/calibrated_context_accuracy`: of all labels and of the context's,
      each label's logit less what it gets after the same context with ` N/A` for the query.
    - `prompt/label_spread`: how far labels differ in the accuracy among the context's labels; see
      `spread_labels`.

    Source: calibration by a content-free input, Zhao et al. 2021 (arXiv 2102.09690).
    """

    def __call__(self, task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
        """Return the scores; no spread where too few labels were asked twice.

        Raises:
            ConfigError: If the model reads no tokens, the task does not ask for ICL, or its tokenizer cannot
                write ` N/A`.
        """
        self.check(task, model)
        batch = task.evaluators[ASKED].batch
        rows = min(batch_size, ROWS_AT_ONCE)
        parts = [batch[start : start + rows] for start in range(0, len(batch), rows)]

        def do(number: int) -> dict[str, Tensor]:
            return score_prompts(task, model, parts[number])

        done = map_spread(do, len(parts)) if spread else [do(number) for number in range(len(parts))]
        hits = {name: torch.cat([part[name] for part in done]) for name in SCORES}
        means = {name: hits[which].double().mean().item() for name, which in MEASURED.items()}
        apart = spread_labels(hits["context"], batch.labels[:, -1])
        means |= {} if math.isnan(apart) else {"label_spread": apart}
        return Reading({f"{PROMPT}/{name}": value for name, value in means.items()}, {})

    def check(self, task: Task, model: nn.Module) -> None:
        """Raise `ConfigError` if the task's ICL cannot be asked so."""
        self.check_reads_tokens(task, PROMPT)
        if ASKED not in task.specs:
            rule = f"takes the sequences of {ASKED}, and the task does not ask for it"
            raise ConfigError(
                f"evaluate.{PROMPT}", True, rule, f"Name it in task.evaluators: {EVALUATORS[ASKED].title}."
            )
        write_nothing(task.bank)


@torch.no_grad()
def score_prompts(task: Task, model: nn.Module, batch: SequenceBatch) -> dict[str, Tensor]:
    """Return whether each sequence is answered rightly, by score: bool (n_sequences,) each, on the CPU."""
    batch = batch.to(model.device)
    form, bank = task.form, task.to(model.device).bank
    answers = form.read_answers(bank, model, batch)
    prior = form.read_answers(bank, model, batch, content_free=True)
    context, target = batch.labels[:, :-1], batch.labels[:, -1]
    plain = score(answers.labels, context, target)
    calibrated = score(answers.labels - prior.labels, context, target)
    found = {
        "context": plain["context_accuracy"],
        "context_calibrated": calibrated["context_accuracy"],
        "labels": plain["accuracy"],
        "labels_calibrated": calibrated["accuracy"],
        "whole_vocabulary": answers.is_first.gather(1, target[:, None]).squeeze(1),
    }
    return {name: hits.cpu() for name, hits in found.items()}


def spread_labels(hits: Tensor, target: Tensor) -> float:
    """Return how far labels differ in accuracy: the standard deviation over labels, without what chance
    adds.

    The variance of the labels' accuracies, each over the sequences to which it is the right answer, less the
    mean of their sampling variances, 0 where that is more; not-a-number with fewer than two labels asked
    twice.

    Args:
        hits: Whether each sequence was answered rightly, bool (n_sequences,).
        target: The right label of each, int64 (n_sequences,).

    >>> always = torch.tensor([True, True, False, False])
    >>> round(spread_labels(always, torch.tensor([0, 0, 1, 1])), 4)  # one label always, one never
    0.7071
    >>> spread_labels(torch.tensor([True, False, True, False]), torch.tensor([0, 0, 1, 1]))
    0.0
    """
    counts = target.cpu().bincount()
    right = target.cpu().bincount(weights=hits.cpu().double())
    counts, right = counts[counts > 1].double(), right[counts > 1]
    if len(counts) < 2:
        return float("nan")
    shares = right / counts
    by_chance = (shares * (1 - shares) / (counts - 1)).mean()
    return float((shares.var() - by_chance).clamp(min=0).sqrt())
