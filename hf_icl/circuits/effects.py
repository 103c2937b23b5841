"""What heads are good for: a model's answers with some of them ablated, or with one path cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hf_icl.circuits.ablated import Ablation
from hf_icl.circuits.ablation import Predict, prepare
from hf_icl.circuits.attention import Visitor, visit
from hf_icl.circuits.path import DirectPath, cut
from hf_icl.summary.heads import name_head
from hf_icl.summary.intervals import bootstrap_band
from hf_icl.task.measuring import EVALUATION_BATCH, Evaluator, Reading, measure
from hf_icl.task.task import Task

Change = Ablation | DirectPath


@dataclass(frozen=True)
class Effect:
    """What a change does to a model's answers.

    Attributes:
        name: What it is called; the model as it is comes first, as `intact`.
        metrics: Means by metric name, under the change.
        changes: Of each evaluator's primary metric, how far it lies from the intact model's, and the ends of
            its 95 % bootstrap interval over sequences (each answered with and without the change).
    """

    name: str
    metrics: dict[str, float]
    changes: dict[str, tuple[float, float, float]]


@torch.no_grad()
def measure_effects(
    task: Task, model: nn.Module, changes: Mapping[str, Change], *, batch_size: int = EVALUATION_BATCH
) -> list[Effect]:
    """Put a task's evaluators to a model as it is, and under each of some changes.

    Costs as much as one evaluation per change, twice that where something is kept, taken from a mean or
    resampled.

    Args:
        task: Whose evaluators are asked.
        model: Any model with heads, see `hf_icl.circuits.visit`; its mode is left as it was.
        changes: Name to change.
        batch_size: Sequences per forward pass.

    Raises:
        ConfigError: If the model has no such heads, or cannot be changed so.

    >>> from hf_icl.task.config import TaskConfig
    >>> from hf_icl.models import ICLModel
    >>> small = {"kind": "gaussian", "n_classes": 16, "dim": 8, "n_labels": 4}
    >>> task = Task(TaskConfig(bank=small, n_eval_sequences=50, evaluators=["iwl"]))
    >>> model = ICLModel.from_backbone(None, task.bank, n_context=task.n_context)
    >>> [effect.name for effect in measure_effects(task, model, {"no layer 0": Ablation(heads=["L0"])})]
    ['intact', 'no layer 0']
    """
    task.check_model(model)
    counts = count_heads(task, model)
    was_training = model.training
    model.eval()
    try:
        intact = _ask(task, lambda evaluator: partial(task.predict, model), batch_size)
        found = [Effect("intact", intact.means, {})]
        for name, change in changes.items():
            if isinstance(change, DirectPath):
                with cut(model, change):
                    reading = _ask(task, lambda evaluator: partial(task.predict, model), batch_size)
            else:
                make = partial(prepare, task, model, change, change.select(counts), batch_size)
                reading = _ask(task, make, batch_size)
            found.append(Effect(name, reading.means, _compare(reading, intact)))
        return found
    finally:
        model.train(was_training)


def list_single_heads(counts: Mapping[int, int], how: str = "zero") -> dict[str, Ablation]:
    """Return the ablation of each head by itself.

    >>> list(list_single_heads({0: 2, 2: 1}))
    ['without L0H0', 'without L0H1', 'without L2H0']
    """
    names = [name_head(layer, head) for layer, count in counts.items() for head in range(count)]
    return {f"without {name}": Ablation(heads=(name,), how=how) for name in names}


def list_lone_heads(counts: Mapping[int, int], layer: int, how: str = "zero") -> dict[str, Ablation]:
    """Return, for each head of a layer, the ablation of all others of that layer.

    >>> list_lone_heads({0: 2, 1: 3}, 1)["L1H0 alone"].heads
    ('L1H1', 'L1H2')
    """
    names = [name_head(layer, head) for head in range(counts[layer])]
    return {
        f"{name} alone": Ablation(heads=tuple(other for other in names if other != name), how=how)
        for name in names
        if len(names) > 1
    }


@torch.no_grad()
def count_heads(task: Task, model: nn.Module) -> dict[int, int]:
    """Return how many heads each layer of a model has, by asking it one question of a task."""

    class Counter(Visitor):
        def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
            counts[layer] = pattern.shape[1]
            return pattern

    counts: dict[int, int] = {}
    with visit(model, Counter()):
        task.predict(model, task.train_sampler.draw(0, 1))
    return dict(sorted(counts.items()))


def _ask(task: Task, make_predict: Callable[[Evaluator], Predict], batch_size: int) -> Reading:
    found = Reading({}, {})
    for name, evaluator in task.evaluators.items():
        reading = measure({name: evaluator}, make_predict(evaluator), batch_size=batch_size)
        found.means.update(reading.means)
        found.hits.update(reading.hits)
    return found


def _compare(changed: Reading, intact: Reading) -> dict[str, tuple[float, float, float]]:
    found = {}
    for metric, hits in changed.hits.items():
        gaps = hits.double().numpy() - intact.hits[metric].double().numpy()
        low, high = bootstrap_band(gaps[:, None])
        found[metric] = (float(gaps.mean()), float(low[0]), float(high[0]))
    return found
