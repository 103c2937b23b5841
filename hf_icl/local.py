"""Paths of this machine: what is shown or published names a folder by its last part alone, and a hidden file
beside it says where the folder is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
"""Settings of a run that may be a path."""


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
    path = Path(value).expanduser()
    return f"{MARK}{path.resolve().name}" if path.exists() else value


def hide_paths(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a run's config without local paths, and those that were there, by dotted name."""
    paths = {}
    for field in FIELDS:
        value = _look_up(config, field)
        if isinstance(value, str) and (hidden := hide_path(value)) != value:
            paths[field] = value
            config = _replace(config, field.split("."), hidden)
    return dict(config), paths


def show_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a run's config with the paths that its folder knows of."""
    for field, path in read_paths(folder).items():
        if (_look_up(config, field) or "").startswith(MARK):
            config = _replace(config, field.split("."), path)
    return dict(config)


def hide_words(text: str, paths: Iterable[str]) -> str:
    """Return a command without the paths.

    >>> hide_words("hf-icl run finetune model.pretrained=/home/me/lm", ["/home/me/lm"])
    'hf-icl run finetune model.pretrained=local:lm'
    """
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, hide_path(path) if Path(path).exists() else MARK + Path(path).name)
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
        found = read_json(path)
        return {field: str(found[field]) for field in FIELDS if field in found}
    except (OSError, ValueError, TypeError) as error:
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


def _look_up(config: Mapping[str, Any], field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _replace(config: Mapping[str, Any], parts: list[str], value: str) -> dict[str, Any]:
    first, *rest = parts
    return {**config, first: _replace(config[first], rest, value) if rest else value}
