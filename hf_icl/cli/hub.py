"""Publishing runs on the Hub and bringing them back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hf_icl.cli.app import Public, RunFolder, app, console, quiet_hub, say
from hf_icl.errors import ConfigError, HubError, RunError

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
Wait = Annotated[float, typer.Option(min=0.1, help="Longest wait for the Hub at the end, in seconds.")]


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
    config=None,
):
    """Return where to push, from words of the command line; of a run that is yet to train, check that it can be."""
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
    """Publish a run: checkpoints as revisions step-00012000, report, card and history. Private unless --public.

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


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="A run on the Hub.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A new folder; default: runs/REPO.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A tag such as step-00012000; default: the newest.")
    ] = None,
) -> None:
    """Bring a published run back, so that report, evaluate and resume work on it.

    Example: `hf-icl pull me/transience runs/mine`
    """
    from hf_icl.hub.pull import pull_run
    from hf_icl.report.write import write_report

    target = folder or Path("runs") / repo.rpartition("/")[2]
    with quiet_hub(), console.status(f"Pulling {repo} …"):
        run = pull_run(repo, target, revision=revision)
        if run.history.rows:
            write_report([run.record()], target / "report")
    state = "finished" if run.is_finished else f"go on with: hf-icl resume {target}"
    say(f"{repo} is now in {target} ({state}).")


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


def evaluate_revisions(repo: str) -> None:
    """Measure every published revision again and print it beside what was published; exit with 1 where they differ."""
    from hf_icl.hub.revisions import measure_revisions
    from hf_icl.task.evaluators import ICL, IWL

    table = Table("revision", "ICL", "IWL", "largest difference from the published history", title=repo)
    worst = 0.0
    with quiet_hub(), console.status("Measuring revisions …") as status:
        for found in measure_revisions(repo):
            status.update(f"Measured {found.tag} …")
            worst = max(worst, found.difference or 0.0)
            cells = (f"{found.metrics[name]:.4f}" if name in found.metrics else "–" for name in (ICL, IWL))
            gap = "not measured then" if found.difference is None else f"{found.difference:.2g}"
            table.add_row(found.tag, *cells, gap)
    console.print(table)
    if worst > 1e-4:
        raise RunError(
            f"{repo}: what was measured now differs from the published history by up to {worst:.2g}."
        )
