"""The runs of claims in a folder, in stages: those from which others graft are trained before them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hf_icl.experiments.sources import MARK
from hf_icl.runs.config import RunConfig
from hf_icl.runs.run import Run
from hf_icl.sweeps.config import Point, digest
from hf_icl.sweeps.sweep import RUNS, RunSet

INTERVENTIONS = "training.interventions"


class Place(NamedTuple):
    """Where a planned run lies.

    Attributes:
        runs: The set that it is trained with.
        name: Of its folder.
    """

    runs: RunSet
    name: str

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.runs.run_folder(self.name)


@dataclasses.dataclass(frozen=True)
class Stages:
    """The runs on one base.

    Attributes:
        sets: In the order in which they are to be trained.
        places: Digest of a run's config, as planned, to where it lies.
    """

    sets: tuple[MovableRuns, ...]
    places: Mapping[str, Place]


class MovableRuns(RunSet):
    """Runs whose folder may have been moved: what they graft from lies beside them still."""

    def _find_runs(self) -> dict[str, RunConfig]:
        found = super()._find_runs()

        def find(source: str) -> str:
            path = Path(source)
            is_here = path.parent.name == RUNS and path.name in found
            return str(self.run_folder(path.name).resolve()) if is_here else source

        return {name: put_sources_into(config, find) for name, config in found.items()}

    def leave_out_unfinished_sources(self) -> None:
        """Leave out runs that would graft from one that diverged: there is nothing to take."""
        for name, point in list(self.points.items()):
            if not all(Run.open(source).is_finished for source in list_sources(point.config)):
                del self.points[name]


def open_stages(points: Sequence[Point], folder: Path, workers: int | None = None) -> Stages:
    """Return the runs of a plan on one base, those in a folder and those to be made.

    Args:
        points: The runs; a graft's source is the mark of a source and the digest of one of their configs.
        folder: Where they are or will be.
        workers: Processes that train at a time.
    """
    left, sets, places = list(points), [], {}
    while left:
        ready = [
            point for point in left if all(_read_key(one) in places for one in list_sources(point.config))
        ]
        runs = MovableRuns([_resolve(point, places) for point in ready], folder, workers=workers)
        places |= {
            digest(point.config): Place(runs, name) for point, name in zip(ready, runs.points, strict=True)
        }
        sets.append(runs)
        left = [point for point in left if digest(point.config) not in places]
    return Stages(tuple(sets), places)


def _resolve(point: Point, places: Mapping[str, Place]) -> Point:
    """Return a run that grafts from folders."""
    folders = {key: str(place.folder.resolve()) for key, place in places.items()}
    config = put_sources_into(point.config, lambda source: folders[_read_key(source)])
    if not list_sources(config):
        return point
    changes = [
        one.model_dump(mode="json", exclude_defaults=True) | {"kind": one.kind}
        for one in config.training.interventions
    ]
    words = [word for word in point.words if not word.startswith(f"{INTERVENTIONS}=")]
    return dataclasses.replace(point, config=config, words=(*words, f"{INTERVENTIONS}={json.dumps(changes)}"))


def _read_key(source: str) -> str:
    return source.removeprefix(MARK)


def list_sources(config: RunConfig) -> list[str]:
    """Return from where a run grafts."""
    return [one.source for one in config.training.interventions if one.kind == "graft"]


def put_sources_into(config: RunConfig, change: Callable[[str], str]) -> RunConfig:
    """Return a config with each graft's source changed."""
    if not list_sources(config):
        return config
    changed = [
        one.replace(source=change(one.source)) if one.kind == "graft" else one
        for one in config.training.interventions
    ]
    return config.replace(training=config.training.replace(interventions=tuple(changed)))
