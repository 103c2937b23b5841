"""Train runs as replicas: one process per core, each with its share of the runs stacked."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_icl.build import build_task
from hf_icl.checkpoints import explain_full_disk, find_checkpoint, is_whole, step_of
from hf_icl.display import LiveDisplay
from hf_icl.errors import ConfigError
from hf_icl.runs import Run
from hf_icl.stacking import can_compile, check_replicas, is_compiled, train_together
from hf_icl.task import Task
from hf_icl.trainer import TransienceTrainer


def train_replicas(
    runs: Sequence[Run],
    console: Console | None = None,
    *,
    n_processes: int | None = None,
) -> None:
    """Train runs that differ in numbers alone, all at once, each into its own folder, to the end.

    What has been trained before is kept: a group that was killed goes on from the newest checkpoint that all its
    runs have, to the same bytes. Call it with the same runs in the same order for that; a single run of the group can
    also be continued alone, with `hf-icl resume`, to the same numbers up to rounding.

    Args:
        runs: Made with `Run.create`; see `can_stack` for what may differ between their configs.
        console: Where to show the progress of the first run of this process's share; None is silent.
        n_processes: Among how many processes of one thread each to share the runs; None: one per core, 1 trains in
            this process.

    Raises:
        ConfigError: If a run cannot be stacked, or two differ in more than that; nothing is trained then.

    Example::

        runs = [Run.create(load_config("default", [f"seed={seed}"]), f"runs/{seed}") for seed in range(8)]
        train_replicas(runs)
    """
    if not runs:
        return
    check_replicas([run.config for run in runs])
    n_processes = min(n_processes or len(os.sched_getaffinity(0)), len(runs))
    shares = [list(runs[start::n_processes]) for start in range(n_processes)]
    if n_processes == 1:
        train_stacked(shares[0], console)
        return
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"), _use_one_thread) as pool:
        folders = [[run.folder for run in share] for share in shares]
        work = [pool.submit(_train_folders, part, logging.getLogger().level) for part in folders]
        for part in work:
            part.result()


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _train_folders(folders: Sequence[Path], log_level: int) -> None:
    logging.getLogger().setLevel(log_level)
    train_stacked([Run.open(folder) for folder in folders])


def train_stacked(runs: Sequence[Run], console: Console | None = None) -> None:
    """Train a group of replicas in this process; arguments as for `train_replicas`."""
    if all(run.is_finished for run in runs):
        return
    start = find_common_step(runs)
    if start < runs[0].config.training.steps:
        displays = [
            LiveDisplay(console if console and number == 0 else Console(quiet=True), run.history)
            for number, run in enumerate(runs)
        ]
        trainers = build_trainers(runs, displays)
        folders = [run.folder / f"{PREFIX_CHECKPOINT_DIR}-{start}" for run in runs] if start else None
        way_on = "train the same runs again, or give the same hf-icl sweep again"
        with displays[0], explain_full_disk(runs[0].folder, way_on):
            train_together(trainers, folders, compiled=is_compiled(runs[0].config) and can_compile())
    for run in runs:
        run.keep_final_model()


def build_trainers(runs: Sequence[Run], displays: Sequence[LiveDisplay]) -> list[TransienceTrainer]:
    """Build what trains some runs, as before the first step; runs with the same bank share one in memory."""
    banks: dict = {}
    trainers = []
    for run, display in zip(runs, displays, strict=True):
        config = run.config
        own_seed = config.seed if config.task.bank.seed is None else None
        key = (repr(config.task.bank), own_seed)
        if key not in banks:
            banks[key] = build_task(config).bank
        task = Task(config.task, seed=config.seed, bank=banks[key])
        trainers.append(run.build_trainer(display, TransienceTrainer, task))
        _check_shapes(trainers[0].model, trainers[-1].model)
    return trainers


def _check_shapes(first: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, parameter in first.named_parameters():
        shape = tuple(other.get_parameter(name).shape)
        if shape != tuple(parameter.shape):
            rule = f"replicas must agree in it, and the first has {tuple(parameter.shape)}"
            raise ConfigError(f"the shape of {name}", shape, rule, "Train these runs in separate groups.")


def find_common_step(runs: Sequence[Run]) -> int:
    """Return the newest step of which every run has a whole checkpoint, 0 if there is none."""
    for run in runs:
        find_checkpoint(run.folder, remove_broken=True)
    steps = [{step_of(path) for path in run.folder.glob("checkpoint-*") if is_whole(path)} for run in runs]
    return max(set.intersection(*steps), default=0)
