"""Measuring models that are there already: one of them, or one along its checkpoints."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hf_icl.cli import publishing
from hf_icl.cli.app import Overrides, app, console, quiet_hub, quiet_transformers

if TYPE_CHECKING:
    from hf_icl.task.measuring import Reading
    from hf_icl.traces.subject import Subject


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
        return publishing.evaluate_revisions(model)
    from hf_icl.traces.subject import open_subject

    quiet_transformers()
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
