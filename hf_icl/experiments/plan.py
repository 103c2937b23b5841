"""Which runs some claims need, each once, and what they will cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.kinds import load_bank
from hf_icl.config import flatten
from hf_icl.errors import BankError, ConfigError
from hf_icl.experiments.claim import Claim, ClaimFile
from hf_icl.experiments.heads import HeadTarget
from hf_icl.experiments.sources import MARK, find_sources, put_sources
from hf_icl.plan import Budget, estimate
from hf_icl.runs.config import RunConfig, load_config
from hf_icl.runs.stackable import is_compiled, is_measured_only
from hf_icl.sweeps.config import Point, digest, label_keys, name_point, tell_apart, write_words

BASE_ARM = "base"


class Pace(NamedTuple):
    """How fast one worker is.

    Attributes:
        tflops: TFLOP/s that it sustains where there is enough to do.
        compiled_ms: What a layer of the native network adds to the shortest possible step, in milliseconds,
            where steps are compiled whole and, on a GPU, recorded.
        stock_ms: The same of stock steps.
    """

    tflops: float
    compiled_ms: float = 0.0
    stock_ms: float = 0.0

    def seconds(self, config: RunConfig, flops: int) -> float:
        """Return how long a run of so many operations takes: as its operations or its shortest step allow."""
        per_layer = self.compiled_ms if is_compiled(config) else self.stock_ms
        is_native = config.model.backbone is None and config.model.pretrained is None
        step = per_layer / 1e3 * (config.model.n_layers if is_native else 0)
        return max(flops / self.tflops / 1e12, step * config.training.steps)


PACES = {"laptop": Pace(0.02), "paper": Pace(10.0, compiled_ms=0.14, stock_ms=1.0)}
"""By scale, one worker as measured, its runs one by one: a core of a laptop in float32 (docs/experiments.md),
and an H200 (docs/benchmarks.md), where stacks of runs are done sooner. Elsewhere: as a laptop."""


@dataclass(frozen=True)
class Plan:
    """The runs that some claims need at one scale.

    Attributes:
        scale: Its name.
        seeds: Claim id to the seeds of each of its arms.
        points: Base to the runs on it, each once however many claims share it.
        places: Claim id, arm and seed to the digest of the run's config.
    """

    scale: str
    seeds: Mapping[str, tuple[int, ...]]
    points: Mapping[str, list[Point]]
    places: Mapping[tuple[str, str, int], str]

    @property
    def n_runs(self) -> int:
        """Runs to be made."""
        return sum(map(len, self.points.values()))

    def list_points(self, claims: Sequence[Claim]) -> list[Point]:
        """Return the runs that some of the claims need, each once."""
        owners = {claim.id for claim in claims}
        keys = {key for (owner, _, _), key in self.places.items() if owner in owners}
        return [point for some in self.points.values() for point in some if digest(point.config) in keys]

    def count_shared(self) -> int:
        """Return how many runs are spared because claims share them."""
        return len(self.places) - self.n_runs


def plan_claims(
    claims: Sequence[Claim], scale: str, n_seeds: int | None = None, *, judged_only: bool = False
) -> Plan:
    """Return the runs that claims need.

    Args:
        claims: Those without runs of their own (`untestable`) add none.
        scale: Of each; claims that do not have it are left out.
        n_seeds: Only the first so many seeds; None: all.
        judged_only: Leave out arms that no criterion names, which figures show beside the others; those from
            whose runs others graft stay.

    Raises:
        ConfigError: If an arm's config is wrong, or no claim has the scale.
    """
    testable = [claim for claim in claims if claim.untestable is None]
    having = [claim for claim in testable if scale in claim.scales]
    if testable and not having:
        known = ", ".join(sorted({name for claim in testable for name in claim.scales}))
        raise ConfigError("--scale", scale, "no claim has this scale", f"There are: {known}.")
    seeds = {claim.id: claim.scales[scale].seeds[:n_seeds] for claim in having}
    found: dict[str, dict[str, _Run]] = {}
    places = {}
    for claim in having:
        base = claim.scales[scale].base
        arms = claim.needed_arms(scale) if judged_only else claim.all_arms
        for run in _list_runs(claim, scale, seeds[claim.id], arms):
            key = digest(run.config)
            places[claim.id, run.arm, run.config.seed] = key
            found.setdefault(base, {}).setdefault(key, run)
    points = {base: _name_points(base, list(runs.values())) for base, runs in found.items()}
    return Plan(scale, seeds, points, places)


class _Run(NamedTuple):
    arm: str
    own: Mapping[str, Any]
    settings: Mapping[str, Any]
    config: RunConfig


def _list_runs(claim: Claim, scale: str, seeds: Sequence[int], arms: Iterable[str]) -> Iterator[_Run]:
    chosen = claim.scales[scale]
    configs: dict[tuple[str, int], RunConfig] = {}

    def load(arm: str, seed: int) -> RunConfig:
        if (arm, seed) not in configs:
            settings = claim.settings(arm, scale) | {"seed": seed}
            places = {name: MARK + digest(load(name, seed)) for name in find_sources(settings)}
            configs[arm, seed] = load_config(chosen.base, put_sources(settings, places))
            check_measured(claim, arm, configs[arm, seed])
        return configs[arm, seed]

    for arm in arms:
        for seed in seeds:
            try:
                config = load(arm, seed)
            except ConfigError as error:
                hint = f"{error.hint} (In claim {claim.id}, arm {arm!r}, scale {scale}.)".lstrip()
                raise ConfigError(error.field, error.value, error.rule, hint) from error
            own, settings = chosen.arms.get(arm, claim.all_arms[arm]), claim.settings(arm, scale)
            yield _Run(arm, own, settings | {"seed": seed}, config)


def check_measured(claim: Claim, arm: str, config: RunConfig) -> None:
    """Raise `ConfigError` if an arm's runs will not have what criteria take of their heads."""
    model = config.model
    is_native = model.backbone is None and model.pretrained is None
    counts = dict.fromkeys(range(model.n_layers), model.n_heads)
    for term in claim.terms:
        if term.arm != arm:
            continue
        target = HeadTarget.read(term.metric)
        if target is not None and not config.evaluate.heads:
            rule = f"heads must be measured, as a criterion takes {term.metric}"
            raise ConfigError("evaluate.heads", False, rule, "Set it under the scale's set, or in the base.")
        if target is not None and is_native:
            target.check(counts)
        if term.under is not None and is_native:
            term.under.select(counts)


