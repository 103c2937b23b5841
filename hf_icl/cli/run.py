"""Making a run, going on with it, and asking what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from hf_icl.cli import publishing
from hf_icl.cli.app import (
    Overrides,
    Public,
    RunFolder,
    Source,
    app,
    console,
    quiet_hub,
    say,
    sort_words,
)
from hf_icl.errors import DivergedError

MAX_COLUMNS = 3  # of numbers, beside their names, in a terminal of 80


@app.command()
def run(
    source: Source = "default",
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The run folder; default: runs/PRESET-seedN.")] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/REPO", help="Publish on the Hub while it trains; see hf-icl push."),
    ] = None,
    revisions: publishing.Revisions = "geometric",
    max_revisions: publishing.MaxRevisions = 20,
    max_gb: publishing.MaxGigabytes = 10.0,
    public: Public = False,
    space: publishing.Space = None,
    dataset: publishing.DatasetRepo = None,
    push_wait: publishing.Wait = 600.0,
) -> None:
    """Train a model, watch ICL rise and fall, and write the report.

    Example: `hf-icl run default seed=1 training.steps=20000 --output runs/mine`
    """
    from hf_icl.distributed import on_main
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import Run

    source, overrides = sort_words(source, overrides)
    config = load_config(source, overrides)
    name = Path(source).name if Path(source).is_file() else source
    command = shlex.join(["hf-icl", "run", name, *overrides])
    target = push and publishing.make_target(
        push, public=public, revisions=revisions, max_revisions=max_revisions, max_gigabytes=max_gb,
        space=space, dataset=dataset, wait=push_wait, config=config,
    )  # fmt: skip

    def make() -> Run:
        folder = output or _free_folder(f"{Path(source).stem}-seed{config.seed}")
        made = Run.create(config, folder, command=command, progress=console.is_terminal)
        if target:
            target.save(folder)
        return made

    _join(config)
    _train_and_report(on_main(make))


@app.command()
def resume(folder: RunFolder) -> None:
    """Continue a run that was interrupted; its numbers equal those of a run that never was.

    Example: `hf-icl resume runs/default-seed0`
    """
    from hf_icl.runs.run import Run

    opened = Run.open(folder)
    if opened.is_finished:
        say(f"{folder} is finished; its report is written anew.")
    _join(opened.config)
    _train_and_report(opened)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write; default: RUN/report, or runs/report for several.")
    ] = None,
) -> None:
    """Write the transience report of one run, or of several together with intervals over them.

    Example: `hf-icl report runs/default-seed* --output runs/report`
    """
    from hf_icl.runs.folder import read_record

    records = [read_record(folder) for folder in folders]
    target = output or (folders[0] / "report" if len(folders) == 1 else Path("runs/report"))
    write_and_show(records, target)


@app.command()
def plan(
    source: Source = "default",
    overrides: Overrides = None,
    devices: Annotated[int, typer.Option(help="Devices that share a step.", min=1)] = 8,
    tflops: Annotated[
        float | None,
        typer.Option(help="Also say how long at so many TFLOP/s per device, sustained.", min=1e-6),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also build the model and time a few steps on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will cost before it is made: parameters, FLOPs, memory per device. Nothing is allocated.

    Example: `hf-icl plan gpt2-48x1600 training.arguments.bf16=true --devices 8`
    """
    from hf_icl.plan import estimate, measure_pace, render_budget
    from hf_icl.runs.config import load_config

    source, overrides = sort_words(source, overrides)
    config = load_config(source, overrides)
    budget = estimate(config, devices)
    pace = measure_pace(config) if measure else None
    if as_json:
        timed = {} if pace is None else {"pace": dataclasses.asdict(pace)}
        console.print_json(json.dumps(budget.to_dict() | timed))
        return
    console.print(render_budget(budget, source, tflops=tflops, pace=pace), highlight=False)


