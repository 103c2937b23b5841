"""A sweep is a folder: `sweep.yaml`, an ordinary run folder for each run under `runs/`,
and `report/` over all."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hf_icl.errors import RunError
from hf_icl.files import is_unused, write_whole
from hf_icl.history.history import HISTORY_FILE, read_last_row
from hf_icl.report.write import Report, write_report
from hf_icl.runs.config import RunConfig
from hf_icl.runs.extending import extend
from hf_icl.runs.folder import CARD_FILE
from hf_icl.runs.run import Run
from hf_icl.sweeps.config import Point, SweepConfig, digest, label_keys, list_points
from hf_icl.sweeps.jobs import Job, share_out
from hf_icl.training.checkpoints import find_checkpoint, step_of

SWEEP_FILE, RUNS, REPORT, LOGS = "sweep.yaml", "runs", "report", "logs"


class RunSet:
    """Runs that are trained together, and the folder they lie in. Nothing is written before `create_runs`.

    Runs that are in the folder already are known by their configs, so that points can be added, and all given
    more steps. When a run is measured changes none of its numbers: it keeps its own schedule. What else is
    measured beside its evaluators, as heads, has to be the same.

    Args:
        points: The runs.
        folder: Where they are or will be, under `runs/`.
        workers: Processes that train at a time; None: as many as the machine has cores or GPUs for.

    Attributes:
        points: By name of run folder.
        others: Names of further runs in the folder, which are left alone.
    """

    def __init__(self, points: Sequence[Point], folder: str | Path, *, workers: int | None = None) -> None:
        self.folder, self.workers = Path(folder), workers
        there = self._find_runs()
        names = match_runs([point.config for point in points], there)
        self.others = sorted(there.keys() - names.values())
        taken = {*there, *names.values()}
        renamed = [
            replace(point, name=names.get(n) or tell_from(point, taken)) for n, point in enumerate(points)
        ]
        self.points = {point.name: point for point in renamed}

    def _find_runs(self) -> dict[str, RunConfig]:
        """Return the names of the runs in the folder to their configs."""
        made = (path for path in sorted(self.folder.glob(f"{RUNS}/*")) if not path.name.startswith("."))
        return {path.name: Run.open(path).config for path in made}

    def run_folder(self, name: str) -> Path:
        """Return where a run lies."""
        return self.folder / RUNS / name

    def create_runs(self, tell: Callable[[str], Any] = lambda text: None) -> None:
        """Make the folders that are not there yet, each checked by building its task and model; runs that are
        to have more steps than they were made for get them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, point in enumerate(self.points.values(), start=1):
            if not self.run_folder(point.name).exists():
                tell(f"Checking run {number} of {len(self.points)}: {point.name}")
                command = shlex.join(["hf-icl", "run", point.base, *point.words])
                Run.create(point.config, self.run_folder(point.name), command=command)
            elif (run := Run.open(self.run_folder(point.name))).config.training.steps < (
                steps := point.config.training.steps
            ):
                tell(f"Giving {point.name} {steps:,} steps")
                extend(run, steps)

    def share_out(self, n_workers: int) -> list[Job]:
        """Return the jobs that are still to be done."""
        left = {name: point.config for name, point in self.points.items() if not self.is_done(name)}
        reached = {name: step_of(found) for name in left if (found := find_checkpoint(self.run_folder(name)))}
        return share_out(left, n_workers, reached)

    def is_done(self, name: str) -> bool:
        """Whether a run is trained to the end and has its report."""
        folder = self.run_folder(name)
        return (
            is_done(folder)
            and Run.open(folder).config.training.steps == self.points[name].config.training.steps
        )

    def find_step(self, name: str) -> int:
        """Return the step of a run's newest evaluation."""
        return read_last_step(self.run_folder(name) / HISTORY_FILE)


class Sweep(RunSet):
    """A sweep and its folder.

    Args:
        config: What varies.
        folder: A new or empty folder, or that of the same sweep, stopped earlier, or with fewer points or
            steps.

    Raises:
        ConfigError: If a run's config is wrong.
        RunError: If the folder holds something else, or runs that the sweep no longer has.
    """

    def __init__(self, config: SweepConfig, folder: str | Path) -> None:
        self.config = config
        super().__init__(list_points(config), folder, workers=config.workers)
        if self.others:
            raise RunError(
                f"{self.folder}: holds runs that this sweep does not have: {', '.join(self.others)}. "
                "Points and steps can be added to a sweep, not changed or taken away. "
                "Put the file back, or choose another --output."
            )

    def _find_runs(self) -> dict[str, RunConfig]:
        if not is_unused(self.folder) and not (self.folder / SWEEP_FILE).exists():
            raise RunError(f"{self.folder}: is there already and is no sweep. Choose another --output.")
        return super()._find_runs()

    def create_runs(self, tell: Callable[[str], Any] = lambda text: None) -> None:
        """As of any runs; the sweep's file is put beside them first."""
        text = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        write_whole(self.folder / SWEEP_FILE, text.encode())
        super().create_runs(tell)

    def find_varied(self) -> dict[str, str]:
        """Return the keys that vary, seeds left out, to what they are called."""
        values = next(iter(self.points.values())).values
        labels = label_keys(values, self.config.labels)
        return {key: label for key, label in labels.items() if key.rpartition(".")[2] != "seed"}

    def write_report(self) -> Report:
        """Write the report over all runs."""
        records = [Run.open(self.run_folder(name)).record() for name in self.points]
        return write_report(records, self.folder / REPORT, varied=self.find_varied())


def match_runs(configs: Sequence[RunConfig], there: Mapping[str, RunConfig]) -> dict[int, str]:
    """Return which runs of a folder are which of a sweep's: numbers of configs to names.

    Equal configs first; then those that differ in when they are measured, or in having more steps to go.
    """
    found: dict[int, str] = {}
    free = dict(there)
    for alike in (digest, _digest_course):
        left = {alike(config): name for name, config in free.items()}
        for number, config in enumerate(configs):
            name = None if number in found else left.get(alike(config))
            if name in free and free[name].training.steps <= config.training.steps:
                found[number] = name
                del free[name]
    return found


def _digest_course(config: RunConfig) -> str:
    """Return what tells a config from those whose numbers up to a step are not the same."""
    known = config.evaluate
    beside = {"heads": known.heads, "repeats": known.repeats, "prompt": known.prompt, "text": known.text}
    evaluate = {"every": 1} | beside
    return digest(config.replace(training=config.training.replace(steps=1), evaluate=evaluate))


def tell_from(point: Point, taken: Collection[str]) -> str:
    """Return what a new run's folder is called beside others: its name, unless another run has it."""
    return f"{point.name}-{digest(point.config)[:8]}" if point.name in taken else point.name


def is_done(folder: Path) -> bool:
    """Whether a run folder is trained to the end, or diverged, and has its report."""
    if not (folder / CARD_FILE).exists():
        return False
    run = Run.open(folder)
    return run.is_finished or run.diverged_step is not None


def read_last_step(history: Path) -> int:
    """Return the step of the last whole row of a history file, 0 where there is none to read."""
    try:
        row = read_last_row(history)
        return 0 if row is None else int(row["step"])
    except (RunError, ValueError, KeyError, TypeError):
        return 0
