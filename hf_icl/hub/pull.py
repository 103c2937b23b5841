"""Bringing a run back from the Hub: report, resume and evaluate work on it as if it had been made here.

What comes from the Hub is data. Only files whose names a run has are fetched, tensors come from safetensors,
the trainer's state from JSON and safetensors, and no code is run. The report is left there, since a page can
hold anything: it is written anew from the history.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi

from hf_icl.errors import HubError, RunError
from hf_icl.files import fill_whole, is_unused
from hf_icl.history.history import HISTORY_FILE, History, Row
from hf_icl.hub.contents import CARD_FILE, STATE_FOLDER, is_ours
from hf_icl.hub.repos import explain_failures
from hf_icl.hub.state import read_plain
from hf_icl.report.card import render_card
from hf_icl.runs.folder import RUN_FILE
from hf_icl.runs.run import Run, list_model_files
from hf_icl.training.checkpoints import STATE_FILE, mark_whole


def pull_run(
    repo_id: str, folder: str | Path, *, revision: str | None = None, api: HfApi | None = None
) -> Run:
    """Fetch a run that was pushed.

    Args:
        repo_id: user/name.
        folder: A new or empty folder, which gets the run whole or not at all.
        revision: A tag such as step-00012000, a branch or a commit; None: the newest.
        api: The Hub's client.

    Returns:
        The run: finished if it was, else at its newest published checkpoint, from where it resumes.

    Raises:
        RunError: If the folder holds something, or cannot be written.
        HubError: If the Hub cannot be reached or has no such run, or what came is none.
    """
    folder, api = Path(folder), api or HfApi()
    if not is_unused(folder):
        raise RunError(f"{folder}: is there already. Choose another folder.")
    with fill_whole(folder, last=RUN_FILE, way_out="Make room, or choose another folder.") as draft:
        _fetch(api, repo_id, revision, draft)
        _arrange(draft, repo_id)
        _check_report(Run.open(draft), repo_id)
    return Run.open(folder)


def _fetch(api: HfApi, repo_id: str, revision: str | None, folder: Path) -> None:
    with explain_failures(repo_id):
        commit = api.repo_info(repo_id, revision=revision).sha
        names = [name for name in api.list_repo_files(repo_id, revision=commit) if is_ours(name)]
        if RUN_FILE not in names:
            raise HubError(f"{repo_id}: holds no run of hf_icl ({RUN_FILE} is missing).")
        cached = api.snapshot_download(repo_id, revision=commit, allow_patterns=names)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(cached) / name, target)


def check_history(path: Path, repo_id: str) -> None:
    """Refuse a history whose rows are not made of numbers and text, in the right places."""
    try:
        damaged = next((row for row in History(path).rows if not _is_sound(row)), None)
    except RunError as error:
        raise HubError(f"{repo_id}: its history is damaged.") from error
    if damaged is not None:
        raise HubError(f"{repo_id}: its history is damaged at step {damaged['step']!r}.")


def _is_sound(row: Row) -> bool:
    metrics, hits = row.get("metrics"), row.get("hits")
    return (
        all(type(row[name]) is int and row[name] >= 0 for name in ("step", "sequences"))
        and isinstance(metrics, dict)
        and all(type(value) in (int, float) for value in metrics.values())
        and isinstance(hits, dict)
        and all(isinstance(value, str) for value in hits.values())
    )


def _check_report(run: Run, repo_id: str) -> None:
    """Refuse a run of which no report can be written, because its files do not hold what they should."""
    if not run.history.rows:
        return
    try:
        render_card([run.record()])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise HubError(f"{repo_id}: its {RUN_FILE} or history is damaged ({error!r}).") from error


def _arrange(folder: Path, repo_id: str) -> None:
    """Turn what was fetched into a run folder: a finished run, or one with a checkpoint to go on from."""
    check_history(folder / HISTORY_FILE, repo_id)
    state = folder / STATE_FOLDER
    if not list_model_files(folder):
        raise HubError(f"{repo_id}: holds no model. It was not pushed by hf-icl push.")
    if not state.exists():
        mark_whole(folder, (path for path in folder.glob("[!.]*") if path.name != CARD_FILE))
        return
    try:
        step = json.loads((state / STATE_FILE).read_text("utf-8"))["global_step"]
        checkpoint = folder / f"checkpoint-{int(step)}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubError(f"{repo_id}: its trainer state cannot be read ({error}).") from error
    checkpoint.mkdir()
    for path in list_model_files(folder):
        os.replace(path, checkpoint / path.name)
    for path in sorted(state.glob("*.safetensors")):
        read_plain(path.with_suffix(""), checkpoint / path.stem)
    os.replace(state / STATE_FILE, checkpoint / STATE_FILE)
    shutil.rmtree(state)
    mark_whole(checkpoint, checkpoint.iterdir())
