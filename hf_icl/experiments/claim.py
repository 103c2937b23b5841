"""What a claim is: arms, what is measured of them, and criteria, all of it data written before the runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import JsonValue

from hf_icl.circuits.ablated import Ablation
from hf_icl.config import MOST, Config, Seed, read_yaml, suggest
from hf_icl.errors import ConfigError
from hf_icl.experiments.measuring import check_measure
from hf_icl.experiments.sources import check_sources, find_sources
from hf_icl.report.sweep import write_value

FOLDER = Path(__file__).parent / "claims"
Settings = dict[str, JsonValue]


class Term(Config):
    """A number that every run of an arm gives: one per seed."""

    arm: str | None = pydantic.Field(
        None, description="Which arm's runs; null: in a comparison, the other's."
    )
    metric: str | None = pydantic.Field(None, description="Curve, as icl/accuracy; null: as the other's.")
    measure: str | None = pydantic.Field(
        None, description="Of the curve, as late_persistence; null: as the other's. See hf_icl.summary."
    )
    under: Ablation | None = pydantic.Field(
        None,
        description="Heads without which the run's last model is asked, as "
        "{heads: [L0], keep: [keys, values]}; null: as the other's.",
    )


class Trend(Config):
    """How far a measure follows the order of some arms, per seed: Spearman's rank correlation, in [-1, 1]."""

    arms: tuple[str, ...] = pydantic.Field(min_length=3, description="Arms in the order that is claimed.")
    metric: str = pydantic.Field(description="Curve, as icl/accuracy.")
    measure: str = pydantic.Field(description="Of the curve, as peak.")


