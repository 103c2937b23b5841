"""Programs that the tests run in processes of their own."""

import os
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "task.bank.n_classes=24",
    "task.bank.n_holdout_classes=4",
    "task.bank.dim=8",
    "task.bank.n_labels=4",
    "task.n_eval_sequences=40",
    "model.d_model=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "training.batch_size=8",
    "training.threads=1",
]
BLANK = "HF_ICL_BLANK_FIGURES"  # set: see `leave_figures_blank`
QUIET = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1", BLANK: "1"}


def environment(**more: str) -> dict[str, str]:
    """Return an environment without a terminal's colours, offline, on one thread."""
    return os.environ | {"HF_HUB_OFFLINE": "1"} | QUIET | more


def leave_figures_blank(replace: Callable[[object, str, object], None]) -> None:
    """Let reports have small figures with nothing on them: most of a report's time goes into its figures."""
    from matplotlib.figure import Figure

    from hf_icl.report import write

    render = write.render_figure
    replace(write, "render_figure", lambda figure, kind, **_: render(Figure(figsize=(1, 1)), kind))
