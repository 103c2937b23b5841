"""Heads changed while a model learns: ablated, clamped to a pattern, kept from one, made sharper or flatter.

Axes: B sequences, H heads, P places, C context pairs.
"""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, NamedTuple, Self

import pydantic
import torch
from torch import Tensor, nn

from hf_icl.circuits.ablated import Ablation, Heads
from hf_icl.circuits.attention import Visitor, visit
from hf_icl.circuits.effects import count_heads
from hf_icl.circuits.heads import Layout
from hf_icl.circuits.instrument import find_layout
from hf_icl.config import MOST
from hf_icl.errors import ConfigError
from hf_icl.task.task import Task
from hf_icl.training.interventions.base import Action, Intervention

PatternName = Literal["previous_token", "induction"]
TINY = 1e-12


class HeadIntervention(Intervention):
    """An intervention on attention heads."""

    changes_attention: ClassVar[bool] = True

    heads: tuple[str, ...] = pydantic.Field(
        description="Which, counted from 0: L0H3 is head 3 of layer 0, L0 the whole layer."
    )

    @pydantic.model_validator(mode="after")
    def _check_heads(self) -> Self:
        Ablation(heads=self.heads)  # whose rules they share
        return self

    def bind(self, task: Task, model: nn.Module) -> Action:
        """Return what changes the heads of a model.

        Raises:
            ConfigError: If it has no such heads, or they cannot be changed so.
        """
        heads = Ablation(heads=self.heads).select(count_heads(task, model))
        action = Action()
        action.visitor = self.make_visitor(heads, task, model)
        with visit(model, action.visitor):  # refuses what the family does not let be changed
            pass
        return action

    @abc.abstractmethod
    def make_visitor(self, heads: Heads, task: Task, model: nn.Module) -> Visitor:
        """Return what changes these heads."""


class Ablate(HeadIntervention):
    """Heads whose outputs are replaced, before the output projection; no gradient reaches them.

    >>> Ablate(heads=["L0H1"], stop=500).how
    'zero'
    """

    kind: Literal["ablate"] = "ablate"
    how: Literal["zero", "mean", "resample"] = pydantic.Field(
        default="zero",
        description="By what: zero; mean: the mean, place by place, over the batch at hand; resample: what "
        "the sequence before in the batch gives.",
    )

    def make_visitor(self, heads: Heads, task: Task, model: nn.Module) -> Visitor:
        """Return what replaces the outputs."""
        return _Replace(heads, self.how)


class Clamp(HeadIntervention):
    """Heads whose attention is drawn to a pattern: A becomes (1 − strength) · A + strength · pattern.

    `previous_token`: labels attend to the exemplar before (interleaved places only). `induction`: the query
    attends to the places that show the right label, evenly; sequences whose context does not show it are left
    alone. Other places attend as ever. Right is the label that counts in training, and for an evaluator what
    counts there.

    >>> Clamp(heads=["L0"], pattern="previous_token").strength
    1.0
    """

    kind: Literal["clamp"] = "clamp"
    pattern: PatternName = pydantic.Field(description="previous_token or induction.")
    strength: float = pydantic.Field(default=1.0, gt=0, le=1, description="Share of the pattern.")

    def make_visitor(self, heads: Heads, task: Task, model: nn.Module) -> Visitor:
        """Return what clamps the attention."""
        return _Clamp(heads, self.pattern, task, model, self.strength)


class Forbid(HeadIntervention):
    """Heads that may not attend where a pattern of `Clamp` does: the rest is scaled up to sum to what it was.

    >>> Forbid(heads=["L1"], pattern="induction", start=100).stop is None
    True
    """

    kind: Literal["forbid"] = "forbid"
    pattern: PatternName = pydantic.Field(description="previous_token or induction.")

    def make_visitor(self, heads: Heads, task: Task, model: nn.Module) -> Visitor:
        """Return what takes the attention away."""
        return _Forbid(heads, self.pattern, task, model)


class Temperature(HeadIntervention):
    """Heads whose attention scores are divided by a temperature before the softmax.

    >>> Temperature(heads=["L1H0"], value=2.0).value
    2.0
    """

    kind: Literal["temperature"] = "temperature"
    value: float = pydantic.Field(gt=0, le=MOST, description="Above 1 attention is flatter, below 1 sharper.")

    def make_visitor(self, heads: Heads, task: Task, model: nn.Module) -> Visitor:
        """Return what scales the queries."""
        return _Scale(heads, 1 / self.value)


class _Replace(Visitor):
    def __init__(self, heads: Heads, how: str) -> None:
        self.heads, self.how = heads, how

    def take_output(self, layer: int, output: Tensor) -> Tensor:
        if layer not in self.heads:
            return output
        own = output[:, :, self.heads[layer]].detach()
        by = {"zero": torch.zeros_like, "mean": _mean_of_batch, "resample": _shift_batch}[self.how]
        return output.index_copy(2, _index(self.heads[layer], output), by(own))


