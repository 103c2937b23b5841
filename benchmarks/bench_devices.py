"""What a second process costs: two processes on two cores against one process with two threads, and with one.

    python benchmarks/bench_devices.py [--steps N] [--rounds N] [--json FILE]

Trains the default preset, evaluators aside, by torchrun. The arrangements take turns, so that a busy machine
slows all alike; each row is the median over the rounds, of the Trainer's own steps per second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ARRANGEMENTS = {
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}


def train(steps: int, threads: int) -> None:
    """Train in this process, one of those that torchrun started, and print steps per second."""
    from hf_icl.distributed import is_main, join, leave
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import build_model, build_task
    from hf_icl.training.trainer import TransienceTrainer

    config = load_config("default", [f"training.steps={steps}", "task.n_eval_sequences=1"])
    join(cpu=True)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        args = config.training.to_arguments(Path(folder), seed=0)
        args.save_strategy = "no"
        task = build_task(config)
        trainer = TransienceTrainer(build_model(config, task), args, task, schedule=steps)
        speed = trainer.train().metrics["train_steps_per_second"]
    if is_main():
        print("steps per second:", speed)
    leave()


def launch(n_processes: int, threads: int, steps: int) -> float:
    """Start a training by torchrun and return its steps per second."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(n_processes),
    ]
    command += [__file__, "--train", str(threads), "--steps", str(steps)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.rsplit("steps per second:", 1)[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500, help="optimizer steps per training")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median over")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    parser.add_argument("--train", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        return train(arguments.steps, arguments.train)
    speeds: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
    for _ in range(arguments.rounds):
        for name, (n_processes, threads) in ARRANGEMENTS.items():
            speeds[name].append(launch(n_processes, threads, arguments.steps))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    base = medians["1 process, 2 threads"]
    rows = [
        {
            "arrangement": name,
            "steps_per_s": round(speed, 1),
            "against_1_process_2_threads": round(speed / base, 2),
        }
        for name, speed in medians.items()
    ]
    print(f"{'':<28} {'steps/s':>8} {'against 1 process, 2 threads':>29}")
    for row in rows:
        print(f"{row['arrangement']:<28} {row['steps_per_s']:>8} {row['against_1_process_2_threads']:>29}")
    if arguments.json:
        about = {
            "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
            "steps": arguments.steps, "rounds": arguments.rounds,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
