"""What it costs that nothing is lost or wrong without a word: hashes, row sums, locks.

    python benchmarks/bench_trust.py [--steps 1000] [key=value …]

One run of the embedded default, of which a few functions are timed where they are called. Shares are of that
run, so that they hold on machines that are faster or busier.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import Trainer

from hf_icl.history import lines
from hf_icl.runs import run as runs
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.training import checkpoints
from hf_icl.training.callback import TransienceCallback

WATCHED: dict[str, tuple[object, str]] = {
    "a save": (Trainer, "_save_checkpoint"),
    "its manifest": (checkpoints.ManifestCallback, "on_save"),
    "hashes": (checkpoints, "_hash"),
    "permissions": (checkpoints, "give_usual_permissions"),
    "an evaluation": (TransienceCallback, "measure"),
    "row sums": (lines, "_checksum"),
    "the look at the folder": (checkpoints.PlaceCallback, "on_step_end"),
}


class Clock:
    """Seconds spent in functions, and how often they were called."""

    def __init__(self) -> None:
        self.seconds, self.calls = dict.fromkeys(WATCHED, 0.0), dict.fromkeys(WATCHED, 0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the functions for a while."""
        before = {name: getattr(*where) for name, where in WATCHED.items()}
        for name, (owner, attribute) in WATCHED.items():
            setattr(owner, attribute, self._time(name, before[name]))
        yield
        for name, (owner, attribute) in WATCHED.items():
            setattr(owner, attribute, before[name])

    def _time(self, name: str, function: Callable) -> Callable:
        def timed(*words, **named):
            begun = time.perf_counter()
            try:
                return function(*words, **named)
            finally:
                self.seconds[name] += time.perf_counter() - begun
                self.calls[name] += 1

        return timed


def time_lock(folder: Path, rounds: int = 20) -> float:
    """Return the seconds that it takes to take a folder's lock and give it back."""
    begun = time.perf_counter()
    for _ in range(rounds):
        with runs.hold(folder):
            pass
    return (time.perf_counter() - begun) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_args()
    settings = [f"training.steps={chosen.steps}", f"training.checkpoint_every={max(1, chosen.steps // 5)}"]
    config = load_config(
        "default", [*settings, "training.compile=false", "training.threads=1", *chosen.words]
    )
    torch.set_num_threads(1)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        made = Run.create(config, Path(folder) / "run")
        with clock.watching():
            begun = time.perf_counter()
            made.train()
            total = time.perf_counter() - begun
        lock = time_lock(made.folder)
    seconds = clock.seconds
    print(f"run of {chosen.steps:,} steps: {total:.1f} s")
    for name, spent in seconds.items():
        calls = clock.calls[name]
        print(
            f"{name:>24}: {calls:5} × {1e3 * spent / max(1, calls):9.3f} ms = {spent / total:8.3%} of the run"
        )
    print(f"{'a lock':>24}: {1:5} × {1e3 * lock:9.3f} ms = {lock / total:8.3%} of the run")
    saves = seconds["a save"] + seconds["its manifest"]
    print(f"hashes: {seconds['hashes'] / saves:.1%} of saves")
    print(f"row sums: {seconds['row sums'] / seconds['an evaluation']:.4%} of evaluations")
    trust = seconds["its manifest"] + seconds["row sums"] + seconds["the look at the folder"] + lock
    print(f"all of it: {trust / total:.2%} of the run")


if __name__ == "__main__":
    main()
