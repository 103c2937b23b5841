"""What a run decides by itself: which trainer steps it, on how many devices, with how many threads."""

import subprocess

import pytest
import torch

from hf_icl.errors import ConfigError
from hf_icl.models import ICLConfig, ICLModel
from hf_icl.runs import replicas
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run, choose_trainer, use_threads
from hf_icl.sweeps import engines
from hf_icl.sweeps.jobs import Job, count_workers
from hf_icl.training.compiled import compiling
from hf_icl.training.compiled.trainer import CompiledTrainer
from hf_icl.training.trainer import TransienceTrainer
from tests.programs import TINY

NATIVE = ICLModel(ICLConfig())
DRAWINGS = ICLModel(ICLConfig(encoder="resnet", exemplar_shape=(8, 8)))


@pytest.fixture(autouse=True)
def _can_compile(monkeypatch):
    monkeypatch.setattr("hf_icl.runs.run.find_obstacle", lambda: None)


def choose(*words, model=NATIVE):
    return choose_trainer(load_config("default", list(words)), model)


def test_long_runs_of_the_native_network_are_compiled():
    assert choose() is CompiledTrainer
    assert choose("training.steps=100") is TransienceTrainer
    assert choose("training.steps=100", "training.compile=true") is CompiledTrainer
    assert choose("training.compile=false") is TransienceTrainer


def test_a_run_on_the_cpu_is_compiled_whatever_gpus_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("training.arguments={use_cpu: true}") is CompiledTrainer
    assert choose() is TransienceTrainer


@pytest.mark.parametrize(
    ("change", "model", "said"),
    [
        (
            lambda patch: patch.setattr(torch.cuda, "device_count", lambda: 2),
            NATIVE,
            "2 devices share a step",
        ),
        (lambda patch: None, DRAWINGS, "only an ICLModel around the native network"),
        (
            lambda patch: patch.setattr("hf_icl.runs.run.find_obstacle", lambda: "no g++"),
            NATIVE,
            "no g\\+\\+",
        ),
    ],
)
def test_steps_that_are_asked_for_and_cannot_be_compiled_are_refused(monkeypatch, change, model, said):
    change(monkeypatch)
    with pytest.raises(ConfigError, match=f"training.compile = True: {said}"):
        choose("training.compile=true", model=model)


def test_a_model_that_does_not_fit_trains_by_the_stock_loop_unless_asked():
    assert choose(model=DRAWINGS) is TransienceTrainer


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with use_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.integration
def test_replicas_take_the_threads_that_their_config_names(tmp_path, monkeypatch):
    runs = [
        Run.create(
            load_config("default", [*TINY, f"seed={seed}", "training.threads=3"]), tmp_path / str(seed)
        )
        for seed in (0, 1)
    ]
    seen = []
    monkeypatch.setattr(replicas, "train_together", lambda *_, **__: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(Run, "keep_final_model", lambda run: None)
    replicas.train_stacked(runs)
    assert seen == [3] and torch.get_num_threads() == 1


def test_a_machine_is_shared_by_the_threads_of_its_runs(monkeypatch):
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda process: set(range(8)))
    configs = {str(n): load_config("default", [f"training.threads={n}"]) for n in (1, 4)}
    assert count_workers(configs) == 2
    assert count_workers({"1": configs["1"]}) == 8


def test_a_gpu_trains_one_process_of_those_runs_that_use_it(monkeypatch):
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    on_gpu, on_cpu = (
        load_config("default", [f"training.arguments={{use_cpu: {word}}}"]) for word in ("false", "true")
    )
    assert count_workers({"a": on_gpu, "b": on_cpu}) == 2
    assert count_workers({"a": on_cpu, "b": on_cpu}) == 8
    monkeypatch.setattr(replicas, "choose_device", lambda *, cpu: torch.device("cpu" if cpu else "cuda"))
    assert replicas._count_processes([on_gpu, on_gpu]) == 1
    assert replicas._count_processes([on_cpu, on_cpu]) == 8


@pytest.mark.parametrize(("users", "given"), [(None, "4"), ("3", "3")])
def test_a_sweep_leaves_the_users_threads_alone(tmp_path, monkeypatch, users, given):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if users is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", users)
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda process: set(range(8)))
    seen = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **rest: seen.update(env))
    engines._start(tmp_path, engines.Work(Job(("a",), 0, 10)), 0, n_workers=2)
    assert seen["OMP_NUM_THREADS"] == given


def test_what_was_built_to_be_checked_is_trained(tmp_path, monkeypatch):
    """`create` builds bank and model; the first `train` uses them,
    and a process that gets the run builds its own."""
    run = Run.create(load_config("default", [*TINY, "training.steps=2"]), tmp_path / "run")
    built = run._built[1]
    monkeypatch.setattr("hf_icl.runs.run.build_model", None)
    assert run.build_trainer(run.history).model is built
    assert run._built is None
    monkeypatch.undo()
    other = Run.open(run.folder).build_trainer(run.history).model
    for one, two in zip(built.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_torch_is_tried_once(monkeypatch):
    """As on a torch that can compile, whichever is there."""
    tries = []
    monkeypatch.setattr(compiling, "OLDEST_TORCH", (0,))
    monkeypatch.setattr(torch, "compile", lambda function: tries.append(1) or function)
    compiling.find_obstacle.cache_clear()
    assert [compiling.find_obstacle() for _ in range(3)] == [None] * 3 and tries == [1]
    compiling.find_obstacle.cache_clear()
