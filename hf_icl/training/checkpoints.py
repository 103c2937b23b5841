"""Which checkpoints are whole: a process killed in mid-save leaves folders that must never be resumed
from."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_icl.distributed import wait_for_all
from hf_icl.errors import RunError
from hf_icl.files import write_whole

logger = logging.getLogger(__name__)

MANIFEST_FILE = "complete.json"
SMALLEST_FREE_BYTES = 1 << 16


class ManifestCallback(TrainerCallback):
    """Marks each checkpoint as whole, once everything in it is written."""

    def on_save(self, args, state, control, **kwargs) -> None:
        """Write the manifest of the checkpoint just saved, once every process has saved its part."""
        wait_for_all()
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", "**/[!.]*")


def mark_whole(folder: Path, pattern: str = "[!.]*", *, but: Collection[str] = ()) -> None:
    """Write a manifest with the sizes of the files now in `folder` that match a pattern, in one atomic step.

    Files whose names are in `but` are left out: they may change without harm.
    """
    paths = (
        path
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.name not in (MANIFEST_FILE, *but)
    )
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    write_whole(folder / MANIFEST_FILE, json.dumps(sizes, indent=1).encode())


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds every file that its manifest lists, at full size."""
    try:
        sizes = json.loads((folder / MANIFEST_FILE).read_text())
    except (OSError, ValueError):
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def find_checkpoint(run: str | Path, *, remove_broken: bool = False) -> Path | None:
    """Return the newest whole checkpoint of a run folder, or None.

    Args:
        run: A folder that holds `checkpoint-N` folders.
        remove_broken: Delete the checkpoints that a killed process left half-written, and log each.
    """
    whole = find_checkpoints(run)
    if remove_broken:
        for path in set(_list_checkpoints(run)) - set(whole):
            logger.warning("%s was written only in part and is removed", path)
            shutil.rmtree(path)
    return whole[-1] if whole else None


def find_checkpoints(run: str | Path) -> list[Path]:
    """Return the whole checkpoints of a run folder by rising step."""
    return [path for path in _list_checkpoints(run) if is_whole(path)]


def _list_checkpoints(run: str | Path) -> list[Path]:
    folders = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(path) is not None]
    return sorted(folders, key=step_of)


def step_of(checkpoint: Path) -> int | None:
    """Return the step in a checkpoint folder's name, or None if it has none."""
    digits = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(digits) if digits.isdigit() else None


@contextlib.contextmanager
def explain_full_disk(folder: Path, way_on: str | None = None) -> Iterator[None]:
    """Say in one sentence what torch and safetensors say in errors of their own kinds.

    Args:
        folder: Where a run is written.
        way_on: How to go on, once there is space; None: with `hf-icl resume`.

    Raises:
        RunError: Where something could not be written because the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder).free >= SMALLEST_FREE_BYTES:
            raise
        raise RunError(
            f"{folder}: the disk is full ({error}). History and earlier checkpoints are whole. "
            f"Free some space, then {way_on or f'continue with: hf-icl resume {folder}'}"
        ) from error
