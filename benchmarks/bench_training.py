"""How fast training is, against a bare torch loop of the same model on the same sequences.

    python benchmarks/bench_training.py [--shapes a,b,c,d] [--quick] [--json FILE]

Four ways: a plain torch loop (benchmarks/reference.py), TransienceTrainer, CompiledTrainer's steps, and 8
replicas in stacks. They take turns within each shape, so that a busy machine slows all alike; rates are
medians over the rounds, and ratios compare rates of one round. Every way but the replicas uses all cores
through torch's threads; replicas use one process of one thread per core, which work at the same time. Shares
of the rate of a large matrix product count the products of the plain loop, at all places; the other ways
leave out those that no output depends on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench_budget import read_memory
from reference import train_bare
from transformers import TrainerCallback

from hf_icl.models.build import build_model
from hf_icl.runs.config import RunConfig, load_config
from hf_icl.runs.replicas import build_trainers
from hf_icl.runs.run import Run, build_task
from hf_icl.training.compiled.stack import Stack
from hf_icl.training.trainer import TransienceTrainer

EXTENSIVE = [
    "model.places=interleaved",
    "model.exemplar_scale=1",
    "training.batch_size=32",
    "training.learning_rate=1e-5",
    "task.bank.n_labels=null",
    "task.bank.dim=512",
    "task.bank.eps=0.5",
    "task.bank.n_exemplars=4",
    "task.n_eval_sequences=10",
]
SHORT = [*EXTENSIVE, "model.mlp_ratio=0", "task.train={n_context: 2, burst: 1, distractor: true}"]
DEEP = ["model.n_layers=12", "model.mlp_ratio=4", "task.train={n_context: 8, burst: 3, distractor: true}"]
SHAPES = {
    "a": [*SHORT, "task.bank.n_classes=12800"],
    "b": [*SHORT, "task.bank.n_classes=1600"],
    "c": [*EXTENSIVE, *DEEP, "task.bank.n_classes=1600"],
    "d": ["training.batch_size=64", "task.n_eval_sequences=10"],
}
STEPS = {"a": 100, "b": 200, "c": 16, "d": 200}  # a round of each way takes one or two seconds
NEVER = 10**9
N_REPLICAS = 8
MATRIX = 1024
WARM_UP = 5


def count_flops(config: RunConfig, n_labels: int, dim: int) -> float:
    """Return floating-point operations of matrix products per sequence: forward and backward, all places."""
    model, n_context = config.model, config.task.train_specs[0].n_context
    width = model.d_model
    places = n_context + 1 if model.places == "paired" else 2 * n_context + 1
    per_place = model.n_layers * (4 + 2 * model.mlp_ratio) * width**2
    attention = model.n_layers * 2 * places * places * width
    ends = (n_context + 1) * dim * width + width * n_labels
    return 3 * 2 * (places * per_place + attention + ends)


def make_config(shape: str, *more: str) -> RunConfig:
    words = [*SHAPES[shape], f"training.steps={NEVER}", f"training.checkpoint_every={NEVER}", *more]
    return load_config("default", [*words, f"evaluate={NEVER}", "training.threads=null"])


def time_products() -> float:
    """Return floating-point operations per second of a large fp32 matrix product."""
    left, right = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / statistics.median(times)


class Orders:
    """What a training process is told: to take some steps, and to answer how fast they were;
    it waits in between."""

    def __init__(self, connection) -> None:
        self.connection, self.n_left, self.n_sequences, self.started = connection, WARM_UP, 0, None

    def count(self, n_sequences: int) -> None:
        """Note that one step was taken; after the last one that was ordered, answer,
        and wait for the next order."""
        self.n_left -= 1
        self.n_sequences += n_sequences
        if self.n_left:
            return
        memory = read_memory("VmHWM") / 2**20
        rate = self.n_sequences / (time.perf_counter() - self.started) if self.started else None
        self.connection.send((rate, memory))
        self.n_left = self.connection.recv()
        if self.n_left is None:
            sys.exit()
        self.n_sequences, self.started = 0, time.perf_counter()


class CountSteps(TrainerCallback):
    def __init__(self, orders: Orders, batch_size: int) -> None:
        self.orders, self.batch_size = orders, batch_size

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.orders.count(self.batch_size)


def run_bare(orders: Orders, folder: Path, shape: str) -> None:
    config = make_config(shape)
    for n_sequences in train_bare(config, build_task(config)):
        orders.count(n_sequences)


def run_trainer(orders: Orders, folder: Path, shape: str) -> None:
    config = make_config(shape)
    task = build_task(config)
    arguments = config.training.to_arguments(folder / "trainer", config.seed)
    trainer = TransienceTrainer(build_model(config.model, task, seed=config.seed), arguments, task)
    trainer.remove_callback(type(trainer.transience))  # measuring is no part of this
    trainer.add_callback(CountSteps(orders, config.training.batch_size))
    trainer.train()


def run_stack(orders: Orders, folder: Path, shape: str, n_replicas: int = 1, *more: str) -> None:
    configs = [make_config(shape, f"seed={seed}", "task.bank.seed=0", *more) for seed in range(n_replicas)]
    runs = [Run.create(config, folder / str(config.seed)) for config in configs]
    stack = Stack(build_trainers(runs, [run.history for run in runs]), compiled=True)
    while True:
        stack.step()
        orders.count(n_replicas * runs[0].config.training.batch_size)


def serve(connection, run: Callable, words: tuple, n_threads: int) -> None:
    """Train in this process as ordered."""
    torch.set_num_threads(n_threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            run(Orders(connection), Path(folder), *words)


class Team:
    """Processes that train at the same time, one way each."""

    def __init__(self, run: Callable, words: tuple, n_processes: int, n_threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections = []
        for _ in range(n_processes):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, run, words, n_threads), daemon=True).start()
            theirs.close()
            self.connections.append(ours)
        for connection in self.connections:
            connection.recv()

    def measure(self, n_steps: int) -> tuple[float, float]:
        """Return sequences/s of all processes together, and the sum of their peak memories in MB."""
        for connection in self.connections:
            connection.send(n_steps)
        answers = [connection.recv() for connection in self.connections]
        return sum(rate for rate, _ in answers), sum(memory for _, memory in answers)

    def close(self) -> None:
        for connection in self.connections:
            connection.send(None)


def measure_shape(shape: str, n_rounds: int, n_steps: int, n_cores: int) -> Iterator[dict]:
    """Yield one row per way of training."""
    n_each = N_REPLICAS // n_cores
    ways = {
        "bare loop": Team(run_bare, (shape,), 1, n_cores),
        "TransienceTrainer": Team(run_trainer, (shape,), 1, n_cores),
        "CompiledTrainer": Team(run_stack, (shape,), 1, n_cores),
        f"{N_REPLICAS} replicas": Team(run_stack, (shape, n_each), n_cores, 1),
    }
    rates, memory, products = {name: [] for name in ways}, {}, []
    for _ in range(n_rounds):
        products.append(time_products())
        for name, team in ways.items():
            n_now = max(1, n_steps // n_each) if "replicas" in name else n_steps
            rate, memory[name] = team.measure(n_now)
            rates[name].append(rate)
    for team in ways.values():
        team.close()
    config = make_config(shape)
    n_labels = config.task.bank.n_labels or config.task.bank.n_classes
    flops = count_flops(config, n_labels, config.task.bank.dim)
    for name, found in rates.items():
        ratios = [rate / bare for rate, bare in zip(found, rates["bare loop"], strict=True)]
        rate = statistics.median(found)
        yield {
            "shape": shape,
            "way": name,
            "sequences_per_s": round(rate),
            "ratio_to_bare": round(statistics.median(ratios), 2),
            "share_of_products": round(rate * flops / statistics.median(products), 3),
            "peak_memory_mb": round(memory[name]),
            "all_sequences_per_s": [round(rate) for rate in found],
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="a,b,c,d", help="which of a, b, c, d")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median over")
    parser.add_argument("--quick", action="store_true", help="3 rounds of a quarter of the steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    words = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(n_cores)
    rows = []
    print(f"{'shape':5} {'way':20} {'sequences/s':>12} {'ratio':>6} {'of products':>12} {'memory, MB':>11}")
    for shape in words.shapes.split(","):
        n_steps = STEPS[shape] // 4 if words.quick else STEPS[shape]
        for row in measure_shape(shape, 3 if words.quick else words.rounds, n_steps, n_cores):
            rows.append(row)
            print(
                f"{shape:5} {row['way']:20} {row['sequences_per_s']:>12,} {row['ratio_to_bare']:>6.2f} "
                f"{row['share_of_products']:>12.0%} {row['peak_memory_mb']:>11,}",
                flush=True,
            )
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {n_cores} cores",
        "load": os.getloadavg(),
        "products_per_s": time_products(),
        "rows": rows,
    }
    if words.json:
        words.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
