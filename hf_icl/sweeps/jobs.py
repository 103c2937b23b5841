"""What is trained with what: runs that can be stacked in stacks, shared out to the workers;
the rest one by one."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from hf_icl.distributed import count_cores
from hf_icl.errors import BankError, ConfigError
from hf_icl.plan import estimate
from hf_icl.runs.config import RunConfig
from hf_icl.runs.replicas import count_threads
from hf_icl.runs.stackable import can_stack, check_replicas

MAX_STACKED = 64  # replicas in one process; more cost memory and gain nothing


@dataclass(frozen=True)
class Job:
    """Runs that one process trains at once.

    Attributes:
        names: Of the runs; several are a stack of replicas.
        start: Step from which they go on.
        steps: Step at which they end.
        weight: What a step of one run costs against the steps of other jobs.
    """

    names: tuple[str, ...]
    start: int
    steps: int
    weight: float = 1.0

    def cost_until(self, step: int) -> float:
        """What is to be done from the start until a step, over all runs."""
        return len(self.names) * (step - self.start) * self.weight

    @property
    def cost(self) -> float:
        """What is still to be done, over all runs."""
        return self.cost_until(self.steps)

    def __str__(self) -> str:
        first = self.names[0]
        return f"stack of {len(self.names)}: {first} … {self.names[-1]}" if len(self.names) > 1 else first


def weigh_step(config: RunConfig) -> float:
    """Return the FLOPs of a step, evaluations' share included, as `hf-icl plan` counts them.

    Raises:
        ConfigError: If they cannot be counted, or would have to be fetched first.
        BankError: If the exemplars are not at hand, whose shape it takes.
    """
    if config.model.pretrained is not None:
        rule = "a step of a checkpoint is not counted before it is at hand"
        raise ConfigError("model.pretrained", config.model.pretrained, rule, "")
    return _count_flops(json.dumps(config.replace(seed=0).to_dict(), sort_keys=True))


@functools.lru_cache(maxsize=1024)  # replicas are counted once, and so is a sweep that is looked at again
def _count_flops(settings: str) -> float:
    budget = estimate(RunConfig.model_validate_json(settings))
    return budget.flops / budget.steps


def share_out(
    configs: Mapping[str, RunConfig],
    n_workers: int,
    reached: Mapping[str, int] | None = None,
    weigh: Callable[[RunConfig], float] = weigh_step,
) -> list[Job]:
    """Group runs into jobs, the longest first.

    Runs that can be stacked and have reached the same step share stacks. A group of them is split, so that
    all workers have as much to do, by its share of all the work alone: each stack compiles anew. Work is
    counted in FLOPs, or in steps where those of one group cannot be counted.

    Args:
        configs: Name to config, of the runs that are to be trained.
        n_workers: How many processes train at a time.
        reached: Name to the step from which a run goes on; default 0.
        weigh: What a step of a run costs; asked of one run in each group.

    >>> from hf_icl.runs.config import load_config
    >>> configs = {f"seed={seed}": load_config("default", [f"seed={seed}"]) for seed in range(5)}
    >>> configs["deep"] = load_config("default", ["model.n_layers=4"])
    >>> for job in share_out(configs, 2):
    ...     print(job)
    stack of 5: seed=0 … seed=4
    deep
    """
    reached = reached or {}
    groups: list[list[str]] = []
    for name, config in configs.items():
        for group in groups if _can_be_replica(config) else ():
            first = group[0]
            if reached.get(first, 0) == reached.get(name, 0) and not can_stack(configs[first], config):
                group.append(name)
                break
        else:
            groups.append([name])
    weights = _weigh_all([configs[group[0]] for group in groups], weigh)
    whole = [
        Job(tuple(group), reached.get(group[0], 0), configs[group[0]].training.steps, weight)
        for group, weight in zip(groups, weights, strict=True)
    ]
    total = sum(job.cost for job in whole)
    jobs = [part for job in whole for part in _split(job, n_workers * job.cost / max(1, total))]
    return sorted(jobs, key=lambda job: -job.cost)


def _weigh_all(configs: Sequence[RunConfig], weigh: Callable[[RunConfig], float]) -> list[float]:
    """Return what a step of each costs against one of the cheapest; 1 of all where one cannot be counted."""
    if len(configs) < 2:
        return [1.0] * len(configs)
    try:
        costs = [weigh(config) for config in configs]
    except (ConfigError, BankError):
        return [1.0] * len(configs)
    return [cost / min(costs) for cost in costs]


def _split(job: Job, n_workers: float) -> list[Job]:
    """Return a job in even parts, about one for each of so many workers, none too large for a process."""
    size = len(job.names)
    n_parts = max(min(round(n_workers), size), -(-size // MAX_STACKED), 1)
    edges = [round(part * size / n_parts + 1e-9) for part in range(n_parts + 1)]
    return [replace(job, names=job.names[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


def tell_alone(configs: Mapping[str, RunConfig], job: Job) -> str:
    """Return why a run is trained alone among others: the settings that keep it out of every stack.

    >>> from hf_icl.runs.config import load_config
    >>> configs = {f"layers {n}": load_config("default", [f"model.n_layers={n}"]) for n in (1, 2)}
    >>> tell_alone(configs, Job(("layers 2",), 0, 10))
    'alone: others differ in model.n_layers'
    """
    if len(job.names) > 1 or len(configs) == 1:
        return ""
    own = configs[job.names[0]]
    if not _can_be_replica(own):
        return "alone: its steps cannot be stacked"
    held = [can_stack(own, other) for name, other in configs.items() if name != job.names[0]]
    fewest = min(held, key=len)
    return f"alone: others differ in {', '.join(fewest)}" if fewest else ""


def _can_be_replica(config: RunConfig) -> bool:
    try:
        check_replicas([config])
    except ConfigError:
        return False
    return True


def count_workers(configs: Mapping[str, RunConfig]) -> int:
    """Return how many processes this machine trains at a time: one per GPU,
    else, or where runs are to leave those alone, as many as its cores have threads for."""
    if torch.cuda.is_available() and not all(config.training.on_cpu for config in configs.values()):
        return torch.cuda.device_count()
    return max(1, count_cores() // (count_threads(list(configs.values())) or 1))
