"""What one process does: train the runs of a job to the end, each into its own folder,
and write each one's report.

As a program, `python -m hf_icl.sweeps SWEEP RUN…`, it ends when its standard input does, so that a sweep that
is killed leaves no process behind that still writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging as transformers_logging

from hf_icl.errors import DivergedError, HfIclError
from hf_icl.report.write import write_report
from hf_icl.runs.folder import CARD_FILE
from hf_icl.runs.replicas import train_replicas
from hf_icl.runs.run import Run
from hf_icl.sweeps.sweep import RUNS, is_done


def train_job(folder: str | Path, names: Sequence[str]) -> None:
    """Train runs of a sweep in this process, from where they stopped; several are a stack.

    Raises:
        ConfigError: If they cannot be stacked.
        RunError: If a run folder cannot be used.
    """
    runs = [Run.open(Path(folder) / RUNS / name) for name in names]
    with contextlib.suppress(DivergedError):  # the reports, and the sweep's, say so
        if len(runs) == 1:
            runs[0].train()
        else:
            train_replicas(runs, n_processes=1)
    for run in runs:
        if not is_done(run.folder):
            write_report([run.record()], run.folder / "report", card=run.folder / CARD_FILE)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # a run can be killed at any moment


def main() -> None:
    """Do the job that the words name; errors end with a sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, *names = sys.argv[1:]
    try:
        train_job(folder, names)
    except HfIclError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
