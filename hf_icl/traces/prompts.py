"""How much of a model's in-context learning hangs on how it is prompted: templates × contexts × scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_icl.circuits.prompted import ROWS_AT_ONCE, SCORES, score_prompts, spread_labels
from hf_icl.errors import ConfigError
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.summary.intervals import bootstrap_hits
from hf_icl.task.forms import TokenForm
from hf_icl.task.prompt import Unstable, count_unstable
from hf_icl.task.task import Task
from hf_icl.task.written import TEMPLATES, PromptConfig

NAME = "prompts"  # of the evaluator that is asked
CONTEXTS = (4, 8, 16)


class Score(NamedTuple):
    """An accuracy.

    Attributes:
        value: Share of sequences that are answered rightly.
        low: Lower end of its 95 % interval over sequences.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PromptRow:
    """What a model does with prompts of one template and length.

    Attributes:
        prompt: How they are written.
        n_context: Pairs before the query.
        n_sequences: How many were asked.
        n_labels: Labels there are.
        scores: Name, see `SCORES`, to accuracy.
        label_spread: How far labels differ in the accuracy among the context's labels; see `spread_labels`.
        unstable: How many are other tokens when their text is read again; None without a tokenizer.
    """

    prompt: PromptConfig
    n_context: int
    n_sequences: int
    n_labels: int
    scores: dict[str, Score]
    label_spread: float
    unstable: Unstable | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "template": self.prompt.template,
            "written": str(self.prompt),
            "n_context": self.n_context,
            "n_sequences": self.n_sequences,
            "n_labels": self.n_labels,
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "label_spread": None if math.isnan(self.label_spread) else self.label_spread,
            "read_again_otherwise": None if self.unstable is None else self.unstable.count,
        }


def compare_prompts(
    task: Task,
    model: nn.Module,
    *,
    templates: Iterable[str] = tuple(TEMPLATES),
    contexts: Iterable[int] = CONTEXTS,
    n_sequences: int = 128,
) -> Iterator[PromptRow]:
    """Ask a model the sequences of `icl` in several templates and lengths; yields each row when it is there.

    Two classes share the context; their labels are drawn anew for every sequence from all there are, so that
    no two label tokens decide. All templates get the same sequences. Calibrated scores take from each label's
    logit what the label gets after the same context and `N/A` in the query's place.

    Args:
        task: Bank, seed and whatever else of the prompt: start, chat, texts of one's own.
        model: A causal language model, on the device where it is asked.
        templates: By name.
        contexts: Pairs before the query, each even and at least 2.
        n_sequences: Of each row.

    Raises:
        ConfigError: If the task gives vectors, a template or context is none, or a prompt cannot be written
            or is too long for the model.

    Source: contextual calibration by a content-free input, Zhao et al. 2021 (arXiv 2102.09690).
    """
    templates, contexts = list(templates), list(contexts)
    tasks = [
        _pose(task, template, n_context, n_sequences) for template in templates for n_context in contexts
    ]
    for one in tasks:
        one.check_model(model)
    for one in tasks:
        yield _measure(one, model)


def _pose(task: Task, template: str, n_context: int, n_sequences: int) -> Task:
    """Return a task that asks one evaluator, with the bank of another."""
    if not isinstance(task.form, TokenForm):
        rule = "is how a language model is asked, and this task gives vectors"
        raise ConfigError("prompt", template, rule, "Take a task in tokens form.")
    if n_context < 2 or n_context % 2:
        rule = "two classes share the context evenly"
        raise ConfigError("context", n_context, rule, "Take an even number from 2 on.")
    prompt = (task.config.prompt or PromptConfig()).to_dict() | {"template": template}
    spec = SequenceSpec(
        n_context=n_context, burst=n_context // 2, labels="remapped", n_remap=max(2, task.n_labels)
    )
    config = task.config.replace(
        train=spec,
        prompt=PromptConfig(**prompt),
        evaluators=(),
        extra_evaluators={NAME: spec},
        n_eval_sequences=n_sequences,
    )
    return Task(config, seed=task.seed, bank=task.bank)


def _measure(task: Task, model: nn.Module) -> PromptRow:
    batch = task.evaluators[NAME].batch
    starts = range(0, len(batch), ROWS_AT_ONCE)
    parts = [score_prompts(task, model, batch[start : start + ROWS_AT_ONCE]) for start in starts]
    hits = {name: torch.cat([part[name] for part in parts]) for name in SCORES}
    scores = {
        name: Score(values.double().mean().item(), *bootstrap_hits(values.numpy()))
        for name, values in hits.items()
    }
    unstable = count_unstable(task.bank, task.form.list_prompts(task.bank, batch.to(model.device)))
    prompt = task.config.prompt
    spread = spread_labels(hits["context"], batch.labels[:, -1])
    return PromptRow(prompt, task.n_context, len(batch), task.n_labels, scores, spread, unstable)
