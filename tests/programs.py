"""Programs that the tests run in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "task.bank.n_classes=24", "task.bank.n_holdout_classes=4", "task.bank.dim=8", "task.bank.n_labels=4",
    "task.n_eval_sequences=40", "model.d_model=16", "model.n_heads=2", "model.n_layers=1", "training.batch_size=8",
    "training.threads=1",
]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """Return an environment without a terminal's colours, offline, on one thread."""
    return (
        os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"} | more
    )


def hf_icl(*words: str, cwd: Path | None = None, **options) -> subprocess.CompletedProcess[str]:
    """Run the `hf-icl` command to its end."""
    command = [sys.executable, "-m", "hf_icl", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, **options)
