"""The history of a run, measured again on its published revisions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi

from hf_icl.circuits.instrument import find_instruments
from hf_icl.errors import HubError
from hf_icl.hub.contents import is_ours
from hf_icl.hub.publisher import list_tags
from hf_icl.hub.pull import pull_run
from hf_icl.hub.repos import explain_failures
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
    repo_id: str, *, api: HfApi | None = None, track: Callable = iter
) -> Iterator[Remeasured]:
    """Measure every step revision of a published run, from the Hub alone.

    Args:
        repo_id: user/name.
        api: The Hub's client.
        track: Wraps the list of tags, to show progress.

    Raises:
        HubError: If the Hub cannot be reached, or there is no run with revisions.
    """
    api = api or HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        run = pull_run(repo_id, Path(scratch) / "run", api=api)
        task = run.build_task()
        instruments = find_instruments(run.config.evaluate.instruments)
        rows = {row["step"]: row["metrics"] for row in run.history.rows}
        for step, tag in track(sorted(list_revisions(repo_id, api).items())):
            model = load_model(fetch_revision(repo_id, tag, api))
            metrics, _ = task.measure(model, instruments=instruments)
            yield Remeasured(step, tag, metrics, rows.get(step))


def list_revisions(repo_id: str, api: HfApi) -> dict[int, str]:
    """Return the step revisions of a published run, step to tag.

    Raises:
        HubError: If the Hub cannot be reached, or there is none.
    """
    with explain_failures(repo_id):
        tags = list_tags(api, repo_id)
    if not tags:
        way_on = f"Push some with: hf-icl push RUN {repo_id}"
        raise HubError(f"{repo_id}: no revision is tagged step-…. {way_on}")
    return tags


def fetch_revision(repo_id: str, tag: str, api: HfApi) -> str:
    """Return the folder, in the client's cache, that holds the model of one revision."""
    with explain_failures(repo_id):
        names = [name for name in api.list_repo_files(repo_id, revision=tag) if is_ours(name)]
        models = [name for name in names if any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)]
        return api.snapshot_download(repo_id, revision=tag, allow_patterns=models)
