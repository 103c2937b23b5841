"""How far trainings on 1, 2 and 4 processes drift apart: the same 64 sequences per step,
losses compared step by step.

    python benchmarks/agree_devices.py [--steps N] [--json FILE]

Trains the default preset's task and model in float32 by torchrun (gloo), with SGD and AdamW, with and without
accumulation. Prints the Markdown table of docs/devices.md: largest differences from one process without
accumulation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

BATCH = 64
OPTIMIZERS = {"SGD, 0.1": ("sgd", 0.1), "AdamW, 0.003": ("adamw_torch", 3e-3)}
ARRANGEMENTS = [(n_processes, n_parts) for n_parts in (1, 2) for n_processes in (1, 2, 4)]
Training = dict[str, list[float]]


def train(n_steps: int, folder: Path) -> None:
    """Train all in this process, one of those that torchrun started;
    the main one writes losses and weights."""
    from hf_icl.distributed import count_processes, is_main, join, leave

    join(cpu=True)
    torch.set_num_threads(1)
    for n_parts in (1, 2):
        for name in OPTIMIZERS:
            training = train_once(n_steps, n_parts, *OPTIMIZERS[name])
            if is_main():
                (folder / f"{name}-{count_processes()}-{n_parts}.json").write_text(json.dumps(training))
    leave()


def train_once(n_steps: int, n_parts: int, optimizer: str, learning_rate: float) -> Training:
    from hf_icl.models.build import build_model
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import build_task
    from hf_icl.training.trainer import TransienceTrainer

    settings = {
        "training.steps": n_steps, "training.batch_size": BATCH, "training.learning_rate": learning_rate,
        "training.arguments.optim": optimizer, "training.arguments.gradient_accumulation_steps": n_parts,
        "task.n_eval_sequences": 1,
    }  # fmt: skip
    config = load_config("default", [f"{name}={value}" for name, value in settings.items()])
    with tempfile.TemporaryDirectory() as folder:
        args = config.training.to_arguments(Path(folder), config.seed)
        args.save_strategy, args.logging_steps = "no", 1
        task = build_task(config)
        trainer = TransienceTrainer(
            build_model(config.model, task, seed=config.seed), args, task, schedule=n_steps
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == n_steps
    weights = [drop_key_bias(*named).detach().flatten() for named in trainer.model.named_parameters()]
    return {"losses": losses, "weights": torch.cat(weights).tolist()}


def drop_key_bias(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Leave out the bias of attention's keys: softmax cancels it, so its gradient is rounding,
    which AdamW blows up."""
    if not name.endswith("qkv.bias"):
        return weight
    query, _, value = weight.chunk(3)
    return torch.cat([query, value])


def launch(n_processes: int, n_steps: int, folder: Path) -> None:
    """Run `train` by torchrun to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [
        "--nproc_per_node",
        str(n_processes),
        __file__,
        "--steps",
        str(n_steps),
        "--train",
        str(folder),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def largest(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def compare(folder: Path, name: str) -> list[dict]:
    """Return a row per arrangement: its largest differences from one process without accumulation."""

    def read(n_processes: int, n_parts: int) -> Training:
        return json.loads((folder / f"{name}-{n_processes}-{n_parts}.json").read_text())

    one, rows = read(1, 1), []
    for n_processes, n_parts in ARRANGEMENTS[1:]:
        many = read(n_processes, n_parts)
        differences = {part: largest(many[part], one[part]) for part in ("losses", "weights")}
        about = {"optimizer": name, "processes": n_processes, "parts": n_parts, "differences": differences}
        rows.append(about | {"losses": many["losses"], "losses_of_one": one["losses"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps per training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write rows and losses to a file")
    parser.add_argument("--train", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        return train(arguments.steps, arguments.train)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_processes in (1, 2, 4):
            launch(n_processes, arguments.steps, Path(folder))
        for name in OPTIMIZERS:
            rows += compare(Path(folder), name)
    print("| optimizer | processes × sequences × parts | loss, any of the steps | any weight, at the end |")
    print("|---|---|---|---|")
    for row in rows:
        size = BATCH // row["processes"] // row["parts"]
        shape = f"{row['processes']} × {size}" + (f" × {row['parts']}" if row["parts"] > 1 else "")
        loss, weight = row["differences"].values()
        print(f"| {row['optimizer']} | {shape} | {loss:.1e} | {weight:.1e} |")
    for name in OPTIMIZERS:
        losses = next(row["losses_of_one"] for row in rows if row["optimizer"] == name)
        print(f"{name}: {len(losses)} steps, loss {losses[0]:.4f} → {losses[-1]:.4f}")
    if arguments.json:
        about = {
            "torch": torch.__version__, "transformers": transformers.__version__,
            "python": platform.python_version(), "machine": platform.machine(),
        }  # fmt: skip
        arguments.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
