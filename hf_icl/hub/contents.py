"""What of a run goes into which commit, and which files of a repository are a run's."""

from __future__ import annotations

import re
import shutil
from bisect import bisect_right
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError

from hf_icl.errors import RunError
from hf_icl.files import give_usual_permissions, name_draft
from hf_icl.history.history import HISTORY_FILE, History
from hf_icl.hub.eval_results import EVAL_RESULTS_FILE, render_eval_results
from hf_icl.hub.outbox import Outbox
from hf_icl.hub.state import STATE_FILES, write_plain
from hf_icl.report.card import render_card
from hf_icl.runs.folder import CARD_FILE, CONFIG_FILE, RUN_FILE
from hf_icl.runs.run import MODEL_FILES, Run, list_model_files
from hf_icl.training.checkpoints import STATE_FILE, find_checkpoints, find_damage, step_of

REPORT_FOLDER, STATE_FOLDER = "report", "training_state"
RUN_FILES = (CARD_FILE, CONFIG_FILE, RUN_FILE, HISTORY_FILE)
STATE_SUFFIXES = (".json", ".safetensors")
MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # no separators, and no dot in front


def is_ours(name: str) -> bool:
    """Say whether a path in a repository is one that a run has; no other is ever fetched.

    >>> [is_ours(name) for name in ("run.json", "model.safetensors", "training_state/optimizer.pt.json")]
    [True, True, True]
    >>> [is_ours(name) for name in ("../run.json", "report/index.html", "model.bin", "x.py")]
    [False, False, False, False]
    """
    *folders, last = name.split("/")
    if not all(PLAIN_NAME.fullmatch(part) for part in (*folders, last)):
        return False
    stem, suffix = PurePosixPath(last).stem, PurePosixPath(last).suffix
    match folders:
        case []:
            is_model = any(fnmatchcase(last, pattern) for pattern in MODEL_FILES)
            return last in RUN_FILES or (is_model and suffix in MODEL_SUFFIXES)
        case [str(folder)] if folder == STATE_FOLDER:
            is_state = any(fnmatchcase(stem, pattern) for pattern in STATE_FILES)
            return last == STATE_FILE or (is_state and suffix in STATE_SUFFIXES)
    return False


def put_step(outbox: Outbox, run: Path, checkpoint: Path) -> None:
    """Put a checkpoint into the outbox: its model, the history up to it, and what it takes to go on from it.

    Raises:
        RunError: If the checkpoint is not whole, holds what cannot be published, or there is no room.
    """
    if (damage := find_damage(checkpoint)) is not None:
        raise RunError(f"{checkpoint}: {damage}. It is not published.")
    step, draft = step_of(checkpoint), name_draft(outbox.folder / "state")
    try:
        draft.mkdir(parents=True)
        _write_state(checkpoint, draft)
        give_usual_permissions(draft)
        files = describe_step(run, step, checkpoint)
        files |= {f"{STATE_FOLDER}/{path.name}": path for path in sorted(draft.iterdir())}
        outbox.put(step, files, message=f"Step {step:,}")
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{checkpoint}: could not be put aside for the Hub ({error}). It is whole itself."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put_closing(outbox: Outbox, run: Run, *, repo_id: str, dataset: str | None = None) -> None:
    """Put report, card and history into the outbox, and for a finished run its final model in place of the
    state.

    Args:
        outbox: Where to.
        run: What is published.
        repo_id: Where it goes, for the card.
        dataset: The data set on the Hub that holds the sequences; results are then written by its splits too.
    """
    files = _describe_run(run.folder, None)
    report = sorted((run.folder / REPORT_FOLDER).glob("[!.]*"))
    files |= {f"{REPORT_FOLDER}/{path.name}": path for path in report if path.is_file()}
    if run.history.rows:
        record = run.record()
        files[CARD_FILE] = render_card([record], repo_id=repo_id, dataset=dataset).encode()
        if dataset is not None:
            files[EVAL_RESULTS_FILE] = render_eval_results(record, dataset).encode()
    if run.is_finished:
        files |= {path.name: path for path in list_model_files(run.folder)}
    message = "Report of the finished run" if run.is_finished else "Report so far"
    outbox.close(files, message=message, remove=(STATE_FOLDER,) if run.is_finished else ())


def describe_step(run: Path, step: int, checkpoint: Path | None) -> dict[str, Path | bytes]:
    """Return what makes a revision that of a step of this run: settings, the history up to it, and the model.

    The trainer's state is no part of it: it tells where a run was resumed.

    Args:
        run: The run folder.
        step: Which.
        checkpoint: Of that step, if it is still on disk.
    """
    model = list_model_files(checkpoint) if checkpoint is not None else []
    return {path.name: path for path in model} | _describe_run(run, step)


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Return the whole checkpoints of a run by step."""
    return {step_of(path): path for path in find_checkpoints(run)}


def _describe_run(run: Path, last_step: int | None) -> dict[str, Path | bytes]:
    """Return config, origin, and the history up to a step: as bytes, since the file goes on growing."""
    rows = History(run / HISTORY_FILE).rows
    n_rows = len(rows) if last_step is None else bisect_right(rows.columns.steps, last_step)
    return {
        CONFIG_FILE: run / CONFIG_FILE,
        RUN_FILE: run / RUN_FILE,
        HISTORY_FILE: rows.read_bytes(n_rows) if n_rows else b"",
    }


def _write_state(checkpoint: Path, folder: Path) -> None:
    for pattern in STATE_FILES:
        for path in sorted(checkpoint.glob(pattern)):
            write_plain(path, folder / path.name)
    shutil.copyfile(checkpoint / STATE_FILE, folder / STATE_FILE)
