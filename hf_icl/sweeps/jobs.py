"""What is trained with what: runs that can be stacked in stacks, shared out to the workers;
the rest one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hf_icl.distributed import count_cores
from hf_icl.errors import ConfigError
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
    """

    names: tuple[str, ...]
    start: int
    steps: int

    @property
    def cost(self) -> int:
        """Steps still to be taken, over all runs."""
        return len(self.names) * (self.steps - self.start)

    def __str__(self) -> str:
        first = self.names[0]
        return f"stack of {len(self.names)}: {first} … {self.names[-1]}" if len(self.names) > 1 else first


def share_out(
    configs: Mapping[str, RunConfig], n_workers: int, reached: Mapping[str, int] | None = None
) -> list[Job]:
    """Group runs into jobs, the longest first.

    Runs that can be stacked and have reached the same step share stacks. A group of them is split, so that
    all workers have as much to do, by its share of all the work alone: each stack compiles anew.

    Args:
        configs: Name to config, of the runs that are to be trained.
        n_workers: How many processes train at a time.
        reached: Name to the step from which a run goes on; default 0.

    >>> from hf_icl.runs.config import load_config
    >>> configs = {f"seed={seed}": load_config("default", [f"seed={seed}"]) for seed in range(5)}
    >>> configs["deep"] = load_config("default", ["model.n_layers=4"])
    >>> for job in share_out(configs, 2):
    ...     print(job)
    stack of 3: seed=0 … seed=2
    stack of 2: seed=3 … seed=4
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
    whole = [
        Job(tuple(group), reached.get(group[0], 0), configs[group[0]].training.steps) for group in groups
    ]
    total = sum(job.cost for job in whole)
    jobs = [part for job in whole for part in _split(job, n_workers * job.cost / max(1, total))]
    return sorted(jobs, key=lambda job: -job.cost)


def _split(job: Job, n_workers: float) -> list[Job]:
    """Return a job in even parts, about one for each of so many workers, none too large for a process."""
    size = len(job.names)
    n_parts = max(min(round(n_workers), size), -(-size // MAX_STACKED), 1)
    edges = [round(part * size / n_parts + 1e-9) for part in range(n_parts + 1)]
    return [Job(job.names[a:b], job.start, job.steps) for a, b in zip(edges, edges[1:], strict=False)]


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
