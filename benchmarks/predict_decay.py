"""Does theory tell when ICL will have decayed by half, from the first part of a run?

    python benchmarks/predict_decay.py RUN [RUN …] [--until 2000 3000 4000]

Fits both models of `hf_icl.theory` to each run's curves up to a step, and compares the half-decay that they
predict with the run's own. The naive guess is the mean of the other runs' half-decays.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from hf_icl.runs import read_record
from hf_icl.theory import Race, Strategies, fit_model, read_pair

KINDS = {"two strategies": Strategies, "race": Race}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--until", nargs="+", type=int, default=[2000, 3000, 4000])
    words = parser.parse_args()
    start = time.process_time()
    records = [read_record(folder) for folder in words.runs]
    pairs = [read_pair(record.rows, record.chance) for record in records]
    found = [pair.find() for pair in pairs]
    real = [one["half_decay"] for one in found]
    print("| run | onset | peak | half-decay | naive guess |\n|---|---|---|---|---|")
    naive = []
    for number, record in enumerate(records):
        others = [step for other, step in enumerate(real) if other != number and step is not None]
        naive.append(float(np.mean(others)))
        cells = (
            f"{value:,.0f}" if value is not None else "–" for value in (*found[number].values(), naive[-1])
        )
        print(f"| {record.name} | {' | '.join(cells)} |")
    print("\n| model | fitted up to step | predicted half-decay, run by run | median error | residual |")
    print("|---|---|---|---|---|")
    print(f"| naive guess | – | {tell(naive)} | {tell_error(naive, real)} | – |")
    for name, kind in KINDS.items():
        for until in words.until:
            fits = [fit_model(kind, pair.until(until)) for pair in pairs]
            guesses = [
                one.predict(pair.steps[-1])["half_decay"] for one, pair in zip(fits, pairs, strict=True)
            ]
            residual = np.mean([one.residual for one in fits])
            row = f"| {name} | {until:,} | {tell(guesses)} | {tell_error(guesses, real)} | {residual:.3f} |"
            print(row, flush=True)
    print(f"\n{time.process_time() - start:.0f} s of CPU.")


def tell(steps: list[float | None]) -> str:
    return ", ".join("never" if step is None else f"{step:,.0f}" for step in steps)


def tell_error(guesses: list[float | None], real: list[float | None]) -> str:
    """Return the median of |guess − half-decay| in steps; a half-decay that is not foreseen is infinitely
    far."""
    errors = [
        np.inf if guess is None else abs(guess - step)
        for guess, step in zip(guesses, real, strict=True)
        if step is not None
    ]
    return f"{np.median(errors):,.0f} of {len(errors)}" if errors else "–"


if __name__ == "__main__":
    main()
