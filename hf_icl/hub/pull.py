"""Bringing a run back from the Hub: report, resume and evaluate work on it as if it had been made here.

What comes from the Hub is data. Only files whose names a run has are fetched, tensors come from safetensors,
the trainer's state from JSON and safetensors, and no code is run. The report is left there, since a page can
hold anything: it is written anew from the history.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi

from hf_icl.errors import HfIclError, HubError, RunError
from hf_icl.files import fill_whole, is_unused
from hf_icl.history.history import Row
from hf_icl.hub.bounds import finish_within
from hf_icl.hub.contents import STATE_FOLDER, is_ours
from hf_icl.hub.remote import Remote, RemoteFile
from hf_icl.hub.repos import check_repo_id
from hf_icl.hub.state import read_plain
from hf_icl.report.card import render_card
from hf_icl.report.write import write_report
from hf_icl.runs.folder import CARD_FILE, RUN_FILE
from hf_icl.runs.run import Run, list_model_files
from hf_icl.training.checkpoints import STATE_FILE, find_checkpoint, mark_whole, read_state
from hf_icl.training.progress import read_progress

MOST_FILES = 1_000  # of a run: sharded models have some hundred


def pull_run(
    repo_id: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    max_gigabytes: float = 10.0,
    max_seconds: float = 3600.0,
    report: bool = False,
    api: HfApi | None = None,
) -> Run:
    """Fetch a run that was pushed, and open it.

    Args:
        repo_id: user/name.
        folder: A new or empty folder, which gets the run whole or not at all.
        revision: A tag such as step-00012000, a branch or a commit; None: the newest.
        max_gigabytes: The most that its files may take together.
        max_seconds: The longest that the Hub is waited for, all files together.
        report: Also write the report, as `RUN/report`; it is there with the run, or neither is.
        api: The Hub's client.

    Returns:
        The run: finished if it was, else at its newest published checkpoint, from where it resumes. Its
        settings, history and model have been read.

    Raises:
        RunError: If the folder holds something, or cannot be written.
        HubError: If the Hub cannot be reached or has no such run, it is larger than allowed, or what came is
            none that can be opened.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    if not is_unused(folder):
        raise RunError(f"{folder}: is there already. Choose another folder.")
    remote = Remote(repo_id, api=api)
    late = f"{repo_id}: {max_seconds:g} seconds were not enough to fetch it. Allow more, or try again."
    cached = finish_within(max_seconds, lambda: _fetch(remote, revision, max_gigabytes), late)
    way_out = f"Make room, or choose another folder, then pull {repo_id} again."
    with fill_whole(folder, last=RUN_FILE, way_out=way_out) as draft:
        for name, path in cached.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        try:
            _arrange(draft)
            made = Run.open(draft)
            _check(made)
        except HfIclError as error:
            said = str(error).replace(str(draft), "what came").rstrip(".")
            raise HubError(f"{repo_id}: {said}. It cannot be opened: {folder} was not made.") from error
        if report and made.history.rows:
            write_report([dataclasses.replace(made.record(), name=folder.resolve().name)], draft / "report")
    return Run.open(folder)


def _fetch(remote: Remote, revision: str | None, max_gigabytes: float) -> dict[str, Path]:
    """Return where the client keeps the files of a run, by name."""
    head = remote.find(revision)
    if head is None:
        raise HubError(
            f"{remote.repo_id}: there is no such repository, or the token may not see it. "
            "Look at its name, or log in with: hf auth login"
        )
    there = remote.list_files(head.commit)
    if RUN_FILE not in there:
        raise HubError(f"{remote.repo_id}: holds no run of hf_icl ({RUN_FILE} is missing).")
    ours = {name: file for name, file in there.items() if is_ours(name)}
    return fetch_files(remote, head.commit, ours, max_gigabytes)


def fetch_files(
    remote: Remote, commit: str, files: dict[str, RemoteFile], max_gigabytes: float
) -> dict[str, Path]:
    """Fetch files of a commit, and return where each lies in the client's cache.

    Raises:
        HubError: If they are more or larger than allowed; nothing is fetched then.
    """
    n_bytes = sum(file.n_bytes for file in files.values())
    if len(files) > MOST_FILES:
        raise HubError(f"{remote.repo_id}: holds {len(files):,} files of a run; {MOST_FILES:,} are the most.")
    if n_bytes > max_gigabytes * 1e9:
        raise HubError(
            f"{remote.repo_id}: its files take {n_bytes / 1e9:,.3g} GB, and {max_gigabytes:g} are allowed. "
            "Nothing was fetched. Allow more with --max-gb."
        )
    return {name: remote.download(name, file, commit) for name, file in sorted(files.items())}


def _arrange(folder: Path) -> None:
    """Turn what was fetched into a run folder: a finished run, or one with a checkpoint to go on from."""
    state = folder / STATE_FOLDER
    if not list_model_files(folder):
        raise HubError("holds no model: it was not pushed by hf-icl push")
    if not state.exists():
        mark_whole(folder, (path for path in folder.glob("[!.]*") if path.name != CARD_FILE))
        return
    try:
        step = read_state(state)["global_step"]
    except (OSError, ValueError) as error:
        raise HubError(f"its trainer state cannot be read ({error})") from error
    if step < 1:
        raise HubError(f"its trainer state tells of step {step}, at which there is no checkpoint")
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    for path in list_model_files(folder):
        os.replace(path, checkpoint / path.name)
    for path in sorted(state.glob("*.safetensors")):
        read_plain(path.with_suffix(""), checkpoint / path.stem)
    os.replace(state / STATE_FILE, checkpoint / STATE_FILE)
    shutil.rmtree(state)
    mark_whole(checkpoint, checkpoint.iterdir())


def _check(run: Run) -> None:
    """Open what came as the commands will: history, report, model, and where it resumes from.

    Raises:
        HfIclError: If that cannot be done.
    """
    try:
        rows = run.history.rows
    except RunError as error:  # says what to do with one's own
        raise HubError("its history is damaged") from error
    if (damaged := _find_unsound(rows)) is not None:
        raise HubError(f"its history is damaged at step {damaged['step']!r}")
    try:
        if rows:
            render_card([run.record()])
        run.load_model()
        if not run.is_finished:
            read_progress(find_checkpoint(run.folder))
    except HfIclError:
        raise
    except Exception as error:  # settings of other types than theirs make what reads them fail in any way
        said = f"{type(error).__name__}: {error}"
        raise HubError(f"its {RUN_FILE}, history or model is damaged ({said})") from error


def _find_unsound(rows: Iterable[Row]) -> Row | None:
    """Return the first row that is not made of numbers and text, in the right places."""
    return next((row for row in rows if not _is_sound(row)), None)


def _is_sound(row: Row) -> bool:
    metrics, packed = row.get("metrics"), [row.get("hits"), row.get("answers", {})]
    return (
        all(type(row[name]) is int and row[name] >= 0 for name in ("step", "sequences"))
        and isinstance(metrics, dict)
        and all(type(value) in (int, float) for value in metrics.values())
        and all(isinstance(values, dict) for values in packed)
        and all(isinstance(value, str) for values in packed for value in values.values())
    )