@app.command()
def presets(
    name: Annotated[
        str | None, typer.Argument(help="Print this preset, every default written out, or this sweep.")
    ] = None,
) -> None:
    """List the presets and the example sweeps, or print one as YAML to start from.

    Example: `hf-icl presets transience-omniglot-12l > mine.yaml`
    """
    from hf_icl.runs.presets import list_presets
    from hf_icl.sweeps.examples import find_sweep, list_examples

    if name in list_examples():
        sys.stdout.write(find_sweep(name).read_text("utf-8"))
        return
    if name is not None:
        from hf_icl.runs.config import load_config

        sys.stdout.write(yaml.safe_dump(load_config(name).to_dict(), sort_keys=False))
        return
    for what, listed in (("preset", list_presets()), ("sweep", list_examples())):
        table = Table(what, "what it is", box=None)
        for one, line in listed.items():
            table.add_row(f"[bold]{one}", escape(line))
        console.print(table)


def _free_folder(name: str) -> Path:
    candidates = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(folder for folder in candidates if not folder.exists())


def _join(config) -> None:
    """Meet the other processes of this run, if a launcher started several."""
    from hf_icl.distributed import join

    join(cpu=config.training.on_cpu)


def _train_and_report(made) -> None:
    from hf_icl.distributed import is_main, leave
    from hf_icl.runs.folder import CARD_FILE

    say(f"Run folder: {made.folder}  (stop at any time; continue: hf-icl resume {made.folder})")
    with quiet_hub(), _publisher(made) as publisher:
        diverged: DivergedError | None = None
        try:
            made.train(console, [publisher.callback] if publisher else [])
        except KeyboardInterrupt:
            say(f"Stopped. Continue with: hf-icl resume {made.folder}")
            raise typer.Exit(130) from None
        except DivergedError as error:  # the report says so too
            diverged = error
        leave()
        if is_main():
            write_and_show([made.record()], made.folder / "report", card=made.folder / CARD_FILE)
            if publisher:
                publishing.finish(publisher)
        if diverged is not None:
            raise diverged


def _publisher(made):
    """Return what publishes a run that has a place on the Hub; for others, and other processes, nothing."""
    from hf_icl.distributed import is_main
    from hf_icl.hub.publisher import Publisher, plan_training
    from hf_icl.hub.target import Target

    target = Target.load(made.folder) if is_main() else None
    if target is None:
        return contextlib.nullcontext()
    plan = plan_training(made, target)
    say(str(plan))
    return Publisher(made, plan)


def write_and_show(records: list, folder: Path, card: Path | None = None) -> None:
    """Write a report, then say in the terminal what it says: numbers first, so that the verdict stays in
    view."""
    from hf_icl.report.words import describe_group, describe_run
    from hf_icl.report.write import write_report

    with console.status("Computing intervals and drawing figures …"):
        report = write_report(records, folder, card=card)
    groups, runs = report.document["groups"], report.document["runs"]
    console.print(_tabulate_measures(runs) if len(runs) <= MAX_COLUMNS else _tabulate_runs(report.document))
    for group in groups:
        say(describe_group(group))
    for run in runs if len(runs) <= MAX_COLUMNS else ():
        verdict = run["verdict"] or "no verdict yet"
        console.print(
            f"[bold]{escape(run['name'])}: {verdict}.[/] {escape(describe_run(run))}", highlight=False
        )
    say(f"Report: {report.page}")


def _make_table(*heads: str) -> Table:
    """Return a table that breaks what is too long, and cuts nothing."""
    table = Table(box=None)
    for head in heads:
        table.add_column(escape(head), overflow="fold")
    return table


def _tabulate_measures(runs: list[dict[str, Any]]) -> Table:
    """Return every measure in a line, and a column for each run."""
    from hf_icl.report.words import list_table
    from hf_icl.task.evaluators import title_metric

    table = _make_table("", *(run["name"] for run in runs))
    for row in list_table(runs):
        table.add_row(f"{title_metric(row.metric)}, {row.title}", *map(escape, row.cells))
    return table


def _tabulate_runs(document: dict[str, Any]) -> Table:
    """Return a line for each group of replicas, or run without, and columns that a terminal has room for."""
    from hf_icl.report.words import format_measure, headline_entries, say_verdicts, title_measure
    from hf_icl.task.evaluators import ICL

    names = ("peak", "final", "half_decay_step")
    table = _make_table("", "verdict", *(f"ICL, {title_measure(name)}" for name in names))
    for entry in headline_entries(document):
        cells = [format_measure(entry, ICL, name, interval=False) for name in names]
        table.add_row(*map(escape, (entry["name"], say_verdicts(entry), *cells)))
    return table
