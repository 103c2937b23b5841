"""How a family of sequences is drawn, the roles of their places, and how many places a model sees."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal, Self

import pydantic

from hf_icl.config import MOST_CLASSES, Config
from hf_icl.errors import ConfigError


class Role(IntEnum):
    """Why an exemplar stands at its place; the numbers in `SequenceBatch.roles`."""

    BURST = 0
    """A context place of the query's class, put there by `burst`."""
    DISTRACTOR = 1
    """A context place of the distractor class."""
    FILLER = 2
    """A context place drawn for itself; with `fillers="free"` its class may be any."""
    QUERY = 3
    """The last place, whose label is asked for."""


Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class SequenceSpec(Config):
    """How one family of sequences is drawn: `n_context` exemplars with labels in random order,
    then the query.

    The defaults are the training sequences of the transience paper: three places of the query's class, three
    of a distractor class, two fillers, labels fixed per class.

    Source: Singh et al. 2023 (arXiv 2311.08360) for the defaults; Chan et al. 2022 (2205.05055) for
        `p_bursty`, `zipf` and several labels per class; Singh et al. 2025 (2503.05631) for swapped and pasted
        labels and for matched exemplars. The reference codes differ in `repeat_exemplars`: Chan et al. 2022
        draw without replacement, Singh et al. 2025 with.

    >>> SequenceSpec(burst=4, labels="remapped").n_fillers
    0
    >>> SequenceSpec(labels="pasted")
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: labels = 'pasted': pasting needs an absent query. Set query=absent and burst=0.
    """

    n_context: int = pydantic.Field(
        default=8, ge=1, le=1024, description="Exemplars before the query, each with its label."
    )
    burst: int = pydantic.Field(
        default=3, ge=0, le=1024, description="Context places of the query's class; 0 means none."
    )
    distractor: bool = pydantic.Field(
        default=True,
        description="Whether another class fills as many places as the burst; without a burst there is none.",
    )
    p_bursty: float = pydantic.Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of sequences with a burst; the others hold fillers and any query.",
    )
    zipf: float = pydantic.Field(
        default=0.0,
        ge=0,
        le=10,
        description="Exponent s of p(class of rank k) ∝ (k + 1)^-s, ranked by pool order.",
    )
    fillers: Literal["free", "different"] = pydantic.Field(
        default="free",
        description="free: each drawn alone, any class may recur; different: all differ, also from query "
        "and distractor.",
    )
    query: Literal["free", "absent"] = pydantic.Field(
        default="free",
        description="absent: neither the query's class nor its fixed label occurs in the context.",
    )
    labels: Literal["fixed", "remapped", "swapped", "pasted"] = pydantic.Field(
        default="fixed",
        description="fixed: the class's own; remapped: the classes of a sequence get distinct labels below "
        "n_remap at random; swapped: query and distractor class exchange theirs; pasted: one random context "
        "place shows the absent query's label.",
    )
    n_remap: int = pydantic.Field(
        default=2,
        ge=1,
        le=MOST_CLASSES,
        description="Remapped labels are drawn from {0, …, n_remap - 1}; nothing without them.",
    )
    matched_exemplars: bool = pydantic.Field(
        default=False, description="Whether the query and its burst places show one and the same exemplar."
    )
    repeat_exemplars: bool = pydantic.Field(
        default=True,
        description="Whether places of one class may show the same exemplar, each drawn alone (with "
        "replacement); false: all differ within a sequence (without replacement).",
    )
    noise: float = pydantic.Field(
        default=0.0, ge=0, le=1e6, description="Standard deviation of noise added to exemplars at draw time."
    )
    classes: Literal["train", "holdout"] = pydantic.Field(default="train", description="Pool of classes.")
    ranks: tuple[Share, Share] | None = pydantic.Field(
        default=None,
        description="Part of the pool's classes by rank, as [0, 0.25] for the first quarter, the likeliest "
        "of a Zipfian training; null: all.",
    )
    exemplars: Literal["all", "train", "holdout"] = pydantic.Field(
        default="all", description="Pool of each class's exemplars."
    )
    weight: float = pydantic.Field(
        default=1.0, ge=1e-9, le=1e9, description="Share in a mixture of specs, relative to the others."
    )

    def __str__(self) -> str:
        """Return what differs from the defaults, context and burst in any case."""
        told = {"n_context": self.n_context, "burst": self.burst} | self.model_dump(exclude_defaults=True)
        return " ".join(f"{name}={value}" for name, value in told.items())

    @pydantic.model_validator(mode="after")
    def _check_rules(self) -> Self:
        self._check_counts()
        self._check_query()
        self._check_labels()
        return self

    def _check_counts(self) -> None:
        placed = self.burst * (1 + self.distractor)
        if placed > self.n_context:
            rule = f"burst and distractor places ({placed}) must fit into n_context = {self.n_context}"
            hint = "Lower burst, raise n_context" + (", or set distractor=false." if self.distractor else ".")
            raise ConfigError("burst", self.burst, rule, hint)
        if self.burst == 0 and self.p_bursty < 1:
            rule = "a share of bursty sequences needs a burst"
            raise ConfigError("p_bursty", self.p_bursty, rule, "Set burst ≥ 1, or leave p_bursty at 1.")
        if self.burst == 0 and self.matched_exemplars:
            rule = "there is no burst place whose exemplar could match the query's"
            raise ConfigError("matched_exemplars", True, rule, "Set burst ≥ 1.")
        if self.matched_exemplars and not self.repeat_exemplars:
            rule = "matched exemplars are repeated on purpose, and repeat_exemplars = False forbids it"
            raise ConfigError("matched_exemplars", True, rule, "Leave one of the two as it is by default.")
        if self.ranks is not None and not 0 <= self.ranks[0] < self.ranks[1] <= 1:
            rule = "must be two shares in rising order, from 0 to 1"
            raise ConfigError("ranks", self.ranks, rule, "For example [0, 0.25].")

    def _check_query(self) -> None:
        if self.query != "absent":
            return
        if self.burst:
            rule = f"the query's class cannot both be absent and fill burst = {self.burst} places"
            raise ConfigError("query", "absent", rule, "Set burst=0.")
        if self.labels == "remapped":
            rule = "an absent query has no label in the context, so remapped labels give it no answer"
            raise ConfigError("labels", "remapped", rule, "Take labels=fixed or pasted, or query=free.")

    def _check_labels(self) -> None:
        if self.labels == "swapped" and not (self.burst and self.distractor and self.p_bursty == 1):
            rule = "swapping needs a query class and a distractor class in every context"
            raise ConfigError("labels", "swapped", rule, "Set burst ≥ 1, distractor=true and p_bursty=1.")
        if self.labels == "pasted" and self.query != "absent":
            raise ConfigError(
                "labels", "pasted", "pasting needs an absent query", "Set query=absent and burst=0."
            )
        if self.labels != "remapped" and self.classes == "holdout":
            rule = f"holdout classes have no fixed labels, and labels = {self.labels!r} needs them"
            raise ConfigError("classes", "holdout", rule, "Set labels=remapped, or classes=train.")
        n_slots = self.n_slots(bursty=self.p_bursty == 1)
        if self.labels == "remapped" and self.n_remap < n_slots:
            rule = f"a sequence may hold {n_slots} classes, and each needs a label of its own"
            raise ConfigError(
                "n_remap", self.n_remap, rule, f"Set n_remap ≥ {n_slots}, or have fewer fillers."
            )

    @property
    def n_fillers(self) -> int:
        """Context places left to fillers when there is a burst."""
        return self.n_context - self.burst * (1 + self.distractor)

    def n_slots(self, bursty: bool = True) -> int:
        """Return how many classes are drawn for a sequence: the query's, the distractor's, one per filler."""
        if self.burst and bursty:
            return 1 + self.distractor + self.n_fillers
        return 1 + self.n_context


Places = Literal["interleaved", "paired"]
"""Exemplar and label in places of their own (x1 l1 … xn ln xq), or summed in one (x1+l1 … xn+ln xq)."""


def count_places(n_context: int, places: Places) -> int:
    """Return how many places of a model a sequence takes, up to the query's.

    >>> count_places(2, "interleaved"), count_places(2, "paired")
    (5, 3)
    """
    return 2 * n_context + 1 if places == "interleaved" else n_context + 1
