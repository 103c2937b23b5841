"""How fast training is on one GPU, and what bounds it.

    python benchmarks/bench_gpu.py [--shapes c,a] [--replicas 1,64] [--steps 200] [--tf32] [--json FILE]

Steps are those of CompiledTrainer and of stacks of replicas: drawn, looked up and, on a GPU, replayed as one
CUDA graph. Shapes are bench_training's. "busy" is the share of the time in which a kernel was running: near
1, arithmetic or memory bounds a step, and the kernels that take longest say which; far below, the host does.
Without a GPU it runs on the CPU, which proves the program alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_training import make_config
from torch.profiler import ProfilerActivity, profile

from hf_icl.history.origin import describe_origin
from hf_icl.runs.replicas import build_trainers
from hf_icl.runs.run import Run
from hf_icl.training.compiled.stack import Stack

TARGETS = {
    ("c", 1): 20_000,
    ("c", 64): 400_000,
    ("a", 1): 40_000,
    ("a", 64): 1_000_000,
}  # sequences/s, one H200
WARM_UP, PROFILED = 20, 20
N_KERNELS = 5


def build_stack(shape: str, n_replicas: int, folder: Path) -> Stack:
    configs = [make_config(shape, f"seed={seed}", "task.bank.seed=0") for seed in range(n_replicas)]
    runs = [Run.create(config, folder / str(config.seed)) for config in configs]
    return Stack(build_trainers(runs, [run.history for run in runs]), compiled=True)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_steps(stack: Stack, n_steps: int) -> float:
    """Return the seconds that some steps take, from the first kernel to the last."""
    synchronize()
    start = time.perf_counter()
    for _ in range(n_steps):
        stack.step()
    synchronize()
    return time.perf_counter() - start


def profile_steps(stack: Stack) -> tuple[float, dict[str, float]]:
    """Return the share of the time in which the device was busy, and the kernels that took longest,
    with their shares."""
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        seconds = time_steps(stack, PROFILED)
    events = found.key_averages()
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        for event in events
    }
    longest = sorted(times, key=times.get, reverse=True)[:N_KERNELS]
    return sum(times.values()) / seconds, {name[:60]: round(times[name] / seconds, 3) for name in longest}


def measure(shape: str, n_replicas: int, n_steps: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        stack = build_stack(shape, n_replicas, Path(folder))
        time_steps(stack, WARM_UP)
        n_sequences = n_steps * n_replicas * stack.trainers[0].args.train_batch_size
        rate = n_sequences / time_steps(stack, n_steps)
        memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        busy, kernels = profile_steps(stack)
    return {
        "shape": shape,
        "replicas": n_replicas,
        "sequences_per_s": round(rate),
        "target": TARGETS.get((shape, n_replicas)),
        "memory_mb": memory and round(memory),
        "busy": round(busy, 2),
        "longest": kernels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="c,a", help="of bench_training")
    parser.add_argument("--replicas", default="1,64", help="how many at once")
    parser.add_argument("--steps", type=int, default=200, help="timed steps of each")
    parser.add_argument("--tf32", action="store_true", help="multiply fp32 matrices in TF32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    words = parser.parse_args()
    torch.set_float32_matmul_precision("high" if words.tf32 else "highest")
    about = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "tf32": words.tf32,
        **describe_origin(0, " ".join(sys.argv)),
    }
    print(about, flush=True)
    rows = []
    for shape in words.shapes.split(","):
        for n_replicas in map(int, words.replicas.split(",")):
            rows.append(measure(shape, n_replicas, words.steps))
            print(rows[-1], flush=True)
    if words.json:
        words.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
