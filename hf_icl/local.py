"""Paths of this machine: what is shown or published names a folder by its last part alone, and a hidden file
beside it says where the folder is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_icl.errors import RunError
from hf_icl.reading import read_json

LOCAL_FILE = ".local.json"  # stays here: what is published is chosen by name
MARK = "local:"
FIELDS = (
    "model.pretrained",
    "task.bank.source",
    "task.bank.labels",
    "task.bank.data",
    "evaluate.text.source",
)
"""Settings of a run that may be the bare name of a file or folder; a path that is written as one may stand
anywhere."""


def hide_path(value: str) -> str:
    """Return what stands for a file or folder of this machine; anything else as it is.

    No name on the Hub begins like that, so that nobody takes one for the other.

    >>> hide_path("EleutherAI/pythia-70m")
    'EleutherAI/pythia-70m'
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory(prefix="lm-") as folder:
    ...     hide_path(folder).startswith("local:lm-")
    True
    """
    path = os.path.expanduser(value)
    return _hide(path) if os.path.exists(path) else value


def hide_paths(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return settings without local paths, and those that were there, by dotted name.

    Mappings and lists are searched to the bottom, as in `training.interventions.0.source`.
    """
    paths: dict[str, str] = {}

    def hide(field: str, value: str) -> str:
        path = os.path.expanduser(value)
        if field not in FIELDS and not is_written_path(value):
            return value
        if not os.path.exists(path) and not _begins_here(path):
            return value
        paths[field] = value
        return _hide(path)

    return _change_texts(config, hide), paths


def show_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a run's config with the paths that its folder knows of."""
    paths = read_paths(folder)

    def show(field: str, value: str) -> str:
        return paths.get(field, value) if value.startswith(MARK) else value

    return _change_texts(config, show)


def is_written_path(value: str) -> bool:
    """Whether text is written as a path, so that a file of that name is what it means.

    >>> [is_written_path(text) for text in ("gpt2", "runs/a", "~/lm", "/", "~")]
    [False, True, True, False, False]
    """
    return len(Path(value).parts) > 1


def hide_words(text: str, paths: Iterable[str]) -> str:
    """Return a command without the paths.

    >>> hide_words("hf-icl run finetune model.pretrained=/home/me/lm", ["/home/me/lm"])
    'hf-icl run finetune model.pretrained=local:lm'
    """
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, _hide(os.path.expanduser(path)))
    return text


def write_paths(folder: Path, paths: Mapping[str, str]) -> None:
    """Write down where a run's local paths lead, if it has any."""
    if paths:
        (folder / LOCAL_FILE).write_text(json.dumps(dict(paths), indent=1), encoding="utf-8")


def read_paths(folder: Path) -> dict[str, str]:
    """Return the local paths of a run's config by dotted name; none where nothing was written.

    Raises:
        RunError: If the file cannot be read.
    """
    path = folder / LOCAL_FILE
    if not path.exists():
        return {}
    try:
        return {str(field): str(found) for field, found in read_json(path).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}). Remove it, and name the folders anew.") from error


def find_path(name: str, *folders: Path) -> str:
    """Return the path that a hidden one stands for, by what the folders know; any other name as it is.

    Raises:
        RunError: If none of them knows it.
    """
    if not name.startswith(MARK):
        return name
    for folder in folders:
        for path in read_paths(folder).values():
            if hide_path(path) == name:
                return path
    raise RunError(
        f"{name.removeprefix(MARK)}: is a folder of the machine that made the run, and not known here. Name "
        "it, or a model on the Hub, in a run of its own."
    )


def _hide(path: str) -> str:
    return f"{MARK}{Path(path).resolve().name}"


def _begins_here(path: str) -> bool:
    """Whether a path that leads nowhere, or not yet, begins in a folder of this machine's root."""
    top = Path(path).parts[:2]
    return os.path.isabs(path) and len(Path(path).parts) > len(top) and os.path.isdir(os.path.join(*top))


def _change_texts(tree: Any, change: Callable[[str, str], str], field: str = "") -> Any:
    """Return nested settings with each text changed, given the dotted name of where it stands."""
    if isinstance(tree, str):
        return change(field, tree)
    inner = f"{field}." if field else ""
    if isinstance(tree, Mapping):
        return {key: _change_texts(value, change, f"{inner}{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_change_texts(value, change, f"{inner}{number}") for number, value in enumerate(tree)]
    return tree
