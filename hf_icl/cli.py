"""The `hf-icl` command. Thin: it parses words, calls the library, and turns errors into one screen and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_icl import cli_hub, cli_sweep
from hf_icl.errors import ConfigError, HfIclError, LostProcessError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="When in-context learning appears in a Hugging Face model, and when it fades.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at the sequences of a task, export or publish them.")
app.add_typer(data_app, name="data")
metrics_app = typer.Typer(no_args_is_help=True, help="Metrics for `evaluate`.")
app.add_typer(metrics_app, name="metrics")
data_app.command("push")(cli_hub.push_data)
metrics_app.command("push")(cli_hub.push_metrics)
console = Console()

Source = Annotated[
    str, typer.Argument(metavar="[PRESET|FILE.yaml]", help="A preset (see `hf-icl presets`) or a file.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]…", help="Settings on top of it.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.command()
def run(
    source: Source = "default",
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The run folder; default: runs/PRESET-seedN.")] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/REPO", help="Publish on the Hub while it trains; see hf-icl push."),
    ] = None,
    revisions: cli_hub.Revisions = "geometric",
    max_revisions: cli_hub.MaxRevisions = 20,
    max_gb: cli_hub.MaxGigabytes = 10.0,
    public: cli_hub.Public = False,
    space: cli_hub.Space = None,
    dataset: cli_hub.DatasetRepo = None,
    push_wait: cli_hub.Wait = 600.0,
) -> None:
    """Train a model, watch ICL rise and fall, and write the report.

    Example: `hf-icl run default seed=1 training.steps=20000 --output runs/mine`
    """
    from hf_icl.processes import on_main
    from hf_icl.run_config import load_config
    from hf_icl.runs import Run

    source, overrides = _sort_words(source, overrides)
    config = load_config(source, overrides)
    command = shlex.join(["hf-icl", "run", source, *overrides])
    target = push and cli_hub.make_target(
        push, public=public, revisions=revisions, max_revisions=max_revisions, max_gigabytes=max_gb, space=space,
        dataset=dataset, wait=push_wait, config=config,
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
    from hf_icl.runs import Run

    opened = Run.open(folder)
    if opened.is_finished:
        console.print(f"{folder} is finished; its report is written anew.")
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
    from hf_icl.run_folder import read_record

    records = [read_record(folder) for folder in folders]
    target = output or (folders[0] / "report" if len(folders) == 1 else Path("runs/report"))
    _write_and_show(records, target)


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL_OR_RUN", help="A run folder, a saved model, or USER/REPO on the Hub."),
    ],
    task: Annotated[
        str | None, typer.Option(help="Preset or file whose task to use; needed for a model.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint of the run, as checkpoint-2000.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the task, for a model; a run has its own.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    all_revisions: Annotated[
        bool, typer.Option(help="Measure every published revision of USER/REPO again, against its history.")
    ] = False,
) -> None:
    """Measure ICL against IWL in a trained model.

    Example: `hf-icl evaluate runs/default-seed0 --checkpoint checkpoint-4000`

    Example: `hf-icl evaluate me/transience --all-revisions`
    """
    if all_revisions:
        return cli_hub.evaluate_revisions(str(model))
    from hf_icl.build import build_task, load_model
    from hf_icl.run_config import load_config
    from hf_icl.run_folder import RUN_FILE
    from hf_icl.runs import Run

    _quiet_transformers()
    with cli_hub.fetched(model) as folder:
        is_run = (folder / RUN_FILE).exists()
        if task is None and not is_run and (folder / "config.json").exists():
            rule = f"{model} is a model, not a run: it does not know its task"
            raise ConfigError("--task", None, rule, "Name a preset.")
        if is_run or task is None:
            opened = Run.open(folder)
            net, config = opened.load_model(checkpoint), opened.config
        else:
            net, config = load_model(folder), load_config(task, [f"seed={seed}"])
    built = build_task(config)
    means, _ = built.measure(net)
    if as_json:
        console.print_json(
            json.dumps({name: {"value": v, "chance": built.chance.get(name)} for name, v in means.items()})
        )
        return
    table = Table("metric", "value", "chance", title=str(model))
    for name, value in means.items():
        chance = built.chance.get(name)
        table.add_row(name, f"{value:.4f}", "" if chance is None else f"{chance:.4f}")
    console.print(table)


@app.command()
def plan(
    source: Source = "default",
    overrides: Overrides = None,
    devices: Annotated[int, typer.Option(help="Devices that share a step.", min=1)] = 8,
    tflops: Annotated[
        float | None,
        typer.Option(help="Also say how long at so many TFLOP/s per device, sustained.", min=1e-6),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will cost before it is made: parameters, FLOPs, memory per device. Nothing is allocated.

    Example: `hf-icl plan gpt2-48x1600 training.arguments.bf16=true --devices 8`
    """
    from hf_icl.budget import estimate, render_budget
    from hf_icl.run_config import load_config

    source, overrides = _sort_words(source, overrides)
    budget = estimate(load_config(source, overrides), devices)
    if as_json:
        console.print_json(json.dumps(budget.to_dict()))
        return
    console.print(render_budget(budget, source, tflops=tflops), highlight=False)


