"""Who does the jobs: processes of this machine, or Ray's workers on any number of machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

from hf_icl.distributed import count_cores
from hf_icl.errors import ConfigError
from hf_icl.sweeps.jobs import Job
from hf_icl.sweeps.sweep import LOGS
from hf_icl.sweeps.worker import train_job

POLL_S = 0.2
MAX_RETRIES = 5  # of a job whose Ray worker was lost


@dataclass
class Work:
    """A job and what has become of it; `lost` says why it was not done."""

    job: Job
    state: Literal["waiting", "at work", "done", "lost"] = "waiting"
    lost: str = ""


def do_locally(folder: Path, jobs: Sequence[Job], n_workers: int) -> Iterator[list[Work]]:
    """Do jobs in processes of this machine, so many at a time; a process that dies takes no other with it.

    Each has a GPU of its own where there are some, else its share of the cores. What they write to the
    terminal goes to `logs/` in the sweep's folder. Closing the generator ends them.

    Yields:
        All work, a few times a second, until there is no more to be done.
    """
    works = [Work(job) for job in jobs]
    running: dict[int, tuple[Work, subprocess.Popen]] = {}
    try:
        while True:
            for slot, (work, process) in list(running.items()):
                if process.poll() is not None:
                    process.stdin.close()
                    _settle(work, process.returncode, _log(folder, work))
                    del running[slot]
            free = (slot for slot in range(n_workers) if slot not in running)
            for slot, work in zip(free, [work for work in works if work.state == "waiting"], strict=False):
                running[slot] = work, _start(folder, work, slot, n_workers)
                work.state = "at work"
            yield works
            if not running:
                return
            time.sleep(POLL_S)
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()
            process.stdin.close()


def _log(folder: Path, work: Work) -> Path:
    return folder / LOGS / f"{work.job.names[0]}.log"


def _start(folder: Path, work: Work, slot: int, n_workers: int) -> subprocess.Popen:
    # a share of the cores, unless the user or the runs say otherwise
    share = max(1, count_cores() // n_workers)
    environment = {"OMP_NUM_THREADS": str(share)} | os.environ
    if n_gpus := torch.cuda.device_count():
        own = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(n_gpus)))
        environment["CUDA_VISIBLE_DEVICES"] = own.split(",")[slot % n_gpus]
    path = _log(folder, work)
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "hf_icl.sweeps", str(folder), *work.job.names]
    with open(path, "ab") as log:
        # A session of its own: Ctrl-C reaches the sweep alone, which then ends its workers.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )


def _settle(work: Work, code: int, log: Path) -> None:
    if code == 0:
        work.state = "done"
        return
    work.state = "lost"
    lines = log.read_text(errors="replace").strip().splitlines()
    said = f": {lines[-1]}" if lines and code > 0 else ""
    work.lost = f"killed by {name_signal(-code)}" if code < 0 else f"ended with code {code}{said}"


def name_signal(number: int) -> str:
    """Return what a signal is called, its number where this system has no name for it.

    >>> name_signal(9), name_signal(1000)
    ('SIGKILL', 'signal 1000')
    """
    return {one.value: one.name for one in signal.Signals}.get(number, f"signal {number}")


def do_with_ray(folder: Path, jobs: Sequence[Job], address: str | None) -> Iterator[list[Work]]:
    """Do jobs as Ray tasks: Ray chooses the machines, and does the work of a lost one again,
    from its last checkpoint.

    The sweep's folder must be on a disk that all machines share, and hf_icl installed on each.

    Yields:
        As `do_locally`.
    """
    ray = connect_ray(address)
    n_gpus = 1 if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(num_cpus=1, num_gpus=n_gpus, max_retries=MAX_RETRIES, max_calls=1)(train_job)
    works = {
        remote.options(name=str(job)).remote(str(folder), job.names): Work(job, "at work") for job in jobs
    }
    waiting = list(works)
    try:
        while True:
            done, waiting = (
                ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S) if waiting else ([], [])
            )
            for task in done:
                try:
                    ray.get(task)
                    works[task].state = "done"
                except ray.exceptions.RayError as error:
                    works[task].state, works[task].lost = "lost", _last_line(error)
            yield list(works.values())
            if not waiting:
                return
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
        ray.shutdown()


def count_ray_workers(address: str | None) -> int:
    """Return how many jobs a Ray cluster does at a time: as many as it has GPUs, or cores without any."""
    resources = connect_ray(address).cluster_resources()
    return max(1, int(resources.get("GPU") or resources.get("CPU", 1)))


def connect_ray(address: str | None) -> ModuleType:
    """Return the module `ray`, connected to a cluster; without an address to that of `RAY_ADDRESS`,
    or a new local one.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        hint = "Install it: pip install hf-icl[ray]"
        raise ConfigError("--engine", "ray", "Ray is not installed", hint) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            hint = "Start one with: ray start --head"
            raise ConfigError(
                "--address", address, f"no Ray cluster answers there ({error})", hint
            ) from error
    return ray


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
