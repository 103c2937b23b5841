"""A published run measured again: each of its revisions against the history that came with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from hf_icl.errors import HubError
from hf_icl.hub.publisher import list_revisions
from hf_icl.hub.pull import pull_run
from hf_icl.hub.remote import Remote
from hf_icl.traces.measuring import Measurer, Revision
from hf_icl.traces.names import Mark
from hf_icl.traces.questions import ask_of_run
from hf_icl.traces.sources import HubSource, UnusableError


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
        track: Wraps the list of revisions, to show progress.

    Raises:
        HubError: If the Hub cannot be reached, there is no run with revisions, or one cannot be measured.
    """
    source = HubSource(Remote(repo_id, api=api), max_gigabytes, max_seconds)
    with tempfile.TemporaryDirectory() as scratch:
        bounds = {"max_gigabytes": max_gigabytes, "max_seconds": max_seconds}
        run = pull_run(repo_id, Path(scratch) / "run", api=api, **bounds)
        rows = {row["step"]: row["metrics"] for row in run.history.rows}
        questions = ask_of_run(run.config)
        measurer = Measurer(source, run.build_task(), questions, Path(scratch) / "fetched", is_own=False)
        for one in track(find_revisions(source)):
            try:
                reading, _ = measurer.measure(one)
            except UnusableError as error:
                raise HubError(f"{repo_id}, {one.name}: {error}.") from error
            yield Remeasured(one.mark.step, one.name, reading.means, rows.get(one.mark.step))


def find_revisions(source: HubSource) -> list[Revision]:
    """Return the step revisions of a published run by rising step.

    Raises:
        HubError: If the Hub cannot be reached, or there is none.
    """
    found = source.wait_for(lambda: list_revisions(source.remote))
    if not found:
        way_on = f"Push some with: hf-icl push RUN {source.place}"
        raise HubError(f"{source.place}: no revision is tagged step-…. {way_on}")
    return [Revision(tag, Mark(step), commit) for step, (tag, commit) in found.items()]
