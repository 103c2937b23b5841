"""Which checkpoints are whole and as they were written: no other is resumed from, loaded or published."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_icl.distributed import wait_for_all
from hf_icl.errors import FileError, RunError
from hf_icl.files import find_way_out, give_usual_permissions, name_draft, write_whole
from hf_icl.local import hide_path, read_paths
from hf_icl.reading import read_json

logger = logging.getLogger(__name__)

MANIFEST_FILE = "complete.json"
STATE_FILE = "trainer_state.json"
ADAPTER_FILE = "adapter_config.json"
MOST_STATE_BYTES = 1 << 32  # the log in it grows with every evaluation
DAMAGED = "damaged-"
SMALLEST_FREE_BYTES = 1 << 16
MOST_PROBED_BYTES = 1 << 26
# What a checkpoint needs to be resumed from: a file, or folder, of one of these names for each part.
PARTS = {
    "model": ("*.safetensors", "*.bin", "pytorch_model_fsdp*", "global_step*", "adapter_*"),
    "trainer state": (STATE_FILE,),
}
RESUMING_PARTS = {
    "optimizer": ("optimizer*", "global_step*"),
    "schedule": ("scheduler*", "global_step*"),
}


class ManifestCallback(TrainerCallback):
    """Marks each checkpoint as whole, once everything in it is written."""

    def on_save(self, args, state, control, **kwargs) -> None:
        """Write the manifest of the checkpoint just saved, once every process has saved its part.

        Raises:
            RunError: If a part is missing, as where another process works in the same folder.
        """
        wait_for_all()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        parts = PARTS if args.save_only_model else PARTS | RESUMING_PARTS
        for part, names in parts.items():
            if not any(any(folder.glob(name)) for name in names):
                raise RunError(
                    f"{folder}: its {part} is missing though it has just been saved. Does something else "
                    "write or delete there? Earlier checkpoints are whole: resume the run alone."
                )
        hide_base(folder, Path(args.output_dir))
        give_usual_permissions(folder)
        mark_whole(folder, folder.glob("**/[!.]*"))


class PlaceCallback(TrainerCallback):
    """Ends a run whose folder is no longer where it was, before anything is written to a new one."""

    def __init__(self) -> None:
        self._place: os.stat_result | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Look where it is, if it is there yet."""
        self._place = os.stat(args.output_dir) if os.path.exists(args.output_dir) else None

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Look whether the folder is the one of the step before.

        Raises:
            RunError: If it was moved or deleted.
        """
        if not state.is_world_process_zero:
            return
        try:
            found = os.stat(args.output_dir)
        except FileNotFoundError:
            found = None
        if self._place is not None and (found is None or not os.path.samestat(self._place, found)):
            raise RunError(describe_loss(args.output_dir))
        self._place = found


def describe_loss(folder: str | Path) -> str:
    """Return the sentence that says that a folder is gone."""
    return (
        f"{folder}: was moved or deleted while the run was at work in it. What was written is whole where "
        "it is now: continue it there with: hf-icl resume FOLDER"
    )


def hide_base(checkpoint: Path, run: Path) -> None:
    """Name an adapter's base without its path, where it is one that the run folder knows to find."""
    settings = checkpoint / ADAPTER_FILE
    known = {hide_path(path) for path in read_paths(run).values()}
    if not known or not settings.exists():
        return
    base = read_json(settings)["base_model_name_or_path"]
    if (hidden := hide_path(base)) in known:
        for path in (settings, checkpoint / "README.md"):
            if path.exists():
                write_whole(path, path.read_bytes().replace(base.encode(), hidden.encode()))


