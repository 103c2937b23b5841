"""What several commands do with the Hub: the options of a push, its end, and runs fetched for a while."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_icl.cli.app import console, quiet_hub, say
from hf_icl.errors import ConfigError, HubError

if TYPE_CHECKING:
    from hf_icl.hub.target import Target
    from hf_icl.runs.config import RunConfig

NOT_ALL_PUSHED = 3  # exit code

Revisions = Annotated[
    str, typer.Option(help="Which checkpoints: geometric, all, landmarks, or steps as in 1000,2000.")
]
MaxRevisions = Annotated[int, typer.Option(min=1, help="The most revisions.")]
MaxGigabytes = Annotated[float, typer.Option(min=0.001, help="The most that they may take together.")]
Space = Annotated[
    str | None, typer.Option(help="Also put the report's page into this static Space, user/name.")
]
DatasetRepo = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="Results by the splits of this data set too, user/name; see hf-icl data push."
    ),
]
Wait = Annotated[float, typer.Option(min=0.1, help="Longest wait for the Hub, in seconds.")]


def make_target(
    repo: str,
    *,
    public: bool,
    revisions: str,
    max_revisions: int,
    max_gigabytes: float,
    space: str | None,
    dataset: str | None,
    wait: float,
    config: RunConfig | None = None,
) -> Target:
    """Return where to push, from words of the command line; of a run that is yet to train,
    check that it can be."""
    from hf_icl.hub.publisher import choose_steps
    from hf_icl.hub.target import Selection, Target

    try:
        steps = revisions if revisions.isalpha() else tuple(int(word) for word in revisions.split(","))
    except ValueError:
        rule = "must be geometric, all, landmarks, or steps"
        raise ConfigError("--revisions", revisions, rule, "For example 1000,2000.") from None
    selection = Selection(steps=steps, max_revisions=max_revisions, max_gigabytes=max_gigabytes)
    target = Target(
        repo_id=repo, public=public, selection=selection, space=space, dataset=dataset, wait_seconds=wait
    )
    if config is not None:
        choose_steps(config, target)
    return target


def finish(publisher) -> None:
    """Push the rest, say what is on the Hub and what is not, and exit with 3 if anything waits."""
    from hf_icl.hub.publisher import describe_progress, push_space

    run, target = publisher.run, publisher.plan.target
    with console.status(f"Pushing to {target.repo_id} …"):
        progress = publisher.close()
    say(describe_progress(run, target, progress))
    missing = progress.n_waiting > 0
    if target.space is not None:
        try:
            say(f"Page: {push_space(run, target.space, public=target.public)}")
        except HubError as error:
            say(f"The page is not on the Hub. {error} Push it with: hf-icl push {run.folder}")
            missing = True
    if missing:
        raise typer.Exit(NOT_ALL_PUSHED)


@contextmanager
def fetched(model: Path) -> Iterator[Path]:
    """Give a folder as it is; for USER/REPO that is no folder, the run that was pushed there, for a while."""
    if model.exists() or len(model.parts) != 2 or model.is_absolute():
        yield model
        return
    from hf_icl.hub.pull import pull_run

    with tempfile.TemporaryDirectory() as scratch:
        with quiet_hub(), console.status(f"Pulling {model.as_posix()} …"):
            run = pull_run(model.as_posix(), Path(scratch) / "run")
        yield run.folder
