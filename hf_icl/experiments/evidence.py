"""The folder of some claims' runs: which claim was fixed when, by digest, and the runs that count for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hf_icl.errors import RunError
from hf_icl.experiments.claim import Claim, ClaimFile
from hf_icl.experiments.measuring import Measured
from hf_icl.experiments.plan import Plan
from hf_icl.experiments.stages import Stages, open_stages
from hf_icl.files import is_unused, write_whole
from hf_icl.history.origin import describe_origin
from hf_icl.reading import read_json
from hf_icl.runs.folder import read_record

EVIDENCE_FILE = "evidence.json"
SCHEMA = 1


class Evidence:
    """A folder of runs that claims are judged by.

    `evidence.json` keeps of each claim its digest when its first runs began, so that a criterion that was
    changed with the results in sight is told from one that was fixed beforehand. Runs lie in a set of their
    own for each base.

    Args:
        folder: A new or empty folder, or one that was made so.

    Raises:
        RunError: If it holds something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._measured: dict[Path, Measured] = {}
        path = self.folder / EVIDENCE_FILE
        if path.exists():
            self.about = self._read(path)
        elif not is_unused(self.folder):
            raise RunError(f"{folder}: is there already and holds no claims' runs. Choose another --output.")
        else:
            self.about = {"schema": SCHEMA, "claims": {}, "seconds": 0.0}

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            about = read_json(path)
            if about["schema"] == SCHEMA and isinstance(about["claims"], dict):
                return about
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: cannot be read ({error}). Without it no run here counts.") from error
        raise RunError(f"{path}: was written by another version of hf_icl. Choose another --output.")

    def _save(self) -> None:
        write_whole(self.folder / EVIDENCE_FILE, json.dumps(self.about, indent=1).encode())

    def refuse(self, file: ClaimFile) -> str | None:
        """Return why runs here are no evidence for a claim as its file now says it; None if they are.

        A claim is known by its id; one that has no runs here yet is welcome.
        """
        known = self.about["claims"].get(file.claim.id)
        if known is None or known["digest"] == file.digest:
            return None
        return (
            f"its file was changed after its runs began on {known['began'][:10]} (digest "
            f"{known['digest'][:12]} then, {file.digest[:12]} now): put it back, or start in another folder"
        )

    def begin(self, files: Sequence[ClaimFile]) -> None:
        """Fix claims before their runs are made; those that are fixed already stay as they are."""
        for file in files:
            if file.claim.untestable is None:
                self.about["claims"].setdefault(file.claim.id, describe_fixing(file))
        self._save()

    def add_seconds(self, seconds: float) -> None:
        """Count wall time that was spent on training here."""
        self.about["seconds"] += seconds
        self._save()

    def open_runs(self, plan: Plan, workers: int | None = None) -> dict[str, Stages]:
        """Return the runs of a plan by base, those in the folder and those to be made."""
        return {
            base: open_stages(points, self.folder / Path(base).stem, workers)
            for base, points in plan.points.items()
        }

    def find_done(
        self, plan: Plan, opened: Mapping[str, Stages], claim: Claim
    ) -> dict[tuple[str, int], Path]:
        """Return the folders of a claim's finished runs, by arm and seed."""
        if claim.untestable is not None or claim.id not in plan.seeds:
            return {}
        places = opened[claim.scales[plan.scale].base].places
        own = {
            (arm, seed): places[key] for (owner, arm, seed), key in plan.places.items() if owner == claim.id
        }
        return {run: place.folder for run, place in own.items() if place.runs.is_done(place.name)}

    def collect(
        self, plan: Plan, opened: Mapping[str, Stages], claim: Claim
    ) -> dict[tuple[str, int], Measured]:
        """Return a claim's finished runs, by arm and seed."""
        found = self.find_done(plan, opened, claim)
        return {run: self._measure(folder) for run, folder in found.items()}

    def _measure(self, folder: Path) -> Measured:
        if folder not in self._measured:
            self._measured[folder] = Measured(read_record(folder))
        return self._measured[folder]


def describe_fixing(file: ClaimFile) -> dict[str, Any]:
    """Return what is kept of a claim when its runs begin: digest, time, file, commit that fixed it."""
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    return {
        "digest": file.digest, "began": began, "file": file.path.name, "fixed_at": find_commit(file.path),
        "code_at": describe_origin(0)["commit"],
    }  # fmt: skip


def find_commit(path: Path) -> str | None:
    """Return the commit in which a file last changed; None if it is in none, or has changed since."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(path.parent), *words, "--", path.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return None if git("status", "--porcelain") else git("log", "-1", "--format=%H") or None
    except (OSError, subprocess.CalledProcessError):
        return None
