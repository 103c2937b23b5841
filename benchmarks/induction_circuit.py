"""The induction circuit of Singh et al. 2024 (arXiv 2404.07129), beside the published one.

    python benchmarks/induction_circuit.py runs/induction --seeds 4 --processes 2

Trains the preset `induction-2l`, several seeds as replicas, goes on where it was stopped, and prints tables.
Published figures were read in the authors' code; theirs is one seed. Heads have no order of their own, so
strengths are listed from high to low, each with the accuracy that its head reaches alone in its layer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_icl.circuits import Ablation, HeadInstrument, list_lone_heads, measure_effects
from hf_icl.runs import Run, load_config, train_replicas
from hf_icl.task.evaluators import TRAIN_LOSS, TRAIN_SPLIT

ACCURACY = f"{TRAIN_SPLIT}/accuracy"
COUNTS = {0: 8, 1: 8}
KEPT = {"patterns": "patterns kept", "values": "values kept"}
FORMED = 0.4 * np.log(2)  # the loss by which the authors tell when the circuit has formed
PREVIOUS = (
    0.5  # attention from labels to the exemplar before, from which a head counts as a previous-token head
)
PUBLISHED = {
    "accuracy": ".99999",
    "sequences until loss < 0.4 ln 2": "–",
    "previous-token heads, of 8": "3",
    "without layer 0, layer 1's patterns and values kept": ".99986",
    "without previous-token heads, patterns kept": ".999",
    "without previous-token heads, values kept": ".699",
    "without the other heads of layer 0, patterns kept": ".343",
    "without the other heads of layer 0, values kept": ".993",
}
PUBLISHED_HEADS = [  # layer 1: induction strength, accuracy with that head alone
    (0.42, 0.40), (0.74, 0.77), (0.71, 0.75), (0.85, 0.98), (0.29, 0.43), (0.55, 0.65), (0.10, 0.29),
    (0.57, 0.59),
]  # fmt: skip


class Circuit(NamedTuple):
    """What was found of one seed: numbers as text; strength and accuracy alone in layer 1."""

    numbers: dict[str, str]
    heads: list[tuple[float, float]]
    previous: list[float]


def measure_circuit(run: Run) -> Circuit:
    """Return what the final model's heads look at, and what ablations do to its accuracy."""
    task, model = run.build_task(), run.load_model().eval()
    (scores,) = HeadInstrument((TRAIN_SPLIT,)).measure(task, model)
    previous = scores.mean("previous_token")[0]
    changes = list_changes(previous)
    effects = {one.name: one.metrics[ACCURACY] for one in measure_effects(task, model, changes)}
    strengths = scores.mean("induction")[1]
    alone = [effects[f"L1H{head} alone"] for head in range(COUNTS[1])]
    numbers = {
        "accuracy": f"{effects['intact']:.4f}",
        "sequences until loss < 0.4 ln 2": find_start(run),
        "previous-token heads, of 8": str(int((previous > PREVIOUS).sum())),
    }
    numbers |= {name: f"{effects[name]:.3f}" if name in effects else "–" for name in list(PUBLISHED)[3:]}
    return Circuit(numbers, list(zip(strengths, alone, strict=True)), sorted(previous, reverse=True))


def list_changes(previous: np.ndarray) -> Mapping[str, Ablation]:
    """Return the ablations of the published table, for heads with these previous-token scores, (n_heads,)."""
    groups = {
        "without previous-token heads": np.flatnonzero(previous > PREVIOUS),
        "without the other heads of layer 0": np.flatnonzero(previous <= PREVIOUS),
    }
    changes = dict(list_lone_heads(COUNTS, 1))
    changes["without layer 0, layer 1's patterns and values kept"] = Ablation(
        heads=("L0",), keep=("patterns", "values")
    )
    for group, heads in groups.items():
        for part, words in KEPT.items():
            if heads.size:
                names = tuple(f"L0H{head}" for head in heads)
                changes[f"{group}, {words}"] = Ablation(heads=names, keep=(part,))
    return changes


def find_start(run: Run) -> str:
    """Return after how many sequences the circuit has formed."""
    formed = (row["sequences"] for row in run.history.rows if row["metrics"][TRAIN_LOSS] < FORMED)
    first = next(formed, None)
    return "never" if first is None else f"{first:,}"


def write_tables(circuits: Mapping[str, Circuit]) -> str:
    """Return the tables in Markdown."""
    names = list(circuits)
    lines = ["| | published | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for name, published in PUBLISHED.items():
        lines.append(
            f"| {name} | {published} | " + " | ".join(c.numbers[name] for c in circuits.values()) + " |"
        )
    lines += ["", "| layer 1, strength: accuracy with that head alone |" + " |" * 9, "|---|" + "---|" * 9]
    rows = {"published": PUBLISHED_HEADS} | {name: one.heads for name, one in circuits.items()}
    for name, heads in rows.items():
        cells = (f"{strength:.2f}: {alone:.2f}" for strength, alone in sorted(heads, reverse=True))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | r = {correlate(heads):.2f} |")
    lines += ["", "| layer 0, previous-token score |" + " |" * 8, "|---|" + "---|" * 8]
    for name, one in circuits.items():
        lines.append(f"| {name} | " + " | ".join(f"{score:.2f}" for score in one.previous) + " |")
    return "\n".join(lines)


def correlate(heads: list[tuple[float, float]]) -> float:
    """Return the correlation of strength and accuracy alone over the heads of a layer."""
    return float(np.corrcoef(np.array(heads).T)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--processes", type=int, default=None, help="default: one per core")
    parser.add_argument(
        "--set", nargs="+", default=[], help="settings on top of the preset: training.steps=1000"
    )
    words = parser.parse_args()
    runs = []
    for seed in range(words.seeds):
        folder = words.folder / f"seed{seed}"
        config = load_config("induction-2l", [f"seed={seed}", *words.set])
        runs.append(Run.open(folder) if folder.exists() else Run.create(config, folder))
    start = time.perf_counter()
    train_replicas(runs, n_processes=words.processes)
    trained = time.perf_counter()
    print(write_tables({run.folder.name: measure_circuit(run) for run in runs}))
    print(
        f"\nTrained in {(trained - start) / 60:.1f} min, measured in {time.perf_counter() - trained:.0f} s."
    )


if __name__ == "__main__":
    main()
