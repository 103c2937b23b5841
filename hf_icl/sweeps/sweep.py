"""A sweep is a folder: `sweep.yaml`, an ordinary run folder for each run under `runs/`,
and `report/` over all."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hf_icl.errors import RunError
from hf_icl.files import write_whole
from hf_icl.history.history import HISTORY_FILE
from hf_icl.report.write import Report, write_report
from hf_icl.runs.run import Run
from hf_icl.sweeps.config import SweepConfig, digest, label_keys, list_points
from hf_icl.sweeps.jobs import Job, share_out
from hf_icl.training.checkpoints import find_checkpoint, step_of

SWEEP_FILE, RUNS, REPORT, LOGS = "sweep.yaml", "runs", "report", "logs"


class Sweep:
    """A sweep and its folder. Nothing is written before `create_runs`.

    Runs that are in the folder already are known by their configs, so that points can be added to a sweep.

    Args:
        config: What varies.
        folder: A new or empty folder, or that of the same sweep, stopped earlier or with fewer points.

    Attributes:
        points: By name of run folder.

    Raises:
        ConfigError: If a run's config is wrong.
        RunError: If the folder holds something else, or runs that the sweep no longer has.
    """

    def __init__(self, config: SweepConfig, folder: str | Path) -> None:
        self.config, self.folder = config, Path(folder)
        points = list_points(config)
        there = self._find_runs()
        renamed = [replace(point, name=there.pop(digest(point.config), point.name)) for point in points]
        if there:
            raise RunError(
                f"{self.folder}: holds runs that this sweep does not have: "
                f"{', '.join(sorted(there.values()))}. "
                "Points can be added to a sweep, not changed or taken away. "
                "Put the file back, or choose another --output."
            )
        self.points = {point.name: point for point in renamed}

    def _find_runs(self) -> dict[str, str]:
        """Return digests of the configs of the runs in the folder, to their names."""
        if not self.folder.exists() or self.folder.is_dir() and not any(self.folder.iterdir()):
            return {}
        if not (self.folder / SWEEP_FILE).exists():
            raise RunError(f"{self.folder}: is there already and is no sweep. Choose another --output.")
        made = (path for path in sorted(self.folder.glob(f"{RUNS}/*")) if not path.name.startswith("."))
        return {digest(Run.open(path).config): path.name for path in made}

    def run_folder(self, name: str) -> Path:
        """Return where a run lies."""
        return self.folder / RUNS / name

    def create_runs(self, tell: Callable[[str], Any] = lambda text: None) -> None:
        """Make the folders that are not there yet, each checked by building its task and model."""
        text = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        write_whole(self.folder / SWEEP_FILE, text.encode())
        for number, point in enumerate(self.points.values(), start=1):
            if not self.run_folder(point.name).exists():
                tell(f"Checking run {number} of {len(self.points)}: {point.name}")
                command = shlex.join(["hf-icl", "run", self.config.base, *point.words])
                Run.create(point.config, self.run_folder(point.name), command=command)

    def share_out(self, n_workers: int) -> list[Job]:
        """Return the jobs that are still to be done."""
        left = {name: point.config for name, point in self.points.items() if not self.is_done(name)}
        reached = {name: step_of(found) for name in left if (found := find_checkpoint(self.run_folder(name)))}
        return share_out(left, n_workers, reached)

    def is_done(self, name: str) -> bool:
        """Whether a run is trained and has its report."""
        return is_done(self.run_folder(name))

    def find_step(self, name: str) -> int:
        """Return the step of a run's newest evaluation."""
        return read_last_step(self.run_folder(name) / HISTORY_FILE)

    def find_varied(self) -> dict[str, str]:
        """Return the keys that vary, seeds left out, to what they are called."""
        values = next(iter(self.points.values())).values
        labels = label_keys(values, self.config.labels)
        return {key: label for key, label in labels.items() if key.rpartition(".")[2] != "seed"}

    def write_report(self) -> Report:
        """Write the report over all runs."""
        records = [Run.open(self.run_folder(name)).record() for name in self.points]
        return write_report(records, self.folder / REPORT, varied=self.find_varied())


def is_done(folder: Path) -> bool:
    """Whether a run folder is trained to the end, or diverged, and has its report."""
    if not (folder / "README.md").exists():
        return False
    run = Run.open(folder)
    return run.is_finished or run.diverged_step is not None


def read_last_step(history: Path, n_bytes: int = 1 << 16) -> int:
    """Return the step of the last whole row of a history file, 0 if there is none; reads its end only."""
    try:
        with open(history, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - n_bytes))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, ValueError):
        return 0
