"""Draws the sequences of one spec over one pool of classes; `Sampler` mixes such drawings.

How the words of a sequence are shared out (blocks of four, see `philox`):

* block 0: left to the sampler's choice between drawings;
* from block 1: the classes slot by slot, the order of places, the exemplars, the remapped labels, the pasted
  place;
* block attempt * `MAX_SLOTS` + slot: the attempt-th redraw of a slot's class, when the one before was barred;
* block `POLYSEMY_BLOCK` + class: which of its labels a class has in this sequence.

A *slot* is a class to be drawn: 0 the query's, 1 the distractor's if there is one, then one per filler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from hf_icl.errors import ConfigError, HfIclError
from hf_icl.philox import POLYSEMY_BLOCK, distinct_below, uniform_below, word_columns
from hf_icl.sequences.alias import AliasTable
from hf_icl.sequences.order import PlaceOrder
from hf_icl.sequences.spec import Role, SequenceSpec

FIRST_BLOCK = 1
MAX_SLOTS = 4096
MAX_ATTEMPTS = POLYSEMY_BLOCK // MAX_SLOTS - 1
MIN_ACCEPTANCE = 0.01  # 0.99 ** MAX_ATTEMPTS is below 1e-17: no redraw that passed the check runs out


class Pools(NamedTuple):
    """What a drawing needs to know of a bank: see `Sampler` for the three fields."""

    labels: torch.Tensor
    class_pools: Mapping[str, torch.Tensor]
    exemplar_pools: Mapping[str, tuple[int, int]]


class Drawing:
    """One spec bound to a bank's pools, either with its burst or without (see `p_bursty`).

    Args:
        spec: What to draw.
        pools: The bank's labels, classes and exemplars.
        bursty: False for the sequences of the spec that have no burst.
        seed: In [0, 2^64).
        stream: In [0, 2^32).
        device: Where the draws are made.

    Raises:
        ConfigError: If the pools cannot satisfy the spec.
    """

    def __init__(
        self,
        spec: SequenceSpec,
        pools: Pools,
        *,
        bursty: bool,
        seed: int,
        stream: int,
        device: torch.device,
    ) -> None:
        self.spec, self.key = spec, {"seed": seed, "stream": stream}
        self.has_distractor = bool(bursty and spec.burst and spec.distractor)
        self.n_slots, self.burst = spec.n_slots(bursty), spec.burst if bursty else 0
        self.first_exemplar, stop = _find_pool(pools.exemplar_pools, "exemplars", spec.exemplars)
        self.n_exemplars = stop - self.first_exemplar
        pool = _find_pool(pools.class_pools, "classes", spec.classes).cpu()
        weights = torch.arange(1, len(pool) + 1, dtype=torch.float64) ** -spec.zipf
        if spec.ranks is not None:
            part = slice(*(round(share * len(pool)) for share in spec.ranks))
            pool, weights = pool[part], weights[part]
        self._check_pools(pool, pools.labels.cpu())
        self._check_acceptance(weights, pools.labels.cpu()[pool])
        self.classes = AliasTable(weights, pool, device)
        self.labels, self.labels_per_class = pools.labels.flatten().to(device), pools.labels.shape[1]

        fillers = range(1 + self.has_distractor, self.n_slots)
        copies = [self.burst] + [self.burst] * self.has_distractor + [1] * len(fillers)
        roles = [Role.BURST] + [Role.DISTRACTOR] * self.has_distractor + [Role.FILLER] * len(fillers)
        # Fillers are exchangeable, unless each bars the next from its class and some classes are likelier.
        alike = fillers if spec.fillers == "free" or spec.zipf == 0 else ()
        self.order = PlaceOrder(copies, alike=alike, device=device)
        self.roles = torch.tensor(roles, device=device)  # of each slot, in the context
        self.n_words = self.n_slots + self.order.n_words + spec.n_context + 1
        self.n_words += self.n_slots * (spec.labels == "remapped") + (spec.labels == "pasted")

    def draw_into(self, index: torch.Tensor, out: torch.Tensor) -> None:
        """Write class_ids, exemplar_ids, labels and roles into `out`, int64 (4, batch, n_context + 1)."""
        class_ids, exemplar_ids, labels, roles = out
        words = iter(word_columns(index, self.n_words, first_block=FIRST_BLOCK, **self.key))
        classes = self._draw_classes(index, words)
        slots = self.order.draw(words, len(index))
        torch.gather(torch.stack(classes, dim=1), 1, slots, out=class_ids)

        torch.take(self.roles, slots, out=roles)
        roles[:, -1] = Role.QUERY

        torch.stack([next(words) for _ in range(self.spec.n_context + 1)], dim=1, out=exemplar_ids)
        if self.spec.repeat_exemplars:
            exemplar_ids.mul_(self.n_exemplars).bitwise_right_shift_(32)
        else:
            exemplar_ids[:] = pick_different(exemplar_ids, class_ids, self.n_exemplars)
        exemplar_ids.add_(self.first_exemplar)
        if self.spec.matched_exemplars:
            exemplar_ids[:] = torch.where(roles == Role.BURST, exemplar_ids[:, -1:], exemplar_ids)

        torch.gather(torch.stack(self._draw_labels(index, classes, words), dim=1), 1, slots, out=labels)
        if self.spec.labels == "pasted":
            place = uniform_below(next(words), self.spec.n_context)
            labels.scatter_(1, place[:, None], labels[:, -1:].clone())

    def _draw_classes(self, index: torch.Tensor, words: Iterator[torch.Tensor]) -> list[torch.Tensor]:
        """Draw the slots one after the other, each again until it is not barred:
        p(c) / p(all that are allowed)."""
        drawn: list[torch.Tensor] = []
        for slot in range(self.n_slots):
            ids = self.classes.draw(next(words))
            rows = self._find_barred(slot, ids, index, drawn)
            for attempt in range(1, MAX_ATTEMPTS + 1):
                if not len(rows):
                    break
                block = attempt * MAX_SLOTS + slot
                fresh = self.classes.draw(word_columns(index[rows], 1, first_block=block, **self.key)[0])
                ids[rows] = fresh
                rows = rows[self._find_barred(slot, fresh, index[rows], [column[rows] for column in drawn])]
            if len(rows):
                raise HfIclError(f"no allowed class for slot {slot} in {MAX_ATTEMPTS} draws; {self.spec!r}")
            drawn.append(ids)
        return drawn

    def _find_barred(
        self, slot: int, ids: torch.Tensor, index: torch.Tensor, drawn: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the rows whose class may not stand beside those drawn before."""
        is_distractor = self.has_distractor and slot == 1
        barred = []
        if is_distractor or self.spec.fillers == "different":
            barred = [ids == other for other in drawn]
        if drawn and (self.spec.query == "absent" or (is_distractor and self.spec.labels == "swapped")):
            barred.append(self._fixed_labels(ids, index) == self._fixed_labels(drawn[0], index))
        if not barred:
            return torch.empty(0, dtype=torch.int64, device=ids.device)
        return torch.stack(barred).any(0).nonzero().squeeze(1)

    def _draw_labels(
        self, index: torch.Tensor, classes: list[torch.Tensor], words: Iterator[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return each slot's label (batch,); slots that drew the same class get the same one."""
        if self.spec.labels == "remapped":
            labels = distinct_below([next(words) for _ in classes], self.spec.n_remap)
            for slot, ids in enumerate(classes):
                for before in range(slot):
                    labels[slot] = torch.where(ids == classes[before], labels[before], labels[slot])
            return labels
        labels = [self._fixed_labels(ids, index) for ids in classes]
        if self.spec.labels != "swapped":
            return labels
        (query, distractor), (of_query, of_distractor) = classes[:2], labels[:2]
        return [
            torch.where(ids == query, of_distractor, torch.where(ids == distractor, of_query, own))
            for ids, own in zip(classes, labels, strict=True)
        ]

    def _fixed_labels(self, ids: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return the label that each class (batch,) has in its sequence."""
        if self.labels_per_class == 1:
            return self.labels.index_select(0, ids)
        words = word_columns(index, 1, first_block=POLYSEMY_BLOCK + ids, **self.key)[0]
        choice = uniform_below(words, self.labels_per_class)
        return self.labels.index_select(0, ids * self.labels_per_class + choice)

    def _check_pools(self, pool: torch.Tensor, labels: torch.Tensor) -> None:
        """Raise unless the pools hold enough classes, exemplars and labels."""
        spec, found, n_labels = self.spec, _describe(self.spec, pool), int(labels.max()) + 1
        n_needed = (
            self.n_slots
            if spec.fillers == "different"
            else 1 + (self.has_distractor or spec.query == "absent")
        )
        if len(pool) < n_needed:
            rule = f"too few classes: a sequence needs {n_needed} different ones"
            raise ConfigError("classes", found, rule, "Take a bank with more classes, or a shorter context.")
        if self.n_exemplars < 1:
            rule = "the pool holds no exemplars"
            raise ConfigError(
                "exemplars", spec.exemplars, rule, "Split the bank so that it does, or take all."
            )
        if not spec.repeat_exemplars and self.n_exemplars < (n_most := self._count_most()):
            rule = f"one class may fill {n_most} places, and each needs an exemplar of its own"
            hint = "Take a bank with more exemplars, set fillers=different, or allow repeat_exemplars."
            raise ConfigError("repeat_exemplars", False, rule, hint)
        if spec.labels == "remapped" and 0 < n_labels < spec.n_remap:
            rule = f"remapped labels must be among the bank's {n_labels} labels"
            raise ConfigError(
                "n_remap", spec.n_remap, rule, f"Set n_remap ≤ {n_labels}, or take more labels."
            )
        if spec.labels != "remapped" and bool((labels[pool] < 0).any()):
            rule = "some classes of the pool have no fixed label"
            raise ConfigError("classes", found, rule, "Set labels=remapped, or give every class a label.")

    def _count_most(self) -> int:
        """Return how many places, the query's among them, one class can fill."""
        n_fillers = self.n_slots - 1 - self.has_distractor
        if self.spec.fillers == "different":
            return 1 + self.burst
        return max(1, n_fillers) if self.spec.query == "absent" else 1 + self.burst + n_fillers

    def _check_acceptance(self, weights: torch.Tensor, labels: torch.Tensor) -> None:
        """Raise if some sequence would leave too little probability to the classes that are still allowed."""
        spec, own = self.spec, torch.arange(len(weights))[:, None]
        least = 1.0
        if self.has_distractor:
            least = least_acceptance(weights, labels if spec.labels == "swapped" else own, 0)
        if self.n_slots > 1 + self.has_distractor and (spec.fillers == "different" or spec.query == "absent"):
            n_others = self.n_slots - 2 if spec.fillers == "different" else 0
            least = min(least, least_acceptance(weights, labels if spec.query == "absent" else own, n_others))
        if least < MIN_ACCEPTANCE:
            rule = (
                "beside the classes of a sequence, those still allowed must keep a probability of "
                f"{MIN_ACCEPTANCE:.0%}, and here it can fall to {max(least, 0):.2%} (other classes, labels "
                "or both)"
            )
            hint = "Lower zipf, take more classes or labels, shorten the context, or set fillers=free."
            raise ConfigError("classes", _describe(spec, weights), rule, hint)


def pick_different(words: torch.Tensor, class_ids: torch.Tensor, n_exemplars: int) -> torch.Tensor:
    """Return an exemplar for each place, none of them twice in one class of a sequence.

    A place picks uniformly among the exemplars that no earlier place of its class shows.

    Args:
        words: int64 (batch, n_places), each in [0, 2^32).
        class_ids: int64 (batch, n_places).
        n_exemplars: Of each class; no class may fill more places.

    >>> pick_different(torch.tensor([[0, 0, 0, 2**32 - 1]]), torch.tensor([[5, 5, 7, 5]]), 4).tolist()
    [[0, 1, 0, 3]]
    """
    picks = torch.empty_like(words)
    for place in range(words.shape[1]):
        same = class_ids[:, :place] == class_ids[:, place : place + 1]
        pick = words[:, place] * (n_exemplars - same.sum(1)) >> 32  # among those left over, in their order
        taken = torch.where(same, picks[:, :place], n_exemplars).sort(dim=1).values
        for earlier in range(place):
            pick = pick + (pick >= taken[:, earlier])
        picks[:, place] = pick
    return picks


def least_acceptance(weights: torch.Tensor, labels: torch.Tensor, n_others: int) -> float:
    """Return the smallest probability that a class avoids one label and `n_others` further classes.

    Args:
        weights: Floats, shape (n_classes,), in proportion to the classes' probabilities.
        labels: int64 (n_classes, labels_per_class), all ≥ 0.
        n_others: Classes to avoid that do not have the label.

    >>> round(least_acceptance(torch.ones(10), torch.arange(10)[:, None], 2), 6)
    0.7
    >>> round(least_acceptance(torch.ones(10), torch.arange(10)[:, None] // 5, 2), 6)
    0.3
    """
    p = weights.to(torch.float64) / weights.to(torch.float64).sum()
    mass = torch.zeros(int(labels.max()) + 1, dtype=torch.float64)
    for column in range(labels.shape[1]):
        is_new = (labels[:, :column] != labels[:, column : column + 1]).all(1)
        mass.index_add_(0, labels[:, column], p * is_new)
    top = p.topk(min(n_others, len(p)))
    near_top = labels[top.indices].unique()
    far = mass.clone()
    far[near_top] = 0
    least = 1.0 - float(far.max() + top.values.sum())
    for label in near_top:  # some of the likeliest classes have this label: the others come from further down
        rest = p[(labels != label).all(1)]
        least = min(least, 1.0 - float(mass[label] + rest.topk(min(n_others, len(rest))).values.sum()))
    return least


def _describe(spec: SequenceSpec, pool: torch.Tensor) -> str:
    return f"{spec.classes} ({len(pool)} in the pool)"


def _find_pool(pools: Mapping, field: str, name: str):
    if name not in pools:
        raise ConfigError(field, name, "the bank has no such pool", f"It has: {', '.join(pools)}.")
    return pools[name]
