"""Heads ablated: a model's answers with their outputs replaced, and parts of later layers kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hf_icl.circuits.ablated import Ablation, Heads
from hf_icl.circuits.attention import Visitor, visit
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.task.measuring import Evaluator
from hf_icl.task.task import Task

PARTS = ("queries", "keys", "values")
Predict = Callable[[SequenceBatch], Tensor]


def prepare(
    task: Task, model: nn.Module, ablation: Ablation, heads: Heads, batch_size: int, evaluator: Evaluator
) -> Predict:
    """Return what answers an evaluator's sequences under an ablation.

    Args:
        task: Whose forms put sequences to the model.
        model: In evaluation mode.
        ablation: What is replaced by what.
        heads: What `ablation.select` found.
        batch_size: Sequences per forward pass while means and what is resampled are recorded.
        evaluator: Whose sequences these are.
    """
    reference = {}
    if ablation.how != "zero":
        reference = _record_outputs(task, model, heads, evaluator.batch, batch_size)
    if ablation.how == "mean":
        reference = {layer: outputs.mean(0) for layer, outputs in reference.items()}
    partner = pair_up(len(evaluator.batch)) if ablation.how == "resample" else None

    def predict(batch: SequenceBatch) -> Tensor:
        kept = _record_parts(task, model, heads, ablation.keep, batch) if ablation.keep else {}
        rows = ... if partner is None else partner[batch.index.cpu()]
        replaced = {layer: outputs[rows].to(model.device) for layer, outputs in reference.items()}
        with visit(model, _Edit(heads, replaced, kept)):
            return task.predict(model, batch)

    return predict


def pair_up(n_sequences: int) -> Tensor:
    """Return for each sequence the number of another one, (n_sequences,): the next in a random circle."""
    circle = torch.from_numpy(np.random.default_rng(0).permutation(n_sequences))
    partner = torch.empty(n_sequences, dtype=torch.int64)
    partner[circle] = circle.roll(-1)
    return partner


class _Edit(Visitor):
    """Replaces heads' outputs, and puts back what is kept of an intact pass over the same sequences."""

    def __init__(self, heads: Heads, replaced: Mapping[int, Tensor], kept: Mapping) -> None:
        self.heads, self.replaced, self.kept = heads, replaced, kept
        self.needs_parts = bool(kept)

    def take_parts(self, layer: int, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.kept.get((name, layer), part) for name, part in zip(PARTS, parts, strict=True))

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        return self.kept.get(("patterns", layer), pattern)

    def take_output(self, layer: int, output: Tensor) -> Tensor:
        if layer not in self.heads:
            return output
        output = output.clone()
        output[:, :, self.heads[layer]] = self.replaced.get(layer, output.new_zeros(()))
        return output


class PartRecorder(Visitor):
    """Keeps queries, keys, values or patterns of all layers after one."""

    needs_parts = True

    def __init__(self, names: Iterable[str], after: int) -> None:
        self.names, self.after = set(names), after
        self.found: dict[tuple[str, int], Tensor] = {}

    def take_parts(self, layer: int, *parts: Tensor) -> tuple[Tensor, ...]:
        self._keep(layer, zip(PARTS, parts, strict=True))
        return parts

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        self._keep(layer, [("patterns", pattern)])
        return pattern

    def _keep(self, layer: int, parts: Iterable[tuple[str, Tensor]]) -> None:
        if layer > self.after:
            self.found |= {(name, layer): part for name, part in parts if name in self.names}


def _record_parts(
    task: Task, model: nn.Module, heads: Heads, names: Iterable[str], batch: SequenceBatch
) -> dict[tuple[str, int], Tensor]:
    recorder = PartRecorder(names, after=max(heads))
    with visit(model, recorder):
        task.predict(model, batch)
    return recorder.found


class _OutputRecorder(Visitor):
    """Keeps the outputs of some heads, batch by batch."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.found: dict[int, list[Tensor]] = {layer: [] for layer in heads}

    def take_output(self, layer: int, output: Tensor) -> Tensor:
        if layer in self.heads:
            self.found[layer].append(output[:, :, self.heads[layer]].cpu())
        return output


def _record_outputs(
    task: Task, model: nn.Module, heads: Heads, batch: SequenceBatch, batch_size: int
) -> dict[int, Tensor]:
    """Return what heads give in the intact model, by layer, (n_sequences, places, heads, head width)."""
    recorder = _OutputRecorder(heads)
    with visit(model, recorder):
        for start in range(0, len(batch), batch_size):
            task.predict(model, batch[start : start + batch_size])
    return {layer: torch.cat(parts) for layer, parts in recorder.found.items()}
