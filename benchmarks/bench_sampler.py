"""How fast sequences are drawn on one core, against the number of classes.

    python benchmarks/bench_sampler.py [--json FILE]

Draws the default spec (context 8, burst 3, distractor) in calls of `--count` sequences. The configurations
take turns, so that a busy machine slows all alike, and each row is the median over the rounds. Times are CPU
seconds of the one thread, so other programs on the machine count as little as they can.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hf_icl.philox import word_columns
from hf_icl.sequences.sampler import Sampler
from hf_icl.sequences.spec import SequenceSpec

CLASSES = (128, 1_600, 12_800, 102_400)
WEIGHTS = {"uniform": 0.0, "Zipf 1": 1.0}
GOAL = 1_000_000  # sequences/s at 12,800 classes
PHILOX_ROWS = 16_384


def make_sampler(n_classes: int, zipf: float) -> Sampler:
    labels = torch.arange(n_classes)[:, None]
    pools = {"train": torch.arange(n_classes)}
    return Sampler(SequenceSpec(zipf=zipf), labels, pools, {"all": (0, 20)}, seed=0, stream=0)


def measure_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def draw_words_alone(start: int, count: int, n_words: int) -> None:
    for first in range(start, start + count, PHILOX_ROWS):
        word_columns(torch.arange(first, min(first + PHILOX_ROWS, start + count)), n_words, seed=0, stream=0)


def measure(count: int, n_rounds: int) -> list[dict]:
    """Return a row per number of classes and weighting: sequences/s and shares."""
    samplers = {(n, name): make_sampler(n, zipf) for name, zipf in WEIGHTS.items() for n in CLASSES}
    seconds = {key: [] for key in samplers}
    philox_seconds = []
    n_words = next(iter(samplers.values())).n_words
    for number in range(n_rounds + 1):  # the first round warms up
        for key, sampler in samplers.items():
            seconds[key].append(measure_seconds(lambda: sampler.draw(number * count, count)))  # noqa: B023
        philox_seconds.append(measure_seconds(lambda: draw_words_alone(number * count, count, n_words)))  # noqa: B023
    philox = statistics.median(philox_seconds[1:])
    medians = {key: statistics.median(times[1:]) for key, times in seconds.items()}
    return [
        {
            "classes": n,
            "weights": name,
            "sequences_per_s": round(count / taken),
            "cost_against_128_classes": round(taken / medians[CLASSES[0], name], 3),
            "philox_share": round(philox / taken, 3),
        }
        for (n, name), taken in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=131_072, help="sequences per call")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to take the median over")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.rounds < 1:
        parser.error("--count and --rounds must be at least 1")
    torch.set_num_threads(1)
    rows = measure(arguments.count, arguments.rounds)
    print(
        f"{'classes':>8}  {'weights':<8} {'sequences/s':>12} {'cost / 128 classes':>19} {'Philox share':>13}"
    )
    for row in rows:
        print(
            f"{row['classes']:>8,}  {row['weights']:<8} {row['sequences_per_s']:>12,} "
            f"{row['cost_against_128_classes']:>19.2f} {row['philox_share']:>13.0%}"
        )
    at_goal = min(row["sequences_per_s"] for row in rows if row["classes"] == 12_800)
    print(
        f"goal at 12,800 classes: {GOAL:,}/s, found {at_goal:,}/s: {'met' if at_goal >= GOAL else 'missed'}"
    )
    if arguments.json:
        versions = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        settings = {"count": arguments.count, "rounds": arguments.rounds}
        arguments.json.write_text(json.dumps(versions | settings | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