def mark_whole(folder: Path, paths: Iterable[Path]) -> None:
    """Write down sizes and SHA-256 of files in a folder, in one atomic step: from now on it is whole."""
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _hash(path)}
        for path in sorted(paths)
        if path.is_file() and path.name != MANIFEST_FILE
    }
    write_whole(folder / MANIFEST_FILE, json.dumps(listed, indent=1).encode())


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds every file that its manifest lists, at full size."""
    return find_missing(folder) is None


def find_missing(folder: Path) -> str | None:
    """Return what keeps a folder from being whole, None if it is; contents are not read."""
    try:
        listed = _read_manifest(folder)
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing: it was written only in part"
    except (OSError, ValueError) as error:
        return f"{MANIFEST_FILE} cannot be read ({error})"
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes and had {entry['bytes']:,}"
    return None


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a folder that was marked as whole, None if nothing is; reads every byte."""
    if (missing := find_missing(folder)) is not None:
        return missing
    for name, entry in _read_manifest(folder).items():
        if entry["sha256"] is not None and _hash(folder / name) != entry["sha256"]:
            return f"{name} is not as it was written"
    return _find_foreign_step(folder)


def check_sound(folder: Path) -> None:
    """Raise `RunError` if a folder that was marked as whole is not as it was written."""
    if (damage := find_damage(folder)) is not None:
        raise RunError(f"{folder}: {damage}. Put the file back, or use another checkpoint.")


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash by name; hashes are None in those of version 0.1.0.

    Raises:
        OSError: If there is none, or it cannot be read.
        ValueError: If it is none.
    """
    listed = read_json(folder / MANIFEST_FILE)
    if not isinstance(listed, dict):
        raise ValueError("no mapping")
    return {name: _check_entry(name, entry) for name, entry in listed.items()}


def _check_entry(name: str, entry: Any) -> dict[str, Any]:
    entry = {"bytes": entry, "sha256": None} if type(entry) is int else entry
    sound = isinstance(entry, dict) and type(entry.get("bytes")) is int and "sha256" in entry
    if not sound or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} has no size")
    return entry


def _find_foreign_step(folder: Path) -> str | None:
    """Return what is wrong with the step of a checkpoint, None if it is that of its name."""
    step = step_of(folder)
    if step is None:
        return None
    try:
        told = read_state(folder)["global_step"]
    except FileNotFoundError:  # a model alone
        return None
    except (OSError, ValueError) as error:
        return f"{STATE_FILE} cannot be read ({error})"
    return None if told == step else f"holds step {told!r}, by its {STATE_FILE}"


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the trainer's state in a checkpoint.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is none.
    """
    state = read_json(checkpoint / STATE_FILE, MOST_STATE_BYTES)
    if not isinstance(state, dict) or type(state.get("global_step")) is not int:
        raise ValueError("no trainer state")
    return state


def find_checkpoint(run: str | Path) -> Path | None:
    """Return the newest whole checkpoint of a run folder, or None; its contents are not read."""
    whole = find_checkpoints(run)
    return whole[-1] if whole else None


def find_checkpoints(run: str | Path) -> list[Path]:
    """Return the whole checkpoints of a run folder by rising step; their contents are not read."""
    return [path for path in list_folders(run) if is_whole(path)]


def tidy_checkpoints(run: Path, most_steps: int) -> list[Path]:
    """Return the checkpoints from which a run can go on, by rising step; the newest of them has been read.

    What a killed process left half-written is removed, and newer ones that are damaged are set aside as
    `damaged-checkpoint-N`; each is logged.

    Args:
        run: A folder that holds `checkpoint-N` folders.
        most_steps: The last step of the run; no checkpoint can be of a later one.

    Raises:
        RunError: If there are checkpoints and none is sound, or one is of a later step; nothing is set aside
            then.
    """
    folders, damage = list_folders(run), {}
    for path in [path for path in folders if not (path / MANIFEST_FILE).exists()]:
        logger.warning("%s was written only in part and is removed", path)
        shutil.rmtree(path)
        folders.remove(path)
    for path in folders[:-1]:  # the newest is never deleted by whoever drops old ones
        if (missing := find_missing(path)) is not None and missing.endswith(" is missing"):
            logger.warning("%s was deleted only in part (%s) and is removed", path, missing)
            shutil.rmtree(path)
            folders.remove(path)
    if folders and step_of(folders[-1]) > most_steps:
        raise RunError(
            f"{folders[-1]}: its step is later than training.steps = {most_steps}. It is no checkpoint of "
            "this run: move it away."
        )
    while folders and (found := find_damage(folders[-1])) is not None:
        damage[folders.pop()] = found
    if damage and not folders:
        told = "; ".join(f"{path.name}: {found}" for path, found in damage.items())
        raise RunError(
            f"{run}: no checkpoint is as it was written ({told}). Put the files back, or start a new run "
            f"from {run}/config.yaml."
        )
    for path, found in damage.items():
        aside = _set_aside(path)
        logger.warning("%s: %s. It is now %s, and not resumed from", path, found, aside.name)
    return [path for path in folders if is_whole(path)]