def _name_points(base: str, runs: Sequence[_Run]) -> list[Point]:
    """Return the runs on one base, called after what their arms set and after what their claims set of which
    not all have the same; what is only measured is not named."""
    flat = [flatten(run.config.to_dict()) for run in runs]
    shared = {key for key, value in flat[0].items() if all(one.get(key) == value for one in flat)}
    values = []
    for run, config in zip(runs, flat, strict=True):
        arm, whole = flatten(run.own), flatten(run.settings)
        keys = [key for key in whole if key in arm or key not in shared]
        named = {key: config.get(key) for key in keys if not is_measured_only(key) and key != "seed"}
        named |= {key: whole[key] for key in named if find_sources(whole[key])}  # by arm, not by digest
        values.append(named | {"seed": run.config.seed})
    names = [
        name_point(label_keys(own, {}), own) if len(own) > 1 else f"{BASE_ARM},seed={own['seed']}"
        for own in values
    ]
    names = tell_apart(names, [run.config for run in runs])
    return [
        Point(name, own, write_words(run.settings), run.config, base)
        for name, own, run in zip(names, values, runs, strict=True)
    ]


@dataclass(frozen=True)
class Cost:
    """What some runs cost.

    Attributes:
        n_runs: How many.
        steps: Of all together.
        flops: Training and evaluations.
        disk: Bytes of their checkpoints and models.
        hours: How long one worker is at it.
    """

    n_runs: int
    steps: int
    flops: int
    disk: int
    hours: float


