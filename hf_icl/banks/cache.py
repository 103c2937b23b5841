"""Where downloaded and decoded exemplars are kept."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from huggingface_hub import constants

from hf_icl.files import open_whole

CACHE_VARIABLE = "HF_ICL_CACHE"


def find_cache_folder() -> Path:
    """Return the folder of cached exemplars: $HF_ICL_CACHE, else `hf_icl` in the Hugging Face home."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(constants.HF_HOME) / "hf_icl").expanduser()


def open_cached(path: Path) -> AbstractContextManager[IO[bytes]]:
    """Open a file of the cache to write it, whole or not at all.

    Raises:
        FileError: If the disk is full or the folder cannot be written.
    """
    return open_whole(path, way_out=f"Make room, or set {CACHE_VARIABLE} to a folder that can be written.")
