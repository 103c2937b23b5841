"""How long a run takes on this machine: a few of its own steps, and part of an evaluation, timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from hf_icl.distributed import choose_device
from hf_icl.models.build import build_model
from hf_icl.runs.config import RunConfig
from hf_icl.runs.run import build_task, use_threads
from hf_icl.task.task import Task
from hf_icl.training.trainer import keep_answers

N_STEPS, N_WARMING = 3, 1
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
N_ASKED = 64  # sequences of an evaluator that are timed, at most


@dataclass(frozen=True)
class Pace:
    """What was timed.

    Attributes:
        step_s: Seconds of an optimizer step on one device, all of its accumulated parts: the median of a few.
        evaluation_s: Seconds of one evaluation, from a part of its sequences.
    """

    step_s: float
    evaluation_s: float

    def tell_seconds(self, steps: int, evaluations: int) -> float:
        """Return how long a run takes.

        >>> Pace(2.0, 30.0).tell_seconds(300, 5)
        750.0
        """
        return steps * self.step_s + evaluations * self.evaluation_s


def measure_pace(config: RunConfig) -> Pace:
    """Build a run's task and model, weights included, and time some steps and answers on this machine.

    The optimizer is AdamW; instruments beside the evaluators, compiled steps and the writing of checkpoints
    are not in it.

    Raises:
        ConfigError: If the run could not be made.
    """
    with use_threads(config.training.threads):
        task = build_task(config)
        device = choose_device(cpu=config.training.on_cpu)
        model = build_model(config.model, task, seed=config.seed).to(device)
        task.check_model(model)
        task.to(device)
        step_s = _time_steps(config, task, model)
        return Pace(step_s, _time_evaluation(task, model))


def _time_steps(config: RunConfig, task: Task, model: nn.Module) -> float:
    training = config.training
    n_parts = training.arguments.get("gradient_accumulation_steps", 1)
    size = training.batch_size // n_parts
    half = [dtype for name, dtype in HALF.items() if training.arguments.get(name)]
    if training.arguments.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    model.train()

    def step(number: int) -> None:
        for part in range(n_parts):
            batch = task.train_sampler.draw((number * n_parts + part) * size, size).to(model.device)
            with torch.autocast(model.device.type, dtype=half[0] if half else None, enabled=bool(half)):
                loss = model(**keep_answers(model, task.encode(batch))).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    times = [_clock(lambda at=at: step(at), model.device) for at in range(N_WARMING + N_STEPS)]
    return median(times[N_WARMING:])


@torch.no_grad()
def _time_evaluation(task: Task, model: nn.Module) -> float:
    model.eval()
    total = 0.0
    for evaluator in task.evaluators.values():
        n = min(N_ASKED, len(evaluator.batch))
        taken = _clock(lambda of=evaluator, n=n: task.predict(model, of.batch[:n]), model.device)
        total += taken * len(evaluator.batch) / n
    return total


def _clock(do: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    do()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start
