"""Where numbers come from: what must stand beside every figure, so that it can be made again."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hf_icl.distributed import count_processes
from hf_icl.wording import mask

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "huggingface-hub", "numpy")


def describe_origin(seed: int, command: str = "") -> dict[str, Any]:
    """Return seed, versions, commit, machine and command: what must stand beside every figure."""
    return {
        "seed": seed,
        "versions": {"python": platform.python_version(), "hf-icl": metadata.version("hf-icl")}
        | {name: metadata.version(name) for name in LIBRARIES},
        "commit": _find_commit(),
        "machine": f"{platform.machine()}, processes × threads: {count_processes()} × "
        f"{torch.get_num_threads()}",
        "command": mask(command),
    }


def _find_commit() -> str | None:
    """Return the commit of this source tree, with `+` if it was changed since; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
