"""Measuring models that are there already: one of them, or one along its checkpoints."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hf_icl.cli import publishing
from hf_icl.cli.app import Overrides, app, console, quiet_hub, say
from hf_icl.cli.run import write_and_show
from hf_icl.errors import ConfigError, RunError

if TYPE_CHECKING:
    from hf_icl.task.measuring import Reading
    from hf_icl.traces.folder import Trace
    from hf_icl.traces.subject import Subject
    from hf_icl.traces.tracing import Progress


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_RUN", help="A run folder, a saved model, or USER/REPO on the Hub."),
    ],
    overrides: Overrides = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Preset or file whose task to use; default: a run's own, finetune for a language model."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a repository; default: main.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint in the folder, as checkpoint-2000.")
    ] = None,
    max_gb: publishing.MaxGigabytes = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    all_revisions: Annotated[
        bool, typer.Option(help="Measure every published revision of a run again, against its history.")
    ] = False,
) -> None:
    """Measure ICL against IWL in a trained model: a run, any saved language model, any repository.

    The bank comes from the model that is measured; a GPU is used where there is one. Settings are
    `task.…`, `evaluate.…` such as `evaluate.heads=true`, `seed` and `dtype`.

    Example: `hf-icl evaluate runs/default-seed0 --checkpoint checkpoint-4000`

    Example: `hf-icl evaluate EleutherAI/pythia-70m task.n_eval_sequences=2000 --revision step1000`

    Example: `hf-icl evaluate me/transience --all-revisions`
    """
    if all_revisions:
        return _measure_again(model)
    from hf_icl.traces.subject import open_subject

    with (
        tempfile.TemporaryDirectory() as scratch,
        quiet_hub(),
        console.status(f"Measuring {escape(model)} …"),
    ):
        subject = open_subject(
            model, Path(scratch), revision=revision, checkpoint=checkpoint, task=task,
            overrides=overrides or [], max_gigabytes=max_gb,
        )  # fmt: skip
        found = subject.measure()
    _show(subject, found, as_json=as_json)


def _show(subject: Subject, found: Reading, *, as_json: bool) -> None:
    """Print what was found: value, interval over sequences, chance level."""
    from hf_icl.summary.intervals import bootstrap_hits

    ends = {name: bootstrap_hits(hits.numpy()) for name, hits in found.hits.items()}
    chance = subject.task.chance
    if as_json:
        told = {
            name: {"value": value, "chance": chance.get(name), "interval": ends.get(name)}
            for name, value in found.means.items()
        }
        console.print_json(json.dumps(told))
        return
    table = Table("metric", "value", "95 % interval", "chance", title=escape(subject.name))
    for name, value in found.means.items():
        low, high = ends.get(name, (None, None))
        interval = "" if low is None else f"{low:.4f} – {high:.4f}"
        level = chance.get(name)
        table.add_row(escape(name), f"{value:.4f}", interval, "" if level is None else f"{level:.4f}")
    about = [f"device: {subject.model.device}"]
    about += [f"commit: {subject.commit[:8]}"] if subject.commit else []
    about += [f"tokenizer: {subject.tokenizer}"] if subject.tokenizer else []
    table.caption = ", ".join(about)
    console.print(table)


def _measure_again(repo: str) -> None:
    """Measure every published revision again and print it beside what was published;
    exit with 1 where they differ."""
    from hf_icl.task.evaluators import ICL, IWL
    from hf_icl.traces.published import measure_revisions

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


@app.command()
def trace(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL… [key=value]…",
            help="USER/REPO on the Hub, or a folder of checkpoints; several are replicas. Then settings.",
        ),
    ],
    revisions: Annotated[
        str | None,
        typer.Option(
            help="Which: a pattern as step*, a regular expression with a group "
            "named step, or a list NAME,NAME=STEP. Default: all whose names are of a known form."
        ),
    ] = None,
    max_revisions: Annotated[
        int | None, typer.Option(min=1, help="The most of a series, ever further apart; default: all.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Preset or file whose task to use; default: a run's own, else finetune."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The trace's folder; default: runs/MODEL-trace. One there goes on.")
    ] = None,
    axis: Annotated[str, typer.Option(help="What the report's curves are over: step or tokens.")] = "step",
    tokens_per_step: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a step, where names do not tell tokens.")
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--fresh",
            help="What was there before the first revision: training of another kind, or none. Default: "
            "none, but for a second stage.",
        ),
    ] = None,
    max_gb: publishing.MaxGigabytes = 10.0,
    wait: publishing.Wait = 3600.0,
) -> None:
    """Measure ICL against IWL along a model's published checkpoints, or those in a folder.

    Each is fetched, measured and deleted. The same command goes on where it stopped. What is measured:
    the task's evaluators, and with `evaluate.heads=true` every head. Then the report, as of a run.

    Example: `hf-icl trace EleutherAI/pythia-70m --max-revisions 12 --axis tokens`

    Example: `hf-icl trace EleutherAI/pythia-14m-seed1 EleutherAI/pythia-14m-seed2 --revisions "step*000"`

    Example: `hf-icl trace runs/mine evaluate.heads=true task.n_eval_sequences=500`
    """
    from hf_icl.traces.folder import check_axis
    from hf_icl.traces.tracing import trace as walk

    check_axis(axis)
    places = [word for word in models if "=" not in word]
    if not places:
        raise ConfigError("MODEL", " ".join(models), "names no model", "For example: EleutherAI/pythia-70m")
    folder = output or Path("runs") / f"{Path(places[0]).name}-trace"
    with quiet_hub(), console.status(f"Looking at {escape(places[0])} …") as status:

        def tell(progress: Progress) -> None:
            line = _tell_revision(progress)
            if line:
                say(line)
            status.update(escape(f"{progress.series.name}: {progress.number} of {progress.count} done …"))

        made = walk(
            places, folder, revisions=revisions, max_revisions=max_revisions, task=task,
            overrides=[word for word in models if "=" in word], tokens_per_step=tokens_per_step,
            pretrained=pretrained, max_gigabytes=max_gb, max_seconds=wait,
            command=shlex.join(["hf-icl", *sys.argv[1:]]), tell=tell,
        )  # fmt: skip
    _tell_skipped(made)
    write_and_show(made.records(axis), folder / "report")


def _tell_revision(progress: Progress) -> str:
    """Return a line about one revision that was measured; nothing about others."""
    from hf_icl.task.evaluators import EVALUATORS

    revision, reading = progress.outcome.revision, progress.outcome.reading
    if reading is None:
        return ""
    shown = [kind for kind in EVALUATORS.values() if kind.is_shown and kind.metric in reading.means]
    numbers = ", ".join(f"{kind.short} {reading.means[kind.metric]:.3f}" for kind in shown)
    return f"{progress.series.name}, {revision.name}: {numbers}"


def _tell_skipped(made: Trace) -> None:
    for one in made.about.skipped:
        say(f"Left out: {one['series']}, {one['revision']}: {one['why']}.")
