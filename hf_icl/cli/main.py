"""The entry point of `hf-icl`: all commands, and errors as one sentence and exit code 2."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback

import typer
from rich.markup import escape
from typer.rich_utils import rich_format_error

from hf_icl.cli.app import PatientConsole, app, console
from hf_icl.errors import DivergedError, FileError, HfIclError, LostProcessError
from hf_icl.files import find_way_out
from hf_icl.wording import clean, mask, say_plainly

# Each adds its commands to the app; this is their order in --help.
# isort: off
import hf_icl.cli.run  # noqa: F401
import hf_icl.cli.trace  # noqa: F401
import hf_icl.cli.prompts  # noqa: F401
import hf_icl.cli.circuits  # noqa: F401
import hf_icl.cli.hub  # noqa: F401
import hf_icl.cli.sweep  # noqa: F401
import hf_icl.cli.claims  # noqa: F401
import hf_icl.cli.data  # noqa: F401
# isort: on


FAULT, MISTAKE, DIVERGED = 1, 2, 4  # exit codes; 3: something is not on the Hub yet
NETWORK = (ConnectionError, TimeoutError)
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""What other libraries read when they are imported: a command shows its own progress. Who has set them keeps
what he set."""
UsageError = typer.BadParameter.__base__  # of the click that this typer brings along


def main() -> None:
    """Run the command line. Nothing that it prints can steer a terminal, or holds a token."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the terminal knows few signs
    logging.setLogRecordFactory(_PlainRecord)
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    _quiet_libraries()
    console.quiet = not _speaks()
    try:
        sys.exit(typer.main.get_command(app)(standalone_mode=False))
    except UsageError as error:
        error.message = say_plainly(error.message)
        rich_format_error(error)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(FAULT)
    except HfIclError as error:
        if not _speaks() and not isinstance(error, LostProcessError):
            sys.exit(2)  # the first process has the same error and says so
        _fail(str(error), DIVERGED if isinstance(error, DivergedError) else MISTAKE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, NETWORK):
            _fail(str(FileError(error.filename or "A file", error, find_way_out(error), action="used")))
        sys.stderr.write(clean(mask(traceback.format_exc())))
        sys.exit(FAULT)


def _quiet_libraries() -> None:
    """Tell libraries that read variables when they are imported, and one that is there already."""
    unset = QUIET.keys() - os.environ.keys()
    os.environ |= {name: QUIET[name] for name in unset}
    if loaded := sys.modules.get("transformers.utils.logging"):
        if "TRANSFORMERS_VERBOSITY" in unset:
            loaded.set_verbosity_error()
        if "HF_HUB_DISABLE_PROGRESS_BARS" in unset:
            loaded.disable_progress_bar()


class _PlainRecord(logging.LogRecord):
    """A message as it may be shown, by the handlers of libraries too."""

    def getMessage(self) -> str:
        return clean(mask(super().getMessage()))


class _Plain(logging.Formatter):
    """A message with its traceback, as they may be shown."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(mask(super().format(record)))


def _speaks() -> bool:
    """Whether this process is alone, or the first of those that a launcher started.
    Asks nothing that is slow to import."""
    return os.environ.get("RANK", "0") == "0"


def _fail(text: str, code: int = MISTAKE) -> None:
    PatientConsole(stderr=True).print(f"[bold red]Error[/] {escape(text)}", soft_wrap=True, highlight=False)
    sys.exit(code)
