"""The history of a run, measured again on its published revisions."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi
from transformers import PreTrainedModel

from hf_icl.circuits.instrument import find_instruments
from hf_icl.errors import HubError
from hf_icl.hub.bounds import finish_within
from hf_icl.hub.contents import is_ours
from hf_icl.hub.publisher import list_revisions
from hf_icl.hub.pull import fetch_files, pull_run
from hf_icl.hub.remote import Remote
from hf_icl.models.build import load_model
from hf_icl.runs.run import MODEL_FILES


@dataclass(frozen=True)
class Remeasured:
    """One revision, measured again.

    Attributes:
        step: Its step.
        tag: Its name on the Hub.
        metrics: What was measured now.
        published: What the published history says, None where it has no such row.
    """

    step: int
    tag: str
    metrics: dict[str, float]
    published: dict[str, float] | None

    @property
    def difference(self) -> float | None:
        """Largest difference between the two over all metrics, None where nothing was published."""
        if self.published is None:
            return None
        return max(abs(self.metrics[name] - value) for name, value in self.published.items())


def measure_revisions(
    repo_id: str,
    *,
    max_gigabytes: float = 10.0,
    max_seconds: float = 3600.0,
    api: HfApi | None = None,
    track: Callable = iter,
) -> Iterator[Remeasured]:
    """Measure every step revision of a published run, from the Hub alone.

    Args:
        repo_id: user/name.
        max_gigabytes: The most that the files of one revision may take.
        max_seconds: The longest that the Hub is waited for, for each revision.
        api: The Hub's client.
        track: Wraps the list of tags, to show progress.

    Raises:
        HubError: If the Hub cannot be reached, there is no run with revisions, or one cannot be measured.
    """
    remote = Remote(repo_id, api=api)
    with tempfile.TemporaryDirectory() as scratch:
        bounds = {"max_gigabytes": max_gigabytes, "max_seconds": max_seconds}
        run = pull_run(repo_id, Path(scratch) / "run", api=api, **bounds)
        task = run.build_task()
        instruments = find_instruments(run.config.evaluate.instruments)
        rows = {row["step"]: row["metrics"] for row in run.history.rows}
        for step, (tag, commit) in track(find_revisions(remote, max_seconds).items()):
            model = load_revision(remote, tag, commit, **bounds)
            try:
                metrics, _ = task.measure(model, instruments=instruments)
            except Exception as error:  # a model's settings decide what it runs into
                said = f"{type(error).__name__}: {error}"
                raise HubError(f"{repo_id}, {tag}: its model cannot be measured ({said}).") from error
            yield Remeasured(step, tag, metrics, rows.get(step))


def find_revisions(remote: Remote, max_seconds: float = 3600.0) -> dict[int, tuple[str, str]]:
    """Return the step revisions of a published run by rising step: tag and commit.

    Raises:
        HubError: If the Hub cannot be reached, or there is none.
    """
    revisions = finish_within(max_seconds, lambda: list_revisions(remote), _late(remote, max_seconds))
    if not revisions:
        way_on = f"Push some with: hf-icl push RUN {remote.repo_id}"
        raise HubError(f"{remote.repo_id}: no revision is tagged step-…. {way_on}")
    return revisions


def load_revision(
    remote: Remote, tag: str, commit: str, *, max_gigabytes: float = 10.0, max_seconds: float = 3600.0
) -> PreTrainedModel:
    """Fetch the model of one revision, and load it.

    Raises:
        HubError: If the Hub cannot be reached, it is larger than allowed, or no model that can be loaded.
    """
    fetch = partial(_fetch_model, remote, commit, max_gigabytes)
    cached = finish_within(max_seconds, fetch, _late(remote, max_seconds))
    with tempfile.TemporaryDirectory() as folder:
        for name, path in cached.items():
            shutil.copyfile(path, Path(folder) / name)
        try:
            return load_model(folder)
        except Exception as error:  # a model's settings decide what it runs into
            said = str(error).replace(folder, "what came")
            raise HubError(f"{remote.repo_id}, {tag}: its model cannot be loaded ({said}).") from error


def _late(remote: Remote, max_seconds: float) -> str:
    return f"{remote.repo_id}: {max_seconds:g} seconds were not enough. Try again."


def _fetch_model(remote: Remote, commit: str, max_gigabytes: float) -> dict[str, Path]:
    files = {name: file for name, file in remote.list_files(commit).items() if is_ours(name)}
    models = {
        name: file for name, file in files.items() if any(fnmatchcase(name, each) for each in MODEL_FILES)
    }
    return fetch_files(remote, commit, models, max_gigabytes)
