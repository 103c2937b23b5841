"""What looking at heads costs: beside an evaluation, in a whole run, and for the effects of 144 heads.

    OMP_NUM_THREADS=1 python benchmarks/bench_circuits.py

CPU seconds of this process, so that other work on the machine counts little; measured in turns.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hf_icl.circuits import HeadInstrument, list_single_heads, measure_effects
from hf_icl.models import CausalTransformerConfig, ICLModel
from hf_icl.runs import Run, load_config
from hf_icl.task.config import TaskConfig
from hf_icl.task.evaluators import ICL
from hf_icl.task.task import Task

ROUNDS = 5
STEPS = 2000  # of the runs


def cost(work: Callable[[], object]) -> float:
    """Return CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def compare_evaluations() -> None:
    """Print what one evaluation costs with and without heads: all six evaluators of the default."""
    task = Task()
    model = ICLModel.from_backbone(None, task.bank, n_context=task.n_context)
    ways = {"without": (), "with heads": (HeadInstrument(),)}
    found = {name: [] for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, instruments in ways.items():
            seconds = cost(lambda instruments=instruments: task.measure(model, instruments=instruments))
            if round_number:  # the first one warms up
                found[name].append(seconds)
    without, with_heads = (median(values) for values in found.values())
    print(
        f"one evaluation of the default: {1e3 * without:.0f} ms, with heads {1e3 * with_heads:.0f} ms: ",
        end="",
    )
    print(f"heads cost {(with_heads - without) / without:.2f} of an evaluation")


def compare_runs() -> None:
    """Print what a run of the default costs with heads at every evaluation and without, in stock steps."""
    seconds = {}
    for heads in ("false", "true"):
        words = [f"training.steps={STEPS}", "training.compile=false", f"evaluate.heads={heads}"]
        words += [f"training.checkpoint_every={STEPS}"]
        with tempfile.TemporaryDirectory() as scratch:
            run = Run.create(load_config("default", words), Path(scratch) / "run")
            seconds[heads] = cost(run.train)
    ratio = seconds["true"] / seconds["false"]
    print(f"{STEPS} steps of the default, an evaluation every 250: {seconds['false']:.0f} s, ", end="")
    print(f"with heads {seconds['true']:.0f} s: {ratio:.3f} times")


def measure_many() -> None:
    """Print what the effects of all heads of a model of 12 × 12 cost, on 1,000 sequences."""
    name = ICL.partition("/")[0]
    task = Task(TaskConfig(evaluators=(name,), n_eval_sequences=1000))
    shape = CausalTransformerConfig(n_layers=12, n_heads=12, d_model=192)
    model = ICLModel.from_backbone(shape, task.bank, n_context=task.n_context)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    changes = list_single_heads({layer: 12 for layer in range(12)})
    seconds = cost(lambda: measure_effects(task, model, changes))
    wall = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    one = cost(lambda: task.measure(model))
    print(f"144 heads of a 12 × 12 model, 192 wide, ablated one by one, 1,000 sequences of {name}: ", end="")
    print(
        f"{seconds:.0f} s of CPU ({wall:.0f} s), {seconds / one:.0f} evaluations, {added:.0f} MB more at most"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    compare_evaluations()
    compare_runs()
    measure_many()
