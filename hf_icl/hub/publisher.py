"""Publishing a run: while it trains, at its end, or later."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from filelock import Timeout
from huggingface_hub import HfApi, SpaceCard
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_icl.errors import ConfigError, RunError
from hf_icl.hub.contents import REPORT_FOLDER, describe_step, list_checkpoints, put_closing, put_step
from hf_icl.hub.outbox import Outbox
from hf_icl.hub.pusher import BackgroundPusher, Pusher, insist
from hf_icl.hub.remote import Remote, find_amiss
from hf_icl.hub.repos import commit_files, describe_visibility, prepare_repo
from hf_icl.hub.target import Target, name_tag, read_tag
from hf_icl.reading import parse_json
from hf_icl.report.analysis import analyse
from hf_icl.runs.config import RunConfig
from hf_icl.runs.folder import RUN_FILE
from hf_icl.runs.run import Run, list_model_files

logger = logging.getLogger(__name__)

STATE_PER_WEIGHT = 2  # AdamW keeps two numbers for each trained weight


@dataclasses.dataclass(frozen=True)
class PushPlan:
    """What is going to be published, told before the first byte goes out.

    Attributes:
        target: Where.
        steps: Steps that become revisions.
        n_bytes: Of all of them together, about.
    """

    target: Target
    steps: list[int]
    n_bytes: float

    def __str__(self) -> str:
        where = describe_visibility(self.target.repo_id, "model", public=self.target.public)
        size = f"{len(self.steps)} revisions of about {self.n_bytes / max(1, len(self.steps)) / 1e6:.3g} MB"
        first_last = f" ({name_tag(self.steps[0])} to {name_tag(self.steps[-1])})" if self.steps else ""
        return f"{where} {size}{first_last}, and the report."


def plan_training(run: Run, target: Target) -> PushPlan:
    """Return what will be published of a run that is yet to train, or to train on.

    Raises:
        ConfigError: If the steps cannot be chosen beforehand, or are too many or too large.
    """
    return _plan(target, choose_steps(run.config, target), run.about.get("model_bytes", 0))


def choose_steps(config: RunConfig, target: Target) -> list[int]:
    """Return which of the checkpoints that a run will write are to be published."""
    if target.selection.steps == "landmarks":
        rule = "onset, peak and decay are known when the run is over"
        hint = "Keep all checkpoints (training.keep_checkpoints=null), and push afterwards: hf-icl push RUN"
        raise ConfigError("steps", "landmarks", rule, hint)
    last, every = config.training.steps, config.training.checkpoint_every
    return target.selection.choose([*range(every, last, every), last])


def plan_push(run: Run, target: Target) -> PushPlan:
    """Return what will be published of the checkpoints that a run has on disk."""
    there = list_checkpoints(run.folder)
    known = Target.load(run.folder)
    if known is not None and known.selection == target.selection and target.selection.steps != "landmarks":
        steps = [step for step in choose_steps(run.config, target) if step in there]  # as while it trained
        return _plan(target, steps, run.about.get("model_bytes", 0))
    summary = analyse([run.record()]).document["runs"][0]["measures"] if run.history.rows else {}
    steps = target.selection.choose(list(there), summary)
    size = sum(path.stat().st_size for path in list_model_files(there[steps[-1]])) if steps else 0
    return _plan(target, steps, size)


def _plan(target: Target, steps: list[int], n_bytes_model: int) -> PushPlan:
    n_bytes = len(steps) * n_bytes_model * (1 + STATE_PER_WEIGHT)
    target.selection.check_size(n_bytes)
    return PushPlan(target, steps, n_bytes)


class PublishCallback(TrainerCallback):
    """Publishes chosen checkpoints while training goes on; a step waits for links to its files,
    not for the network.

    Args:
        run: The run folder.
        steps: Which steps to publish.
        outbox: Where they wait.
        pusher: What takes them from there.
    """

    def __init__(self, run: Path, steps: Collection[int], outbox: Outbox, pusher: BackgroundPusher) -> None:
        self.run, self.steps, self.outbox, self.pusher = run, frozenset(steps), outbox, pusher

    def on_save(self, args, state, control, **kwargs) -> None:
        """Put the checkpoint just saved into the outbox. Training goes on where that fails:
        the checkpoint is whole."""
        if not state.is_world_process_zero or state.global_step not in self.steps:
            return
        try:
            put_step(self.outbox, self.run, self.run / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        except RunError as error:
            logger.warning("%s", error)
            return
        self.pusher.wake()


@dataclasses.dataclass(frozen=True)
class Progress:
    """What became of a run's pushes.

    Attributes:
        pushed: Steps that are revisions on the Hub.
        n_waiting: Commits in the outbox.
        trouble: Why they wait; None if nothing is wrong.
    """

    pushed: list[int]
    n_waiting: int
    trouble: str | None


class Publisher:
    """Publishes one run in the background: revisions while it trains, report and card at the end.

    One process at a time can publish a run.

    Attributes:
        callback: Feeds the outbox while a `Trainer` trains.

    Example (a whole program is `examples/push_report.py`)::

        with Publisher(run, plan_training(run, target)) as publisher:
            run.train(callbacks=[publisher.callback])
            progress = publisher.close()
    """

    def __init__(self, run: Run, plan: PushPlan, *, api: HfApi | None = None) -> None:
        self.run, self.plan = run, plan
        self.pusher = make_pusher(run, plan.target, api=api)
        self.outbox = self.pusher.outbox
        self.background = BackgroundPusher(self.pusher)
        self.callback = PublishCallback(run.folder, plan.steps, self.outbox, self.background)
        self._lock = self.outbox.lock()

    def __enter__(self) -> Self:
        """Begin with what an earlier process has left. The Hub is asked in the background alone: training
        goes on whatever it answers, or does not.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"{self.run.folder}: another process is publishing it. Wait for its end."
            ) from error
        self.outbox.tidy()
        if not self.run.is_finished:  # training, which goes on, may drop them
            self._put_missing()
        self.background.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.background.stop()
        self._lock.release()

    def close(self) -> Progress:
        """Add what is on disk and not on the Hub, and report and card;
        wait for it as long as the target says.

        Repeating it changes nothing on the Hub. Nothing is raised where the Hub cannot be reached or refuses.
        """
        target = self.plan.target
        put_closing(self.outbox, self.run, repo_id=target.repo_id, dataset=target.dataset)
        self.pusher.refill = self._refill
        self.background.wake()
        seconds = self.plan.target.wait_seconds
        ended = self.background.drain(seconds)
        late = "" if ended else f"{seconds:g} seconds were not enough. "
        n_waiting = len(self.outbox.names())
        trouble = f"{late}{self.pusher.trouble or ''}".strip() if n_waiting else None
        return Progress(sorted([*self.pusher.published]), n_waiting, trouble)

    def _refill(self) -> None:
        """See which steps are on the Hub, and put those that are not, and are on disk, into the outbox."""
        self.pusher.prepare_once()
        self.pusher.published = self._look()
        self._put_missing()

    def _look(self) -> dict[int, str]:
        """Return the steps whose revisions hold what they should, and the commit of each.

        Raises:
            HubError: If the Hub cannot be asked, or a tag of the plan is on a commit of something else.
        """
        remote, found = self.pusher.remote, {}
        if remote.find() is None:
            return {}
        checkpoints = list_checkpoints(self.run.folder)
        for step, (tag, commit) in list_revisions(remote).items():
            if self.pusher.published.get(step) == commit:
                found[step] = commit
                continue
            ours = describe_step(self.run.folder, step, checkpoints.get(step))
            if find_amiss(remote.list_files(commit), ours) is None:
                found[step] = commit
            elif step in self.plan.steps:
                raise remote.conflict(tag, commit)
        return found

    def _put_missing(self) -> None:
        """Put chosen checkpoints that are on disk, and neither wait nor are known to be on the Hub, into the
        outbox. One that cannot be is told: the others, and training, go on."""
        done = {*self.outbox.steps, *self.pusher.published}
        for step, checkpoint in list_checkpoints(self.run.folder).items():
            if step in self.plan.steps and step not in done:
                try:
                    put_step(self.outbox, self.run.folder, checkpoint)
                except RunError as error:
                    logger.warning("%s", error)