def drop_old_checkpoints(run: Path, most: int | None) -> None:
    """Delete all but so many of a run's checkpoints, as a `Trainer` does, which may have been killed at it.

    Args:
        run: Its folder.
        most: How many stay, the newest and the best among them; None: all.
    """
    if (last := find_checkpoint(run)) is None:
        return
    best = read_state(last).get("best_model_checkpoint")
    rotate_checkpoints(str(run), most, None if best is None else str(run / Path(best).name))


def _set_aside(path: Path) -> Path:
    names = [f"{DAMAGED}{path.name}", *(f"{DAMAGED}{path.name}.{number}" for number in range(1, 1000))]
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(aside)


def list_folders(run: str | Path) -> list[Path]:
    """Return the checkpoint folders of a run by rising step, whole or not."""
    paths = Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted((path for path in paths if step_of(path) is not None and path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int | None:
    """Return the step in a checkpoint folder's name, or None if it has none.

    >>> step_of(Path("runs/a/checkpoint-600")), step_of(Path("runs/a/checkpoint-0600"))
    (600, None)
    """
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([1-9][0-9]{{0,14}})", checkpoint.name)
    return int(found[1]) if found else None


def _find_obstacle(folder: Path) -> OSError | None:
    """Return what the system says to writing in a folder a file larger than any there, None if it can be
    done: a limit on the size of files, or a quota, has cut the largest one."""
    probe = name_draft(folder / "probe")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    size = 1 + max(sizes, default=0)
    try:
        with open(probe, "xb", buffering=0) as file:
            file.truncate(size)  # asks for the limit at once
            for _ in range(0, min(size, MOST_PROBED_BYTES), 1 << 20):
                file.write(b" " * min(size, 1 << 20))
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made
            probe.unlink()
    return None


def read_any_numpy() -> contextlib.AbstractContextManager[None]:
    """Let torch read the random state of a checkpoint, whether numpy 1 or numpy 2 wrote it: each has its own
    name for what makes an array, and torch takes no name that it was not told.

    >>> with read_any_numpy():
    ...     known = torch.serialization.get_safe_globals()
    >>> sorted(one[1] for one in known if isinstance(one, tuple) and "_reconstruct" in one[1])
    ['numpy._core.multiarray._reconstruct', 'numpy.core.multiarray._reconstruct']
    """
    make_array = np.empty(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    return torch.serialization.safe_globals([(make_array, name) for name in names])


@contextlib.contextmanager
def explain_full_disk(folder: Path, way_on: str | None = None) -> Iterator[None]:
    """Say in one sentence what torch and safetensors say in errors of their own kinds, and how to go on.

    Args:
        folder: Where a run is written.
        way_on: How to go on, once there is space; None: with `hf-icl resume`.

    Raises:
        RunError: Where something could not be written because the disk or a quota is full, files may not be
            so large, or the folder has become read-only, or is gone.
    """
    way_on = way_on or f"continue with: hf-icl resume {folder}"
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, FileError) as error:
        if not folder.exists():
            raise RunError(describe_loss(folder)) from error
        if shutil.disk_usage(folder).free >= SMALLEST_FREE_BYTES:
            if (reason := _find_obstacle(folder)) is not None:
                way_out = f"History and earlier checkpoints are whole. {find_way_out(reason, way_on)}"
                raise FileError(folder, reason, way_out) from error
            raise
        raise RunError(
            f"{folder}: the disk is full ({error}). History and earlier checkpoints are whole. "
            f"Free some space, then {way_on}"
        ) from error
