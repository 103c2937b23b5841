"""How cost grows: of a step with classes and with replicas,
of a row and of a report with the evaluations before.

    python benchmarks/bench_growth.py [--rows 10000,100000] [--json FILE]

Steps are those of CompiledTrainer at the embedded default, whose labels stay 32 whatever the number of
classes; the sizes take turns, and ratios compare rates of one round. A report is that of one run, made by the
command in a process of its own, from a history that repeats a real one's rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench_training import Team, run_stack

from hf_icl.history.history import History
from hf_icl.history.lines import encode_row
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run

CLASSES = (384, 12_800, 102_400)
REPLICAS = (1, 2, 4, 8, 16, 32)
REPORT = """
import atexit
from hf_icl.cli.main import main
lines = lambda: open("/proc/self/status")
atexit.register(lambda: print([line for line in lines() if line.startswith("VmHWM")][0].split()[1]))
main()
"""  # the command, which then says its own peak memory in KiB; `getrusage` would count this process's too
ROUNDS, STEPS = 7, 150


def run_with_classes(orders, folder: Path, n_classes: int) -> None:
    run_stack(orders, folder, "d", 1, f"task.bank.n_classes={n_classes}", "task.bank.n_exemplars=4")


def measure_classes() -> Iterator[dict]:
    yield from compare("classes", {n: Team(run_with_classes, (n,), 1, 1) for n in CLASSES}, lambda n: STEPS)


def measure_replicas() -> Iterator[dict]:
    teams = {n: Team(run_stack, ("d", n), 1, 1) for n in REPLICAS}
    yield from compare("replicas", teams, lambda n: max(5, STEPS // n))


def compare(name: str, teams: dict[int, Team], count_steps: Callable[[int], int]) -> Iterator[dict]:
    """Yield rates and costs per sequence, against the first's, of teams that take turns, and their memory."""
    rates, memory = {n: [] for n in teams}, {}
    for _ in range(ROUNDS):
        for n, team in teams.items():
            rate, memory[n] = team.measure(count_steps(n))
            rates[n].append(rate)
    for n, team in teams.items():
        team.close()
        costs = [first / rate for first, rate in zip(next(iter(rates.values())), rates[n], strict=True)]
        yield {
            name: n,
            "sequences_per_s": round(statistics.median(rates[n])),
            "cost": round(statistics.median(costs), 3),
            "peak_mb": round(memory[n]),
        }


def measure_append(history: History, n_rows: int = 1000) -> float:
    """Return the seconds that a row takes: written, flushed and added to the columns."""
    row = history.rows[-1]
    start = time.perf_counter()
    for number in range(1, n_rows + 1):
        history.append(row | {"step": row["step"] + number})
    return (time.perf_counter() - start) / n_rows


def measure_report(n_rows: int, folder: Path) -> dict:
    """Train for a moment, repeat the last row, and time `hf-icl report`."""
    run = Run.create(
        load_config("default", ["training.steps=4", "evaluate=2", "training.compile=false"]), folder / "run"
    )
    run.train()
    rows = run.history.rows
    line, last = rows.last_line, rows[-1]
    with open(folder / "run/history.jsonl", "ab") as file:
        for number in range(1, n_rows - len(rows) + 1):
            line = encode_row(last | {"step": last["step"] + number}, line)
            file.write(line)
    words = ["report", str(folder / "run"), "--output", str(folder / "report")]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", REPORT, *words], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    size = (folder / "run/history.jsonl").stat().st_size / 1e6
    row_seconds = measure_append(History(folder / "run/history.jsonl"))
    return {
        "rows": n_rows,
        "row_us": round(row_seconds * 1e6),
        "history_mb": round(size),
        "seconds": round(seconds, 1),
        "peak_mb": int(done.stdout.split()[-1]) // 2**10,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", default="1000,10000,100000", help="evaluations of the run to report, smallest first"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    words = parser.parse_args()
    found = []
    for n_rows in map(int, words.rows.split(",")):  # first, while no larger child has left its peak memory
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure_report(n_rows, Path(folder)))
            print(found[-1], flush=True)
    for row in (*measure_classes(), *measure_replicas()):
        found.append(row)
        print(row, flush=True)
    if words.json:
        words.json.write_text(json.dumps({"load": os.getloadavg(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
