"""The entry point of `hf-icl`: all commands, and errors as one sentence and exit code 2."""

from __future__ import annotations

import io
import logging
import os
import sys

from rich.console import Console
from rich.markup import escape

from hf_icl.cli.app import app, console
from hf_icl.errors import DivergedError, FileError, HfIclError, LostProcessError
from hf_icl.files import find_way_out

# Each adds its commands to the app; this is their order in --help.
# isort: off
import hf_icl.cli.run  # noqa: F401
import hf_icl.cli.trace  # noqa: F401
import hf_icl.cli.circuits  # noqa: F401
import hf_icl.cli.hub  # noqa: F401
import hf_icl.cli.sweep  # noqa: F401
import hf_icl.cli.claims  # noqa: F401
import hf_icl.cli.data  # noqa: F401
# isort: on


MISTAKE, DIVERGED = 2, 4  # exit codes; 3: something is not on the Hub yet


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the terminal knows few signs
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    console.quiet = not _speaks()
    try:
        app()
    except HfIclError as error:
        if not _speaks() and not isinstance(error, LostProcessError):
            sys.exit(2)  # the first process has the same error and says so
        _fail(str(error), DIVERGED if isinstance(error, DivergedError) else MISTAKE)
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        _fail(str(FileError(error.filename or "A file", error, find_way_out(error), action="used")))


def _speaks() -> bool:
    """Whether this process is alone, or the first of those that a launcher started.
    Asks nothing that is slow to import."""
    return os.environ.get("RANK", "0") == "0"


def _fail(text: str, code: int = MISTAKE) -> None:
    Console(stderr=True).print(f"[bold red]Error[/] {escape(text)}", soft_wrap=True, highlight=False)
    sys.exit(code)
