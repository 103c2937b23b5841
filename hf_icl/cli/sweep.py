"""`hf-icl sweep`: many runs with one command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hf_icl.cli.app import app, complete_sweeps, console, say


class Engine(StrEnum):
    """Who does the work."""

    local = "local"
    ray = "ray"


@app.command()
def sweep(
    source: Annotated[
        str,
        typer.Argument(
            metavar="EXAMPLE|FILE.yaml",
            help="What varies: a file, or an example's name.",
            autocompletion=complete_sweeps,
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="The sweep's folder; default: runs/EXAMPLE.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes at a time; default: as the file says, or one per GPU or core."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster; default: RAY_ADDRESS, or a new one on this machine."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained with what, and stop.")
    ] = False,
) -> None:
    """Train a grid or list of runs, stacked where they can be, and report on all of them together.

    The same command goes on where it stopped, whatever stopped it; points may have been added to the file.

    FILE.yaml holds:

    - `base`: a preset or a run's file; `set`: settings of all runs, `key: value`, as `hf-icl run` takes them

    - `grid`: `key: [values]`, a run for each combination; `points`: a list of further runs, `{key: value, …}`

    - `labels`: `key: word`, what a key is called in names and figures; `workers`: processes at a time

    `hf-icl presets` lists the examples; `hf-icl presets l2 > mine.yaml` writes one down to start from.

    Example: `hf-icl sweep l2 --output runs/l2`

    Example: `hf-icl sweep mine.yaml --engine ray --address auto`
    """
    from hf_icl.sweeps import Sweep, load_sweep, train_sweep
    from hf_icl.sweeps.jobs import tell_alone
    from hf_icl.sweeps.train import choose_n_workers

    config = load_sweep(source)
    made = Sweep(config, output or Path("runs") / Path(source).stem)
    n_workers = workers or choose_n_workers(made, engine, address)
    jobs = made.share_out(n_workers)
    n_left = sum(len(job.names) for job in jobs)
    n_done = len(made.points) - n_left
    say(f"{len(made.points)} runs, {n_done} finished; {n_workers} at work at a time. Folder: {made.folder}")
    for job in jobs:
        why = tell_alone({name: point.config for name, point in made.points.items()}, job)
        say(f"  {job}, steps {job.start:,} to {job.steps:,}" + (f" ({why})" if why else ""))
    if dry_run:
        return
    with console.status("Checking runs …") as status:
        made.create_runs(lambda text: status.update(escape(text)))
    try:
        train_sweep(made, console, n_workers=n_workers, engine=engine.value, address=address)
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from the last checkpoints.")
        raise typer.Exit(130) from None
    with console.status("Computing intervals and drawing figures …"):
        report = made.write_report()
    show_table(report.document)
    if diverged := [run["name"] for run in report.document["runs"] if run["diverged_step"] is not None]:
        say(f"Diverged, their loss being no number any more: {', '.join(diverged)}.")
    say(f"Report: {report.page}")


def show_table(document) -> None:
    """Print measures of ICL against what varies, or where seeds alone vary, the verdict on the replicas."""
    from hf_icl.report.sweep import list_sweep
    from hf_icl.report.words import describe_group

    if "sweep" not in document:
        for group in document["groups"]:
            say(describe_group(group))
        return
    head, rows = list_sweep(document["sweep"])
    table = Table(box=None)
    for title in head:
        table.add_column(escape(title), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