class Criterion(Config):
    """One comparison: a number per seed, and the value that its mean must be beyond.

    The number is that of `take`; less that of `minus`, or divided by that of `over` (then the geometric mean
    counts); or the correlation of a `trend`. Arms are paired by seed.
    """

    that: str = pydantic.Field(min_length=1, description="What is tested, in words.")
    take: Term | None = pydantic.Field(None, description="The number.")
    minus: Term | None = pydantic.Field(
        None, description="Subtracted from it; what is left out is as in take."
    )
    over: Term | None = pydantic.Field(None, description="Divides it; what is left out is as in take.")
    trend: Trend | None = pydantic.Field(None, description="A correlation over arms instead.")
    above: float | None = pydantic.Field(
        None, ge=-MOST, le=MOST, description="The mean over seeds must lie above this …"
    )
    below: float | None = pydantic.Field(None, ge=-MOST, le=MOST, description="… or below this.")
    unit: Literal["measure", "spread"] = pydantic.Field(
        "measure",
        description="spread: the bound counts in standard deviations over the seeds of minus.",
    )
    in_seeds: float = pydantic.Field(
        0.0, ge=0, le=1, description="Least share of seeds whose own number is beyond the bound."
    )

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms, each with all its fields."""
        if self.take is None:
            of = {"metric": self.trend.metric, "measure": self.trend.measure}
            return tuple(Term(arm=arm, **of) for arm in self.trend.arms)
        other = self.minus or self.over
        if other is None:
            return (self.take,)
        return self.take, Term(**self.take.to_dict() | other.model_dump(exclude_none=True))

    @property
    def bound(self) -> float:
        """What the mean must be beyond."""
        return self.below if self.above is None else self.above

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if (self.take is None) == (self.trend is None):
            raise ConfigError("take", self.take, "a criterion needs take or trend, and not both", "Give one.")
        if (self.above is None) == (self.below is None):
            raise ConfigError(
                "above", self.above, "a criterion needs above or below, and not both", "Give one."
            )
        if self.minus is not None and self.over is not None:
            raise ConfigError("over", self.over, "a number has minus or over, not both", "Give one.")
        if self.take is None and (self.minus or self.over):
            rule = "a trend is no difference"
            raise ConfigError("minus", self.minus, rule, "Leave it out, or give take instead of trend.")
        if self.unit == "spread" and self.minus is None:
            rule = "the spread is that over the seeds of minus, and there is none"
            raise ConfigError("unit", self.unit, rule, "Give minus, or leave unit out.")
        if self.over is not None and self.bound <= 0:
            raise ConfigError(
                "above", self.bound, "a ratio is compared with a positive number", "1 is equal."
            )
        for term in self.terms:
            if None in (term.arm, term.metric, term.measure):
                rule = "must name arm, metric and measure"
                raise ConfigError(
                    "take", term.to_dict(), rule, "As {arm: base, metric: icl/accuracy, measure: late}."
                )
            check_measure(term.metric, term.measure, under=term.under is not None)
        return self


class Dose(Config):
    """Arms that differ in one setting; they are called after its values."""

    key: str = pydantic.Field(min_length=1, description="Dotted key of the run's config.")
    values: tuple[JsonValue, ...] = pydantic.Field(min_length=2, description="One arm for each.")
    set: Settings = pydantic.Field(default_factory=dict, description="Further settings of all of them.")


class Scale(Config):
    """At what size a claim is tried."""

    base: str = pydantic.Field(description="A preset, or a YAML file seen from the current folder.")
    seeds: tuple[Seed, ...] = pydantic.Field(
        tuple(range(8)), min_length=1, max_length=1000, description="Seeds of every arm."
    )
    set: Settings = pydantic.Field(default_factory=dict, description="Settings of all arms.")
    arms: dict[str, Settings] = pydantic.Field(
        default_factory=dict, description="Arms that are set otherwise at this scale."
    )
    differs: str = pydantic.Field("", description="How this differs from what was published.")


class Claim(Config):
    """A statement that runs can bear out or refute, with a criterion fixed before they are made.

    See `hf_icl/experiments/claims` for those that come with the package.
    """

    id: str = pydantic.Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Short name; also of its file.")
    title: str = pydantic.Field(min_length=1, description="In a few words.")
    statement: str = pydantic.Field(min_length=1, description="What is claimed, in our words.")
    source: str = pydantic.Field(min_length=1, description="Who claims it, and where.")
    read: dict[str, str] = pydantic.Field(
        default_factory=dict,
        description="Setting to how it was read: [C] code, [F] figure, [N] secondary, [?] unsure, ours.",
    )
    fixed: date = pydantic.Field(description="Day on which the criterion was fixed.")
    arms: dict[str, Settings] = pydantic.Field(
        default_factory=dict, description="Name to settings, dotted key to value, on top of the scale's."
    )
    doses: dict[str, Dose] = pydantic.Field(
        default_factory=dict,
        description="Further arms: word to a setting and its values, as width: {key, values}.",
    )
    criteria: tuple[Criterion, ...] = pydantic.Field((), description="All must hold for the claim to hold.")
    scales: dict[str, Scale] = pydantic.Field(default_factory=dict, description="Such as laptop and paper.")
    min_seeds: int = pydantic.Field(3, ge=2, le=1000, description="With fewer the claim stays undecided.")
    level: float = pydantic.Field(0.95, gt=0.5, lt=1, description="Of all the claim's intervals together.")
    untestable: str | None = pydantic.Field(None, description="Why it cannot be tested; then it has no runs.")
    figure: tuple[str, ...] = pydantic.Field(
        ("icl/accuracy", "iwl/accuracy"), description="Curves that its figure shows."
    )

    @cached_property
    def all_arms(self) -> dict[str, Settings]:
        """All arms by name, those of doses called as in `width 64`."""
        arms = dict(self.arms)
        for word, dose in self.doses.items():
            for value in dose.values:
                arms[f"{word} {write_value(value)}"] = dose.set | {dose.key: value}
        return arms

    @property
    def judged_arms(self) -> tuple[str, ...]:
        """The arms that criteria name, in order; the others are only shown."""
        return tuple(arm for arm in self.all_arms if arm in {term.arm for term in self.terms})

    @property
    def terms(self) -> tuple[Term, ...]:
        """What its criteria take, all of them."""
        return tuple(term for criterion in self.criteria for term in criterion.terms)

    def needed_arms(self, scale: str) -> tuple[str, ...]:
        """Return the judged arms at a scale, and those from whose runs they take something."""
        needed = list(self.judged_arms)
        for arm in needed:
            needed += [name for name in find_sources(self.settings(arm, scale)) if name not in needed]
        return tuple(arm for arm in self.all_arms if arm in needed)

    def settings(self, arm: str, scale: str) -> Settings:
        """Return what an arm sets on the base of a scale."""
        chosen = self.scales[scale]
        return chosen.set | chosen.arms.get(arm, self.all_arms[arm])

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.untestable is not None:
            return self
        for field in ("scales", "criteria"):
            if not getattr(self, field):
                hint = "Give one, or say under untestable why there is none."
                raise ConfigError(field, getattr(self, field), "a claim needs one or more", hint)
        for path, name in self._named_arms():
            if name not in self.all_arms:
                raise ConfigError(path, name, "the claim has no such arm", suggest(name, self.all_arms))
        for scale in self.scales:
            check_sources({arm: self.settings(arm, scale) for arm in self.all_arms}, scale)
        return self

    def _named_arms(self) -> Iterator[tuple[str, str]]:
        for number, criterion in enumerate(self.criteria):
            for term in criterion.terms:
                yield f"criteria.{number}.arm", term.arm
        for scale, chosen in self.scales.items():
            for arm in chosen.arms:
                yield f"scales.{scale}.arms", arm


@pydantic.dataclasses.dataclass(frozen=True)
class ClaimFile:
    """A claim as it was read.

    Attributes:
        claim: What it says.
        path: Where it stands.
        digest: Of all that it says, 64 hexadecimal digits; comments and layout do not enter.
    """

    claim: Claim
    path: Path
    digest: str


def digest_tree(tree: Mapping[str, Any]) -> str:
    """Return what tells a claim's file from one that says something else.

    >>> digest_tree({"a": 1, "b": 2}) == digest_tree({"b": 2, "a": 1}) != digest_tree({"a": 1, "b": 3})
    True
    """
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()


def list_claims() -> dict[str, Path]:
    """Return the claims that come with the package: id to file, in the order of their files."""
    paths = sorted(FOLDER.glob("*.yaml"))
    return {path.stem.partition("-")[2]: path for path in paths}


def load_claim(name: str | Path) -> ClaimFile:
    """Read a claim: one of the package's by its id, or a YAML file.

    Raises:
        ConfigError: If there is none, it cannot be read, or it breaks a rule.
    """
    known = list_claims()
    path = known.get(str(name), Path(name))
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            "claim", str(name), "neither a claim's id nor a .yaml file", suggest(str(name), known)
        )
    tree = read_yaml(path, "claim file", "See: hf-icl claims")
    try:
        claim = Claim(**tree)
    except ConfigError as error:
        raise error.within(path.name) from error
    if path.parent == FOLDER and known.get(claim.id) != path:
        raise ConfigError(f"{path.name}.id", claim.id, "must be the file's name without its number")
    return ClaimFile(claim, path, digest_tree(tree))
