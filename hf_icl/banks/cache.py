"""Where downloaded and decoded exemplars are kept, and how they get there: whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from huggingface_hub import constants

from hf_icl.errors import BankError

CACHE_VARIABLE = "HF_ICL_CACHE"


def find_cache_folder() -> Path:
    """Return the folder of cached exemplars: $HF_ICL_CACHE, else `hf_icl` in the Hugging Face home."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(constants.HF_HOME) / "hf_icl").expanduser()


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name once it is complete; on any error, nothing is left behind.

    Raises:
        BankError: If the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "x+b") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        raise BankError(
            f"{path}: cannot be written ({error.strerror or error}). "
            f"Make room, or set {CACHE_VARIABLE} to a folder that can be written."
        ) from error
    finally:
        if draft.exists():
            draft.unlink()
