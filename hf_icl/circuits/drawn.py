"""The attention of a few sequences, for people to look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_icl.circuits.attention import Visitor, visit
from hf_icl.circuits.heads import Layout
from hf_icl.circuits.instrument import HeadInstrument, find_layout
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.spec import Role
from hf_icl.summary.heads import name_head
from hf_icl.task.task import Task

N_DRAWN = 2  # sequences of each evaluator


@torch.no_grad()
def draw_attention(task: Task, model: nn.Module, n_sequences: int = N_DRAWN) -> list[dict[str, Any]]:
    """Return where the query looks, in the first sequences of the evaluators that heads are measured on.

    Args:
        task: Whose sequences.
        model: In evaluation mode.
        n_sequences: Of each evaluator.

    Returns:
        Of each sequence, JSON types: its `evaluator`; `target`, the label that counts as right; `places`,
        each with `role`, None before the first exemplar, and `label`, None where it shows none; `attention`,
        head to the share that each place gets, three decimals.

    >>> from hf_icl.task.config import TaskConfig
    >>> from hf_icl.models import ICLModel
    >>> small = {"kind": "gaussian", "n_classes": 16, "dim": 8, "n_labels": 4}
    >>> task = Task(TaskConfig(bank=small, n_eval_sequences=50))
    >>> model = ICLModel.from_backbone(None, task.bank, n_context=task.n_context).eval()
    >>> first = draw_attention(task, model)[0]
    >>> first["evaluator"], [place["role"] for place in first["places"]].count("burst")
    ('icl', 2)
    >>> abs(sum(first["attention"]["L1H3"]) - 1) < 0.01
    True
    """
    found = []
    for evaluator in HeadInstrument().choose(task):
        batch, layout = evaluator.batch[:n_sequences], find_layout(task, model, task.n_context)
        looks = _Looks(layout.answer)
        with visit(model, looks):
            task.predict(model, batch)
        for row in range(len(batch)):
            shares = {
                name_head(layer, head): [round(value, 3) for value in values.tolist()]
                for layer, heads in sorted(looks.found.items())
                for head, values in enumerate(heads[row])
            }
            places = list_places(batch[row : row + 1], layout)
            target = int(batch.labels[row, -1])
            found.append(
                {"evaluator": evaluator.name, "target": target, "places": places, "attention": shares}
            )
    return found


def list_places(batch: SequenceBatch, layout: Layout) -> list[dict[str, Any]]:
    """Return role and label of each place of one sequence, up to that of the answer."""
    places: list[dict[str, Any]] = [{"role": None, "label": None} for _ in range(layout.answer + 1)]
    n_context = batch.labels.shape[1] - 1
    for number, (exemplar, label) in enumerate(
        zip(layout.exemplars.tolist(), layout.labels.tolist(), strict=True)
    ):
        role = Role(int(batch.roles[0, number])).name.lower()
        places[exemplar]["role"] = places[label]["role"] = role
        places[label]["label"] = int(batch.labels[0, number])
    places[layout.query]["role"] = Role(int(batch.roles[0, n_context])).name.lower()
    return places


class _Looks(Visitor):
    """Keeps the attention of the answer's place, (n_sequences, n_heads, places), by layer."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.found: dict[int, Tensor] = {}

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        self.found[layer] = pattern[:, :, self.answer, : self.answer + 1].float().cpu()
        return pattern
