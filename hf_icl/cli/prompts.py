"""How much a model's in-context learning hangs on how it is prompted."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from hf_icl.cli import publishing
from hf_icl.cli.app import Overrides, app, console, quiet_hub

if TYPE_CHECKING:
    from hf_icl.traces.prompts import PromptRow
    from hf_icl.traces.subject import Subject


@app.command()
def prompts(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A saved model, a GGUF file, a run, or USER/REPO."),
    ],
    overrides: Overrides = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="bare, arrow, colon or qa; several, each with its own --template; default: all."),
    ] = None,
    context: Annotated[
        list[int] | None, typer.Option(help="Pairs before the query; several too; default: 4, 8 and 16.")
    ] = None,
    n_sequences: Annotated[
        int, typer.Option("--count", "-n", help="Sequences of each row of the table.", min=2)
    ] = 128,
    task: Annotated[
        str | None, typer.Option(help="Preset or file whose bank to use; default: finetune.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a repository; default: main.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint in the folder, as checkpoint-2000.")
    ] = None,
    max_gb: publishing.MaxGigabytes = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a language model's ICL in several templates and contexts.

    Counted as right is the answer among the context's labels, among all labels, and in the whole vocabulary,
    plain and calibrated by the labels' prior. Two classes share each context, their labels drawn from all.

    Whatever else is written is a setting: `task.prompt.start`, `task.prompt.chat`,
    and `task.bank.…` for the classes.

    Example: `hf-icl prompts HuggingFaceTB/SmolLM2-135M-Instruct --count 500`

    Example: `hf-icl prompts MODEL.gguf task.bank.n_exemplars=1 task.prompt.chat=true --template qa --json`
    """
    from hf_icl.task.written import TEMPLATES
    from hf_icl.traces.prompts import CONTEXTS, compare_prompts
    from hf_icl.traces.subject import open_subject

    templates, contexts = template or list(TEMPLATES), context or list(CONTEXTS)
    with tempfile.TemporaryDirectory() as scratch, quiet_hub():
        with console.status(f"Opening {escape(model)} …"):
            subject = open_subject(
                model, Path(scratch), revision=revision, checkpoint=checkpoint, task=task,
                overrides=overrides or [], max_gigabytes=max_gb,
            )  # fmt: skip
        rows = []
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            job = bar.add_task("Asking", total=len(templates) * len(contexts))
            found = compare_prompts(
                subject.task, subject.model, templates=templates, contexts=contexts, n_sequences=n_sequences
            )
            for row in found:
                rows.append(row)
                bar.update(job, advance=1, description=f"{row.prompt.template}, context {row.n_context}")
    _print(subject, rows, as_json=as_json)


def _print(subject: Subject, rows: list[PromptRow], *, as_json: bool) -> None:
    from hf_icl.circuits.prompted import SCORES

    if as_json:
        about = {"model": subject.name, "commit": subject.commit, "seed": subject.questions.seed}
        told = about | {"device": str(subject.model.device), "rows": [row.to_dict() for row in rows]}
        console.print_json(json.dumps(told))
        return
    heads = ("context's\nlabels", "calib-\nrated", "all\nlabels", "calib-\nrated", "vocab-\nulary")
    assert len(heads) == len(SCORES)
    table = Table(
        "prompt", "con-\ntext", *heads, "SD over\nlabels", "read\nagain", title=escape(subject.name)
    )
    for row in rows:
        cells = [f"{score.value:.3f}\n{score.low:.2f}–{score.high:.2f}" for score in row.scores.values()]
        again = "" if row.unstable is None else str(row.unstable.count)
        apart = "" if math.isnan(row.label_spread) else f"{row.label_spread:.3f}"
        table.add_row(row.prompt.template, str(row.n_context), *cells, apart, again)
    first = rows[0]
    table.caption = (
        f"{first.n_sequences:,} sequences a row, with 95 % intervals; chance is 1/2 of the context's labels, "
        f"1/{first.n_labels} of all. SD over labels: of the accuracy among the context's labels, without "
        f"what chance adds. Read again: prompts whose text is read as other tokens. "
        f"Device: {subject.model.device}"
    )
    console.print(table)