def make_pusher(run: Run, target: Target, *, api: HfApi | None = None) -> Pusher:
    """Return the pusher of a run's outbox."""
    remote = Remote(target.repo_id, api=api)
    return Pusher(Outbox(run.folder), remote, lambda: _prepare(run, target, remote))


def _prepare(run: Run, target: Target, remote: Remote) -> None:
    """Make the repository unless it is there, and make sure that it is not another run's."""
    head = prepare_repo(remote, public=target.public)
    file = remote.list_files(head.commit).get(RUN_FILE)
    if file is None:
        return
    try:
        theirs = parse_json(remote.read(RUN_FILE, file, head.commit))
    except ValueError as error:
        theirs = {"config": f"none that can be read: {error}"}
    if not isinstance(theirs, dict) or theirs.get("config") != run.about["config"]:
        rule = f"{target.repo_id} holds another run, made with other settings"
        raise ConfigError("repository", target.repo_id, rule, "Push to a repository of its own.")


def push_space(run: Run, space: str, *, public: bool, api: HfApi | None = None) -> str:
    """Put the report's page into a static Space, and return its address.

    Raises:
        RunError: If the run has no report.
        HubError: If the Hub cannot be reached, or refuses.
    """
    remote = Remote(space, "space", api=api)
    page = run.folder / REPORT_FOLDER / "index.html"
    if not page.exists():
        raise RunError(f"{run.folder}: there is no report yet. Write it with: hf-icl report {run.folder}")
    card = SpaceCard(
        f"---\n{json.dumps(_describe_space(run), indent=1)}\n---\n\nA transience report, by hf_icl.\n"
    )
    files = {"index.html": page, "README.md": str(card).encode()}

    def push() -> None:
        head = prepare_repo(remote, public=public, space_sdk="static")
        commit_files(remote, files, message="Transience report", parent=head.commit)

    insist(push)
    return f"{remote.api.endpoint}/spaces/{space}"


def _describe_space(run: Run) -> Mapping[str, Any]:
    return {"title": f"Transience: {run.folder.name}"[:60], "sdk": "static", "tags": ["hf-icl", "transience"]}


def describe_progress(run: Run, target: Target, progress: Progress) -> str:
    """Say plainly what is on the Hub and what is not."""
    tags = [name_tag(step) for step in progress.pushed]
    shown = ", ".join(tags if len(tags) <= 4 else [*tags[:2], "…", tags[-1]])
    there = f"On the Hub, {target.repo_id}: {len(tags)} revisions" + (f" ({shown})" if tags else "")
    if not progress.n_waiting:
        return f"{there}, report and card."
    return (
        f"{there}. Not on the Hub: {progress.n_waiting} commits wait in {Outbox(run.folder).folder}. "
        f"{progress.trouble} Everything is on disk. Push the rest with: hf-icl push {run.folder}"
    )


def list_revisions(remote: Remote) -> dict[int, tuple[str, str]]:
    """Return the revisions of a repository that are steps, by rising step: tag and commit."""
    steps = {read_tag(tag): (tag, commit) for tag, commit in sorted(remote.list_tags().items())}
    return {step: steps[step] for step in sorted(step for step in steps if step is not None)}