def estimate_cost(points: Sequence[Point], pace: Pace, budgets: dict[str, Budget] | None = None) -> Cost:
    """Return what runs cost at a pace; `budgets` keeps what was counted, by shape, for the next call."""
    budgets = {} if budgets is None else budgets
    found = []
    for point in points:
        shape = _shape(point.config)
        if shape not in budgets:
            budgets[shape] = estimate(point.config)
        found.append(budgets[shape])
    seconds = [pace.seconds(point.config, budget.flops) for point, budget in zip(points, found, strict=True)]
    return Cost(
        len(points),
        sum(point.config.training.steps for point in points),
        sum(budget.flops for budget in found),
        sum(budget.disk for budget in found),
        sum(seconds) / 3600,
    )


def _shape(config: RunConfig) -> str:
    """Return what decides a run's cost, nearly: seeds, rates and what is regularised, frozen or
    grafted do not."""
    done = tuple(one for one in config.training.interventions if one.changes_attention)
    training = config.training.replace(
        learning_rate=1e-3,
        adam_beta1=0.9,
        adam_beta2=0.999,
        clip=0.0,
        regularization={"kind": "none"},
        interventions=done,
    )
    bank = config.task.bank.replace(seed=0)
    train = tuple(spec.replace(zipf=0.0) for spec in config.task.train_specs)
    return digest(config.replace(seed=0, training=training, task=config.task.replace(bank=bank, train=train)))


def tell_cost(cost: Cost, n_workers: int = 1) -> str:
    """Return a cost in words.

    >>> tell_cost(Cost(24, 96_000, 10**16, 2_000_000_000, hours=138.9), n_workers=2)
    '24 runs, 96,000 steps, 10 PFLOP: 69 h on each of 2; 1.9 GiB of disk'
    """
    hours = cost.hours / n_workers
    time = f"{hours:,.0f} h" if hours >= 100 else f"{hours:.2g} h"
    time += f" on each of {n_workers}" if n_workers > 1 else ""
    told = f"{cost.n_runs} runs, {cost.steps:,} steps, {cost.flops / 1e15:.3g} PFLOP: {time}"
    return f"{told}; {cost.disk / 2**30:.2g} GiB of disk"


def find_lacking(claims: Sequence[Claim], scale: str) -> dict[str, str]:
    """Return which claims cannot be run here because their exemplars cannot be had, and why: id to reason.

    Exemplars that are drawn from a seed always can; those from a file, a checkpoint or the network are asked
    for once, with the first seed.
    """
    lacking: dict[str, str] = {}
    known: dict[str, str | None] = {}
    for claim in claims:
        if claim.untestable is not None or scale not in claim.scales:
            continue
        for run in _list_runs(claim, scale, claim.scales[scale].seeds[:1], claim.all_arms):
            bank = run.config.task.bank
            if "source" not in type(bank).model_fields:
                continue
            key = digest(bank)
            if key not in known:
                known[key] = _ask_for(bank, run.config.seed)
            if known[key] is not None:
                lacking.setdefault(claim.id, f"its exemplars cannot be had: {known[key]}")
    return lacking


def _ask_for(bank: BankConfigBase, seed: int) -> str | None:
    try:
        load_bank(bank, seed=seed)
    except BankError as error:
        return str(error)
    return None


def check_ids(files: Sequence[ClaimFile]) -> None:
    """Raise `ConfigError` if two claims have one id: their evidence would be mixed."""
    seen: dict[str, ClaimFile] = {}
    for file in files:
        if file.claim.id in seen:
            rule = f"is the id of {seen[file.claim.id].path} too"
            raise ConfigError(f"{file.path}.id", file.claim.id, rule, "Call one of them otherwise.")
        seen[file.claim.id] = file