def _mean_of_batch(output: Tensor) -> Tensor:
    return output.mean(0, keepdim=True).expand_as(output)


def _shift_batch(output: Tensor) -> Tensor:
    return output.roll(1, 0)


class _Scale(Visitor):
    needs_parts = True

    def __init__(self, heads: Heads, factor: float) -> None:
        self.heads, self.factor = heads, factor

    def take_parts(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if layer in self.heads:
            factors = query.new_ones(query.shape[1])
            factors[self.heads[layer]] = self.factor
            query = query * factors[:, None, None]
        return query, key, value


class Wanted(NamedTuple):
    """Where a pattern wants attention, for some sequences.

    Attributes:
        target_BPP: What each place should attend to; rows sum to 1, or to 0 where nothing is wanted.
        is_set_BP: Which places' rows are wanted so.
    """

    target_BPP: Tensor
    is_set_BP: Tensor


class _Patterned(Visitor, abc.ABC):
    """Knows where a pattern lies in the sequences that the model is being given."""

    needs_parts = True

    def __init__(
        self, heads: Heads, pattern: PatternName, task: Task, model: nn.Module, *more: float
    ) -> None:
        self.heads, self.pattern, self.task, self.more = heads, pattern, task, more
        self.layout = find_layout(task, model, task.n_context)
        if pattern == "previous_token" and self.layout.is_paired:
            rule = "exemplar and label share a place here, so that no label has an exemplar before it"
            raise ConfigError("pattern", pattern, rule, "Set model.places to interleaved.")

    @abc.abstractmethod
    def change(self, pattern_BHPP: Tensor, wanted: Wanted) -> Tensor:
        """Return the patterns of some heads as they shall be."""

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        if layer not in self.heads or (wanted := self._find(pattern)) is None:
            return pattern
        heads = self.heads[layer]
        changed = self.change(pattern[:, heads], wanted).to(pattern.dtype)
        return pattern.index_copy(1, _index(heads, pattern), changed)

    def _find(self, pattern_BHPP: Tensor) -> Wanted | None:
        n_places = pattern_BHPP.shape[-1]
        if self.pattern == "previous_token":
            target_PP = torch.zeros(n_places, n_places)
            target_PP[self.layout.labels, self.layout.exemplars] = 1
            target_BPP = target_PP[None].to(pattern_BHPP.device)
            return Wanted(target_BPP, target_BPP.sum(-1) > 0)
        if (labels := self.task.given) is None:
            return None
        return aim_at_label(*labels, self.layout, n_places)


def aim_at_label(context_BC: Tensor, target_B: Tensor, layout: Layout, n_places: int) -> Wanted:
    """Return the induction pattern: the query attends to the places with the right label, evenly.

    >>> from hf_icl.circuits.heads import lay_out
    >>> wanted = aim_at_label(torch.tensor([[4, 6, 4]]), torch.tensor([4]), lay_out(3, "paired"), 4)
    >>> wanted.target_BPP[0, 3].tolist(), wanted.is_set_BP.tolist()
    ([0.5, 0.0, 0.5, 0.0], [[False, False, False, True]])
    """
    is_right_BC = (context_BC == target_B[:, None]).float()
    share_BC = is_right_BC / is_right_BC.sum(1, keepdim=True).clamp_min(1)
    target_BPP = share_BC.new_zeros(len(share_BC), n_places, n_places)
    target_BPP[:, layout.answer, layout.labels.to(share_BC.device)] = share_BC
    return Wanted(target_BPP, target_BPP.sum(-1) > 0)


class _Clamp(_Patterned):
    def change(self, pattern_BHPP: Tensor, wanted: Wanted) -> Tensor:
        share_B1P1 = self.more[0] * wanted.is_set_BP[:, None, :, None]
        return pattern_BHPP + share_B1P1 * (wanted.target_BPP[:, None] - pattern_BHPP)


class _Forbid(_Patterned):
    def change(self, pattern_BHPP: Tensor, wanted: Wanted) -> Tensor:
        left_BHPP = pattern_BHPP.masked_fill(wanted.target_BPP[:, None] > 0, 0)
        before, after = pattern_BHPP.sum(-1, keepdim=True), left_BHPP.sum(-1, keepdim=True)
        return torch.where(
            wanted.is_set_BP[:, None, :, None], left_BHPP * (before / after.clamp_min(TINY)), pattern_BHPP
        )


def _index(heads: list[int], like: Tensor) -> Tensor:
    return torch.tensor(heads, device=like.device)
