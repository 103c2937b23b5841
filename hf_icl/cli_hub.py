"""What the command line does with the Hub: push and pull, `run --push`, `data push`, `metrics push`. Thin, like the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hf_icl.errors import ConfigError, RunError

console = Console()

NOT_ALL_PUSHED = 3  # exit code

Public = Annotated[bool, typer.Option("--public", help="Let everyone see it; default: private.")]
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
    from hf_icl.hub.push import choose_steps
    from hf_icl.hub.selection import Selection
    from hf_icl.hub.target import Target

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


def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
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
    from hf_icl.hub.push import Publisher, plan_push
    from hf_icl.hub.target import Target
    from hf_icl.runs import Run

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
    from hf_icl.hub.push import describe_progress, push_space
    from hf_icl.hub.pusher import PushFailed

    run, target = publisher.run, publisher.plan.target
    with console.status(f"Pushing to {target.repo_id} …"):
        progress = publisher.close()
    say(describe_progress(run, target, progress))
    missing = progress.n_waiting > 0
    if target.space is not None:
        try:
            say(f"Page: {push_space(run, target.space, public=target.public)}")
        except PushFailed as error:
            say(f"The page is not on the Hub. {error} Push it with: hf-icl push {run.folder}")
            missing = True
    if missing:
        raise typer.Exit(NOT_ALL_PUSHED)


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
    from hf_icl.report import write_report

    target = folder or Path("runs") / repo.rpartition("/")[2]
    with quiet_hub(), console.status(f"Pulling {repo} …"):
        run = pull_run(repo, target, revision=revision)
        if run.history.rows:
            write_report([run.record()], target / "report")
    state = "finished" if run.is_finished else f"go on with: hf-icl resume {target}"
    say(f"{repo} is now in {target} ({state}).")


def push_data(
    source: Annotated[
        str, typer.Argument(metavar="PRESET|FILE.yaml", help="A preset (see `hf-icl presets`) or a file.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="USER/REPO", help="A dataset repository.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]…", help="Settings on top of it.")
    ] = None,
    public: Public = False,
    n_sequences: Annotated[int, typer.Option("--count", "-n", help="Training sequences.", min=1)] = 100_000,
    with_exemplars: Annotated[
        bool, typer.Option(help="Write the exemplars too, not only their indices.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Its configuration; default: after the bank.")] = None,
) -> None:
    """Put a task on the Hub, beside other configurations of a dataset repository. Private unless --public.

    Example: `hf-icl data push omniglot-cpu me/icl-sequences --count 1000000`
    """
    from hf_icl.build import build_task
    from hf_icl.data.export import name_configuration
    from hf_icl.data.push import push_dataset
    from hf_icl.hub.repos import describe_visibility, explain_failures
    from hf_icl.run_config import load_config

    told = describe_visibility(repo_id, "dataset", public=public)
    task = build_task(load_config(source, overrides), progress=console.is_terminal)
    name = name_configuration(task, name)
    say(told)
    with quiet_hub(), explain_failures(repo_id):
        new = push_dataset(
            task,
            repo_id,
            public=public,
            n_sequences=n_sequences,
            with_exemplars=with_exemplars,
            name=name,
            progress=console.is_terminal,
        )
    say(f"{'Pushed' if new else 'Nothing new'}. Read it with: load_dataset({repo_id!r}, {name!r})")


def push_metrics(
    repo_ids: Annotated[list[str], typer.Argument(metavar="USER/NAME…", help="NAME: one of the metrics.")],
    public: Public = False,
) -> None:
    """Make the Spaces of metrics, which `evaluate.load("user/name")` reads. Private unless --public.

    Example: `hf-icl metrics push me/query_accuracy me/flip_share me/transience --public`
    """
    from hf_icl.hub.repos import describe_visibility, explain_failures
    from hf_icl.metrics import find_metric
    from hf_icl.metrics.push import push_metric

    for repo_id in repo_ids:
        find_metric(repo_id.rpartition("/")[2])
    for told in [describe_visibility(repo_id, "space", public=public) for repo_id in repo_ids]:
        say(told)
    for repo_id in repo_ids:
        with quiet_hub(), explain_failures(repo_id):
            new = push_metric(repo_id, public=public)
        say(f"{'Pushed' if new else 'Nothing new'}. Load it with: evaluate.load({repo_id!r})")


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
    from hf_icl.summary import ICL, IWL

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


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the client's own bars and remarks; the command's status line shows progress."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    bars, level = not are_progress_bars_disabled(), hub_logging.get_verbosity()
    disable_progress_bars()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