@app.command()
def presets(
    name: Annotated[
        str | None, typer.Argument(help="Print this preset with every default written out.")
    ] = None,
) -> None:
    """List the presets, or print one as YAML to start from.

    Example: `hf-icl presets transience-omniglot-12l > mine.yaml`
    """
    from hf_icl.run_config import list_presets, load_config

    if name is not None:
        sys.stdout.write(yaml.safe_dump(load_config(name).to_dict(), sort_keys=False))
        return
    table = Table("preset", "what it is", box=None)
    for preset, line in list_presets().items():
        table.add_row(f"[bold]{preset}", line)
    console.print(table)


app.command()(cli_hub.push)
app.command()(cli_hub.pull)
app.command()(cli_sweep.sweep)


@data_app.command()
def show(
    source: Source = "default",
    overrides: Overrides = None,
    evaluator: Annotated[
        str | None, typer.Option(help="An evaluator, such as icl; default: training sequences.")
    ] = None,
    start: Annotated[int, typer.Option(help="Index of the first sequence.", min=0)] = 0,
    count: Annotated[int, typer.Option("--count", "-n", help="How many.", min=1)] = 3,
) -> None:
    """Draw a few sequences: roles, classes, labels and exemplars.

    Example: `hf-icl data show omniglot-cpu --evaluator icl -n 2`
    """
    from hf_icl.build import build_task
    from hf_icl.config import suggest
    from hf_icl.data import render_sequences
    from hf_icl.run_config import load_config

    source, overrides = _sort_words(source, overrides)
    task = build_task(load_config(source, overrides), progress=console.is_terminal)
    if evaluator is not None and evaluator not in task.specs:
        raise ConfigError(
            "evaluator", evaluator, "this task has no such evaluator", suggest(evaluator, task.specs)
        )
    console.print(render_sequences(task, evaluator, start=start, count=count))


@data_app.command()
def export(
    source: Source = "default",
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="An empty or new folder.")] = Path("export"),
    n_sequences: Annotated[int, typer.Option("--count", "-n", help="Training sequences.", min=1)] = 100_000,
    with_exemplars: Annotated[
        bool, typer.Option(help="Write the exemplars too, not only their indices.")
    ] = False,
) -> None:
    """Write a task as Parquet that plain `load_dataset(FOLDER)` reads, without hf_icl.

    Example: `hf-icl data export default --count 1000000 --output data/gaussian`
    """
    from hf_icl.build import build_task
    from hf_icl.data import export_parquet
    from hf_icl.run_config import load_config

    source, overrides = _sort_words(source, overrides)
    task = build_task(load_config(source, overrides), progress=console.is_terminal)
    export_parquet(
        task, output, n_sequences=n_sequences, with_exemplars=with_exemplars, progress=console.is_terminal
    )
    console.print(
        f"Written to {output}. Read it with: load_dataset({str(output)!r})", soft_wrap=True, markup=False
    )


