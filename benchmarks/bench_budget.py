"""Hold `hf-icl plan` against what is measured: parameters, FLOPs, live bytes of real steps,
memory of real processes.

Example: OMP_NUM_THREADS=1 python benchmarks/bench_budget.py gpt2-2x64 gpt2-6x256 --json budgets.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from hf_icl.models.build import build_model
from hf_icl.plan import estimate, measure_forward, measure_step
from hf_icl.plan.budget import EVALUATION_BATCH
from hf_icl.runs.config import RunConfig, load_config
from hf_icl.runs.run import build_task
from hf_icl.task.task import Task
from hf_icl.training.trainer import TransienceTrainer

PRESETS = ("gpt2-2x64", "gpt2-4x128", "gpt2-6x256", "gpt2-12x768")
ROWS = (
    "parameters",
    "flops_per_step",
    "weights",
    "optimizer",
    "activations",
    "step",
    "evaluation",
    "process",
)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", default=PRESETS, help="presets that fit this machine")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="settings on top of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--process", metavar="PRESET", help=argparse.SUPPRESS)  # a run of measure_process
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.process:
        print(json.dumps(train_and_measure(load_config(words.process, words.set))))
        return
    results = {preset: compare(preset, words.set) for preset in words.presets}
    if words.json:
        versions = {"torch": torch.__version__, "settings": words.set}
        words.json.write_text(json.dumps(versions | {"results": results}, indent=1))
    for preset, pairs in results.items():
        print(f"{preset:16} {'estimated':>18} {'measured':>18} {'ratio':>8}")
        for name, (estimated, measured) in pairs.items():
            print(f"  {name:14} {estimated:18,} {measured:18,} {estimated / measured:8.4f}")


def compare(preset: str, overrides: list[str]) -> dict[str, tuple[int, int]]:
    """Return (estimated, measured) by quantity: counts and bytes on one device."""
    config = load_config(preset, overrides)
    budget = estimate(config)
    memory = budget.memory["single"]
    estimated = {
        "parameters": budget.parameters,
        "flops_per_step": budget.flops_per_step,
        "weights": memory.parameters,
        "optimizer": memory.optimizer,
        "activations": budget.activations,
        "step": memory.step,
        "evaluation": budget.evaluation,
        "process": memory.total,
    }
    measured = measure_tensors(config) | {"process": measure_process(preset, overrides)}
    return {name: (estimated[name], measured[name]) for name in ROWS}


def measure_tensors(config: RunConfig) -> dict[str, int]:
    """Take a real step on real tensors, and measure what the estimate counts on tensors without memory.

    Activations are measured in another way than estimated: by the tensors that autograd saves.
    """
    task = build_task(config)
    model = build_model(config.model, task, seed=config.seed)
    batch = task.train_sampler.draw(0, config.training.batch_size)
    cost = measure_step(model, lambda: task.encode(batch))
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    state = [tensor for state in optimizer.state.values() for tensor in state.values()]
    questions = task.sampler("train").draw(0, min(EVALUATION_BATCH, config.task.n_eval_sequences))
    _, evaluation = measure_forward(model, lambda: task.predict(model, questions))
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "flops_per_step": cost.flops,
        "weights": sum(weight.nbytes for weight in model.parameters()),
        "optimizer": sum(tensor.nbytes for tensor in state),
        "activations": sum_saved(model, task.encode(batch)),
        "step": max(cost.peak, evaluation),
        "evaluation": evaluation,
    }


def sum_saved(model: nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    """Return the bytes of all storages that autograd keeps for the backward pass, weights left out,
    inputs included."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved: dict[int, torch.Tensor] = {
        tensor.untyped_storage().data_ptr(): tensor for tensor in inputs.values()
    }

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs).loss
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def measure_process(preset: str, overrides: list[str]) -> int:
    """Train for three steps in a process of its own; return the most resident memory above what libraries
    take.

    The C library's allocator is told to give freed memory back, which by default it keeps in part.
    """
    command = [sys.executable, __file__, "--process", preset, "--set", *overrides]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train_and_measure(config: RunConfig) -> int:
    """Train a small model, so that libraries are loaded and warm, then the one asked for; Linux only."""
    logging.disable(logging.WARNING)
    _train(load_config("gpt2-2x64", ["training.batch_size=8", "task.n_eval_sequences=8"]))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = read_memory("VmRSS")
    _train(config)
    return read_memory("VmHWM") - before


def _train(config: RunConfig) -> None:
    task = Task(config.task, seed=config.seed)
    training = config.training.replace(steps=3)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training.to_arguments(Path(folder), config.seed)
        arguments.save_strategy = "no"
        TransienceTrainer(build_model(config.model, task, seed=config.seed), arguments, task).train()


def read_memory(field: str) -> int:
    """Return bytes of this process: VmRSS, resident now, or VmHWM, the most that ever were.

    `getrusage` would count the parent's peak too, which a new process inherits.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
