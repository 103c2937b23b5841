"""What all commands share: the app they belong to, the console they speak to, and the words they take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

import hf_icl
from hf_icl.runs.presets import list_presets
from hf_icl.sweeps.examples import list_examples
from hf_icl.wording import clean, mask

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="When in-context learning appears in a Hugging Face model, and when it fades.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at the sequences of a task, export or publish them.")
claims_app = typer.Typer(help="List the claims that can be reproduced, or explain one.")
metrics_app = typer.Typer(no_args_is_help=True, help="Metrics for `evaluate`.")
app.add_typer(data_app, name="data")
app.add_typer(claims_app, name="claims")
app.add_typer(metrics_app, name="metrics")


class PatientConsole(Console):
    """A console whose reader may go away: what is at work goes on, and is not shown.

    Whatever is printed on it, as text or in tables, bars and status lines, shows control characters and obeys
    none; what looks like a token is masked.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Return the pieces of what is printed, those of text cleaned."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean(mask(segment.text)))

    def on_broken_pipe(self) -> None:
        """Say nothing from now on, where rich would end the program."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # else Python complains when it ends
        os.close(nowhere)


console = PatientConsole()


def complete_presets(incomplete: str) -> list[tuple[str, str]]:
    """Return the presets that a word on the command line may become, for the shell's completion."""
    return [item for item in list_presets().items() if item[0].startswith(incomplete)]


def complete_sweeps(incomplete: str) -> list[tuple[str, str]]:
    """Return the example sweeps that a word on the command line may become."""
    return [item for item in list_examples().items() if item[0].startswith(incomplete)]


Source = Annotated[
    str,
    typer.Argument(
        metavar="[PRESET|FILE.yaml]",
        help="A preset (see `hf-icl presets`) or a file.",
        autocompletion=complete_presets,
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]…", help="Settings on top of it.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Public = Annotated[bool, typer.Option("--public", help="Let everyone see it; default: private.")]
NSequences = Annotated[int, typer.Option("--count", "-n", help="Training sequences.", min=1)]
WithExemplars = Annotated[bool, typer.Option(help="Write the exemplars too, not only their indices.")]


def _tell_version(asked: bool) -> None:
    if asked:
        say(f"hf-icl {hf_icl.__version__}")
        raise typer.Exit()


@app.callback()
def start(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Take the options that stand before a command's name."""


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def sort_words(source: str, overrides: list[str] | None) -> tuple[str, list[str]]:
    """Let the preset be left out: `hf-icl run seed=1` means the default."""
    words = list(overrides or [])
    return ("default", [source, *words]) if "=" in source else (source, words)


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the client's own bars and remarks; the command's status line shows progress."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging as hub_logging,
    )

    bars, level = not are_progress_bars_disabled(), hub_logging.get_verbosity()
    disable_progress_bars()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            enable_progress_bars()