def _quiet_transformers() -> None:
    """Silence what is meant for programmers; the live view shows progress."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _sort_words(source: str, overrides: list[str] | None) -> tuple[str, list[str]]:
    """Let the preset be left out: `hf-icl run seed=1` means the default."""
    words = list(overrides or [])
    return ("default", [source, *words]) if "=" in source else (source, words)


def _free_folder(name: str) -> Path:
    candidates = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(folder for folder in candidates if not folder.exists())


def _join(config) -> None:
    """Meet the other processes of this run, if a launcher started several."""
    from hf_icl.processes import join

    join(cpu=bool(config.training.arguments.get("use_cpu")))


def _train_and_report(made) -> None:
    from hf_icl.history import write_atomically
    from hf_icl.processes import leave
    from hf_icl.report import render_card

    _quiet_transformers()
    console.print(
        f"Run folder: {made.folder}  (stop at any time; continue: hf-icl resume {made.folder})",
        soft_wrap=True,
        markup=False,
    )
    with cli_hub.quiet_hub(), _publisher(made) as publisher:
        try:
            made.train(console, [publisher.callback] if publisher else [])
        except KeyboardInterrupt:
            console.print(
                f"Stopped. Continue with: hf-icl resume {made.folder}", soft_wrap=True, markup=False
            )
            raise typer.Exit(130) from None
        leave()
        if not _speaks():
            return
        record = made.record()
        _write_and_show([record], made.folder / "report")
        write_atomically(made.folder / "README.md", render_card([record]).encode())
        if publisher:
            cli_hub.finish(publisher)


def _publisher(made):
    """Return what publishes a run that has a place on the Hub; for others, and other processes, nothing."""
    from hf_icl.hub.push import Publisher, plan_training
    from hf_icl.hub.target import Target

    target = Target.load(made.folder) if _speaks() else None
    if target is None:
        return contextlib.nullcontext()
    plan = plan_training(made, target)
    cli_hub.say(str(plan))
    return Publisher(made, plan)


def _write_and_show(records: list, folder: Path) -> None:
    """Write a report, then say in the terminal what it says."""
    from hf_icl.report import write_report
    from hf_icl.report.words import describe_group, describe_run, list_table, title_metric

    with console.status("Computing intervals and drawing figures …"):
        page = write_report(records, folder)
    document = json.loads((folder / "transience.json").read_text())
    for group in document["groups"]:
        console.print(describe_group(group), highlight=False, markup=False)
    table = Table("", *(escape(run["name"]) for run in document["runs"]), box=None)
    for row in list_table(document["runs"]):
        table.add_row(f"{title_metric(row.metric)}, {row.title}", *map(escape, row.cells))
    for run in document["runs"]:
        console.print(f"[bold]{escape(run['name'])}[/]: {escape(describe_run(run))}", highlight=False)
    console.print(table)
    console.print(f"Report: {page}", soft_wrap=True, markup=False)


def main() -> None:
    """Run the command line; the entry point of `hf-icl`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    console.quiet = not _speaks()
    try:
        app()
    except HfIclError as error:
        if not _speaks() and not isinstance(error, LostProcessError):
            sys.exit(2)  # the first process has the same error and says so
        _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(
            f"{error.filename or 'a file'}: the disk is full. Free some space, then continue with: hf-icl resume RUN"
        )


def _speaks() -> bool:
    """Whether this process is alone, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def _fail(text: str) -> None:
    Console(stderr=True).print(f"[bold red]Error[/] {escape(text)}", soft_wrap=True, highlight=False)
    sys.exit(2)
