"""Publishing runs on the Hub and bringing them back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_icl.cli.app import Public, RunFolder, app, console, quiet_hub, say
from hf_icl.cli.publishing import (
    DatasetRepo,
    MaxGigabytes,
    MaxRevisions,
    Revisions,
    Space,
    Wait,
    finish,
    make_target,
)
from hf_icl.errors import ConfigError


@app.command()
def push(
    folder: RunFolder,
    repo: Annotated[
        str | None,
        typer.Argument(metavar="[USER/REPO]", help="Where to; default: where it was pushed before."),
    ] = None,
    revisions: Revisions = "geometric",
    max_revisions: MaxRevisions = 20,
    max_gb: MaxGigabytes = 10.0,
    public: Public = False,
    space: Space = None,
    dataset: DatasetRepo = None,
    wait: Wait = 600.0,
) -> None:
    """Publish a run: checkpoints as revisions step-00012000, report, card and history.
    Private unless --public.

    Pushing again adds what is missing. Exit code 3: something waits in the run folder for the next push.

    Example: `hf-icl push runs/default-seed0 me/transience --revisions geometric --space me/transience-report`
    """
    from hf_icl.hub.publisher import Publisher, plan_push
    from hf_icl.hub.target import Target
    from hf_icl.runs.run import Run

    run = Run.open(folder)
    target = Target.load(folder)
    if target is not None and repo is None:
        target = target.replace(wait_seconds=wait)
    if repo is not None:
        target = make_target(
            repo, public=public, revisions=revisions, max_revisions=max_revisions, max_gigabytes=max_gb,
            space=space, dataset=dataset, wait=wait,
        )  # fmt: skip
    if target is None:
        hint = "Name a repository: hf-icl push RUN USER/REPO"
        raise ConfigError("repository", None, f"{folder} was not pushed anywhere yet", hint)
    plan = plan_push(run, target)
    target.save(folder)
    say(str(plan))
    with quiet_hub(), Publisher(run, plan) as publisher:
        finish(publisher)


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="A run on the Hub.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A new folder; default: runs/REPO.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A tag such as step-00012000; default: the newest.")
    ] = None,
    max_gb: MaxGigabytes = 10.0,
    wait: Wait = 3600.0,
) -> None:
    """Bring a published run back, so that report, evaluate and resume work on it.

    Example: `hf-icl pull me/transience runs/mine`
    """
    from hf_icl.hub.pull import pull_run

    target = folder or Path("runs") / repo.rpartition("/")[2]
    with quiet_hub(), console.status(f"Pulling {repo} …"):
        run = pull_run(repo, target, revision=revision, max_gigabytes=max_gb, max_seconds=wait, report=True)
    state = "finished" if run.is_finished else f"go on with: hf-icl resume {target}"
    say(f"{repo} is now in {target} ({state}).")
