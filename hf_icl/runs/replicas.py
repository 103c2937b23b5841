"""Train runs as replicas: one process per core, each with its share of the runs stacked."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_icl.distributed import choose_device, count_cores
from hf_icl.errors import ConfigError, DivergedError
from hf_icl.history.history import History
from hf_icl.locks import hold
from hf_icl.runs.config import RunConfig
from hf_icl.runs.run import Run, build_task, choose_trainer, use_threads
from hf_icl.runs.stackable import check_replicas, is_compiled
from hf_icl.task.task import Task
from hf_icl.training.checkpoints import (
    explain_full_disk,
    find_checkpoint,
    find_damage,
    step_of,
    tidy_checkpoints,
)
from hf_icl.training.compiled.compiling import can_compile
from hf_icl.training.compiled.trainer import train_together
from hf_icl.training.display import LiveDisplay
from hf_icl.training.trainer import TransienceTrainer

logger = logging.getLogger(__name__)


def train_replicas(
    runs: Sequence[Run],
    console: Console | None = None,
    *,
    n_processes: int | None = None,
) -> None:
    """Train runs that differ in numbers alone, all at once, each into its own folder, to the end.

    What has been trained before is kept: a group that was killed goes on from the newest checkpoint that all
    its runs have, to the same bytes. Call it with the same runs in the same order for that; a single run of
    the group can also be continued alone, with `hf-icl resume`, to the same numbers up to rounding.

    Args:
        runs: Made with `Run.create`; see `can_stack` for what may differ between their configs.
        console: Where to show the progress of the first run of this process's share; None is silent.
        n_processes: Among how many processes to share the runs; 1 trains in this process; None: on a GPU 1,
            else as many as the cores have threads for, of which each takes as many as the runs say
            (`training.threads`), or one.

    Raises:
        ConfigError: If a run cannot be stacked, or two differ in more than that; nothing is trained then.
        DivergedError: At the end, if the loss of one was no number any more; the others are finished.

    Example::

        runs = [Run.create(load_config("default", [f"seed={seed}"]), f"runs/{seed}") for seed in range(8)]
        train_replicas(runs)
    """
    if not runs:
        return
    check_replicas([run.config for run in runs])
    n_processes = min(n_processes or _count_processes([run.config for run in runs]), len(runs))
    shares = [list(runs[start::n_processes]) for start in range(n_processes)]
    if n_processes == 1:
        train_stacked(shares[0], console)
        return
    with _open_pool(n_processes) as pool:
        folders = [[run.folder for run in share] for share in shares]
        work = [pool.submit(_train_folders, part, logging.getLogger().level) for part in folders]
        for part in work:
            part.result()


def _count_processes(configs: Sequence[RunConfig]) -> int:
    """Return among how many processes to share some runs: on a GPU, one call moves all."""
    if choose_device(cpu=all(config.training.on_cpu for config in configs)).type != "cpu":
        return 1
    return max(1, count_cores() // (count_threads(configs) or 1))


def _open_pool(n_processes: int) -> ProcessPoolExecutor:
    """Return a pool of processes.

    Raises:
        ConfigError: If the system lacks what they need to speak to each other.
    """
    try:
        return ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"), _use_one_thread)
    except (ImportError, NotImplementedError, OSError) as error:  # no semaphores, or no room for more
        rule = f"this system cannot run several processes together ({error})"
        raise ConfigError("n_processes", n_processes, rule, "Set it to 1.") from error


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _train_folders(folders: Sequence[Path], log_level: int) -> None:
    logging.getLogger().setLevel(log_level)
    train_stacked([Run.open(folder) for folder in folders])


def train_stacked(runs: Sequence[Run], console: Console | None = None) -> None:
    """Train a group of replicas in this process; arguments as for `train_replicas`."""
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(hold(run.folder))
        _train_stacked(runs, console)


def _train_stacked(runs: Sequence[Run], console: Console | None) -> None:
    sound = [run for run in runs if run.diverged_step is None]
    going = [run for run in sound if not run.is_finished and not _has_stopped(run)]
    if going:
        _train_going([run for run in sound if not _has_stopped(run)], console)
    for run in sound:
        if not run.is_finished and run.diverged_step is None:
            run.keep_final_model()
    if diverged := [run for run in runs if run.diverged_step is not None]:
        told = ", ".join(f"{run.folder} at step {run.diverged_step:,}" for run in diverged)
        raise DivergedError(
            f"{len(diverged)} of {len(runs)} replicas diverged: {told}. The others are finished, and the "
            "checkpoints from before are sound."
        )


def _train_going(runs: Sequence[Run], console: Console | None) -> None:
    start = find_common_step(runs)
    if start < runs[0].config.training.steps:
        histories = [run.history for run in runs]
        display = LiveDisplay(console or Console(quiet=True), histories[0])
        trainers = build_trainers(runs, histories)
        for run, trainer in zip(runs, trainers, strict=True):
            choose_trainer(run.config, trainer.model)  # what is asked for by name is refused, not dropped
        trainers[0].add_callback(display)
        folders = [run.folder / f"{PREFIX_CHECKPOINT_DIR}-{start}" for run in runs] if start else None
        way_on = "train the same runs again, or give the same hf-icl sweep again"
        threads = use_threads(count_threads([run.config for run in runs]))
        with threads, display, explain_full_disk(runs[0].folder, way_on):
            train_together(
                trainers, folders, compiled=is_compiled(runs[0].config, len(runs)) and can_compile()
            )


def _has_stopped(run: Run) -> bool:
    """Return whether an intervention has ended a run before its last step."""
    last = find_checkpoint(run.folder)
    return last is not None and step_of(last) < run.config.training.steps and run.is_over(last)


def count_threads(configs: Sequence[RunConfig]) -> int | None:
    """Return how many CPU threads runs ask for when they are trained together: the most that one does,
    None if none does."""
    return max((config.training.threads for config in configs if config.training.threads), default=None)


def build_trainers(runs: Sequence[Run], histories: Sequence[History]) -> list[TransienceTrainer]:
    """Build what trains some runs, as before the first step; runs with the same bank share one in memory."""
    banks: dict = {}
    trainers = []
    for run, history in zip(runs, histories, strict=True):
        config = run.config
        own_seed = config.seed if config.task.bank.seed is None else None
        key = (repr(config.task.bank), own_seed)
        if key not in banks:
            banks[key] = build_task(config).bank
        task = Task(config.task, seed=config.seed, bank=banks[key])
        trainers.append(run.build_trainer(history, kind=TransienceTrainer, task=task))
        _check_shapes(trainers[0].model, trainers[-1].model)
    return trainers


def _check_shapes(first: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, parameter in first.named_parameters():
        shape = tuple(other.get_parameter(name).shape)
        if shape != tuple(parameter.shape):
            rule = f"replicas must agree in it, and the first has {tuple(parameter.shape)}"
            raise ConfigError(f"the shape of {name}", shape, rule, "Train these runs in separate groups.")


def find_common_step(runs: Sequence[Run]) -> int:
    """Return the newest step of which every run has a sound checkpoint, 0 if there is none.

    What is half-written is removed, and what is damaged set aside.

    Raises:
        RunError: If a run has checkpoints and none is sound.
    """
    known = [tidy_checkpoints(run.folder, run.config.training.steps) for run in runs]
    common = set.intersection(*({step_of(path) for path in paths} for paths in known))
    while common:
        step = max(common)
        damaged = [path for paths in known for path in paths if step_of(path) == step and find_damage(path)]
        if not damaged:
            return step
        common.discard(step)
        logger.warning("%s is damaged: all replicas go on from an earlier step", damaged[0])
    return 0
