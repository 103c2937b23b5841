"""Which heads are ablated, by what, and what later layers keep. Loads no torch: claims name ablations too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Self

import pydantic

from hf_icl.config import Config
from hf_icl.errors import ConfigError

HEAD = re.compile(r"L(\d+)(?:H(\d+))?")
Heads = dict[int, list[int]]  # layer to heads


class Ablation(Config):
    """Heads whose outputs are replaced, before the output projection.

    >>> Ablation(heads=["L0H1", "L1"]).how
    'zero'
    >>> Ablation(heads=["1.3"])
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: heads = '1.3': must name a head as L0H3, or a whole layer as L0.
    """

    heads: tuple[str, ...] = pydantic.Field(
        description="Which, counted from 0: L0H3 is head 3 of layer 0, L0 the whole layer."
    )
    how: Literal["zero", "mean", "resample"] = pydantic.Field(
        default="zero",
        description="By what: zero; mean: the mean, place by place, over all sequences of the evaluator that "
        "is asked; resample: what another one of its sequences gives, always the same one.",
    )
    keep: tuple[Literal["patterns", "queries", "keys", "values"], ...] = pydantic.Field(
        default=(), description="What all layers after the ablated ones keep as it is in the intact model."
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for word in self.heads:
            if not HEAD.fullmatch(word):
                raise ConfigError("heads", word, "must name a head as L0H3, or a whole layer as L0")
        if not self.heads:
            raise ConfigError("heads", (), "there is nothing to ablate", "Name a head, as L0H3.")
        if "patterns" in self.keep and {"queries", "keys"} & set(self.keep):
            rule = "patterns that are kept leave nothing for queries and keys to do"
            raise ConfigError("keep", self.keep, rule, "Leave either out.")
        return self

    def select(self, counts: Mapping[int, int]) -> Heads:
        """Return the heads by layer, of a model with so many heads in each layer.

        Raises:
            ConfigError: If the model has no such head, or no later layer that could keep anything.

        >>> Ablation(heads=["L0H1", "L1"]).select({0: 2, 1: 2})
        {0: [1], 1: [0, 1]}
        """
        chosen: dict[int, set[int]] = {}
        for word in self.heads:
            layer, head = HEAD.fullmatch(word).groups()
            known = range(counts.get(int(layer), 0))
            wanted = known if head is None else [int(head)]
            if not known or not set(wanted) <= set(known):
                there = ", ".join(f"L{layer}H0–{count - 1}" for layer, count in counts.items())
                raise ConfigError("heads", word, "the model has no such head", f"It has {there}.")
            chosen.setdefault(int(layer), set()).update(wanted)
        if self.keep and max(chosen) >= max(counts):
            rule = f"no layer comes after L{max(chosen)} that could keep anything"
            raise ConfigError("keep", self.keep, rule, "Ablate earlier layers, or keep nothing.")
        return {layer: sorted(heads) for layer, heads in sorted(chosen.items())}

    def describe(self) -> str:
        """Return what is done, in a few words.

        >>> Ablation(heads=["L0"], keep=["keys", "values"]).describe()
        'without L0, later keys and values kept'
        >>> Ablation(heads=["L0H1", "L0H2"], how="mean").describe()
        'without L0H1, L0H2 (mean)'
        """
        by = "" if self.how == "zero" else f" ({self.how})"
        kept = f", later {' and '.join(self.keep)} kept" if self.keep else ""
        return f"without {', '.join(self.heads)}{by}{kept}"
