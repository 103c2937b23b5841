"""Train a sweep to the end, or as far as its workers come."""

from __future__ import annotations

import contextlib
from typing import Literal

from rich.console import Console

from hf_icl.errors import RunError
from hf_icl.locks import hold
from hf_icl.sweeps.engines import Work, count_ray_workers, do_locally, do_with_ray
from hf_icl.sweeps.jobs import count_workers
from hf_icl.sweeps.progress import SweepProgress
from hf_icl.sweeps.sweep import RunSet


def choose_n_workers(sweep: RunSet, engine: str = "local", address: str | None = None) -> int:
    """Return how many jobs are done at a time: as the sweep says, else as many as the machine,
    or the cluster, can."""
    if sweep.workers:
        return sweep.workers
    if engine == "ray":
        return count_ray_workers(address)
    return count_workers({name: point.config for name, point in sweep.points.items()})


def train_sweep(
    sweep: RunSet,
    console: Console | None = None,
    *,
    n_workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> None:
    """Train what is left of a sweep. What was trained before is kept, whoever trained it.

    Args:
        sweep: Its folder and runs are made if need be.
        console: Where to show progress; None is silent.
        n_workers: How many jobs at a time; None: as `choose_n_workers`.
        engine: Processes of this machine, or Ray.
        address: Of the Ray cluster; None: as `RAY_ADDRESS` says, or a new one on this machine.

    Raises:
        ConfigError: If a run cannot be built; nothing is trained then.
        RunError: If runs are unfinished at the end, because workers were lost or failed.

    Example::

        sweep = Sweep(SweepConfig(grid={"seed": [0, 1, 2, 3]}), "runs/seeds")
        train_sweep(sweep)
        sweep.write_report()
    """
    sweep.create_runs()
    state: list[Work] = []
    with hold(sweep.folder):
        n_workers = n_workers or choose_n_workers(sweep, engine, address)
        jobs, folder = sweep.share_out(n_workers), sweep.folder.resolve()
        works = do_with_ray(folder, jobs, address) if engine == "ray" else do_locally(folder, jobs, n_workers)
        with contextlib.closing(works), SweepProgress(console or Console(quiet=True), sweep) as progress:
            for state in works:
                progress.update(state)
    if unfinished := [name for name in sweep.points if not sweep.is_done(name)]:
        reasons = " ".join(f"{work.job}: {work.lost}." for work in state if work.lost)
        raise RunError(
            f"{len(unfinished)} of {len(sweep.points)} runs are unfinished: {', '.join(unfinished)}. "
            f"{reasons} The same command goes on from their last checkpoints."
        )
