"""On a GPU: the sequences, steps and measures of a CPU. Skipped where no GPU is seen, as in all suites but
`make test-gpu`."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from hf_icl.history.history import History
from hf_icl.models.build import build_model
from hf_icl.runs.config import load_config
from hf_icl.runs.replicas import train_replicas
from hf_icl.runs.run import Run
from hf_icl.task import Task
from hf_icl.training.compiled import replay
from tests.programs import TINY, environment

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),  # torch warns of its own code while it compiles
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

SEEN = os.environ.get("CUDA_VISIBLE_DEVICES", "")
SETTINGS = [
    *TINY, "training.steps=60", "training.checkpoint_every=20", "evaluate=20", "task.n_eval_sequences=400",
]  # fmt: skip
MOVING = [
    "training.schedule=inverse_sqrt", "training.warmup_steps=7", "training.clip=0.5",
    "training.regularization={kind: l2, strength: 1e-4}",
]  # fmt: skip
ON_CPU = "training.arguments={use_cpu: true}"
SPECS = {
    "bursty": "{n_context: 8, burst: 3, distractor: true}",
    "zipf": "{n_context: 8, burst: 3, distractor: true, zipf: 1.0}",
    "mixed": "{n_context: 8, burst: 3, distractor: true, p_bursty: 0.9}",
    "plain": "{n_context: 4, burst: 1}",
}
SLACK = 2e-4  # of losses after 60 steps: rounding, which training lets grow


def make_run(folder, *more: str) -> Run:
    return Run.create(load_config("default", [*SETTINGS, *more]), folder)


def train(folder, *more: str) -> Run:
    run = make_run(folder, *more)
    run.train()
    return run


def assert_same_curves(one: Run | History, other: Run | History, slack: float = SLACK) -> None:
    rows, rights = (each.history.rows if isinstance(each, Run) else each.rows for each in (one, other))
    assert [row["step"] for row in rows] == [row["step"] for row in rights]
    for row, right in zip(rows, rights, strict=True):
        for name, value in right["metrics"].items():
            own = 0.011 if "accuracy" in name or "share" in name else slack  # 4 of 400 sequences
            assert row["metrics"][name] == pytest.approx(value, abs=own), (row["step"], name)


@pytest.mark.parametrize("spec", SPECS)
def test_sequences_are_those_of_the_cpu(spec):
    config = load_config("default", [*TINY, f"task.train={SPECS[spec]}"]).task
    task = Task(config)
    for evaluator in (None, *task.evaluators):
        drawn = [task.sampler(evaluator, device=device).draw(0, 5000) for device in ("cpu", "cuda")]
        for one, other in zip(*(vars(batch).values() for batch in drawn), strict=True):
            assert torch.equal(one, other.cpu()) if isinstance(one, torch.Tensor) else one == other


def test_a_recorded_run_is_the_stock_run(tmp_path, caplog):
    """And the CPU's: compiled and replayed as a CUDA graph, with a rate that moves, clipping and L2."""
    with caplog.at_level(logging.WARNING):
        runs = {name: train(tmp_path / name, *MOVING, *words) for name, words in {
            "recorded": ["training.compile=true"],
            "stock": ["training.compile=false"],
            "cpu": ["training.compile=false", ON_CPU],
        }.items()}  # fmt: skip
    assert not [text for text in caplog.messages if "not recorded" in text or "not compiled" in text]
    assert_same_curves(runs["recorded"], runs["stock"])
    assert_same_curves(runs["recorded"], runs["cpu"])


def test_a_recorded_run_repeats_to_the_last_bit(tmp_path):
    first, second = (train(tmp_path / name, *MOVING, "training.compile=true") for name in "ab")
    for name in ("history.jsonl", "checkpoint-60/model.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_what_cannot_be_recorded_is_said_and_nothing_else_breaks(caplog):
    def look(x):
        return x * 2 if x.sum().item() > 0 else x

    replayed = replay.Replayed(look)
    with caplog.at_level(logging.WARNING):
        found = [replayed(torch.tensor([float(n)], device="cuda")).item() for n in range(-2, 6)]
    assert found == [-2, -1, 0, 2, 4, 6, 8, 10]
    (said,) = (text for text in caplog.messages if "not recorded" in text)
    assert "not permitted when stream is capturing" in said
    torch.randn(3, device="cuda")


def test_replicas_are_the_solo_runs(tmp_path):
    words = [[*MOVING, f"seed={seed}", f"training.learning_rate={rate}"]
             for seed, rate in enumerate((1e-3, 3e-3, 1e-2))]  # fmt: skip
    solo = [
        train(tmp_path / f"solo-{seed}", *own, "training.compile=false") for seed, own in enumerate(words)
    ]
    together = [
        make_run(tmp_path / f"stacked-{seed}", *own, "training.compile=true")
        for seed, own in enumerate(words)
    ]
    train_replicas(together)
    for one, other in zip(together, solo, strict=True):
        assert_same_curves(one, other)


@pytest.mark.parametrize(("first", "second"), [(SEEN, ""), ("", SEEN)], ids=["GPU to CPU", "CPU to GPU"])
def test_a_run_goes_on_where_the_other_kind_of_machine_stopped(tmp_path, first, second):
    """In processes of their own, of which one sees no GPU, as a run folder that was carried over finds it."""
    whole = train(tmp_path / "whole", *MOVING)
    parts = make_run(tmp_path / "parts", *MOVING)
    program = (
        "import sys\n"
        "from hf_icl.runs.run import Run\n"
        "from transformers import TrainerCallback\n"
        "class Stop(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **_):\n"
        "        control.should_training_stop = state.global_step == 40\n"
        "run = Run.open(sys.argv[1])\n"
        "trainer = run.build_trainer(run.history)\n"
        "trainer.add_callback(Stop())\n"
        "trainer.train()\n"
    )
    own = environment(CUDA_VISIBLE_DEVICES=first)
    subprocess.run([sys.executable, "-c", program, str(parts.folder)], env=own, check=True)
    assert (parts.folder / "checkpoint-40").is_dir() and not (parts.folder / "checkpoint-60").exists()
    own = environment(CUDA_VISIBLE_DEVICES=second)
    command = [sys.executable, "-m", "hf_icl", "resume", str(parts.folder)]
    done = subprocess.run(command, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_curves(Run.open(parts.folder), whole)


def test_measures_are_those_of_the_cpu():
    config = load_config("default", TINY)
    task = Task(config.task)
    model = build_model(config.model, task, seed=0)
    on_cpu, on_gpu = task.measure(model).means, task.measure(model.to("cuda")).means
    assert on_cpu.keys() == on_gpu.keys()
    for name, value in on_cpu.items():
        assert on_gpu[name] == pytest.approx(value, abs=0.026 if "accuracy" in name else 1e-4), name
