"""Replicas: each ends where it would have ended alone, and a killed group goes on to the same bytes."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_icl.errors import ConfigError, RunError
from hf_icl.history.lines import decode_row
from hf_icl.runs.config import load_config
from hf_icl.runs.replicas import check_replicas, train_replicas
from hf_icl.runs.run import Run
from hf_icl.runs.stackable import can_stack
from hf_icl.task.config import TaskConfig
from hf_icl.training import checkpoints
from hf_icl.training.compiled.stack import Stack
from tests.programs import TINY

SETTINGS = [*TINY, "training.checkpoint_every=20", "evaluate=10"]
VARIED = {
    "as it is": [],
    "seed": ["seed=7"],
    "bank": ["task.bank.seed=5", "task.bank.eps=0.3"],
    "classes": ["task.bank.n_classes=40", "task.bank.n_exemplars=3", "task.bank.n_holdout_classes=6"],
    "learning rate": ["training.learning_rate=3e-4"],
    "Adam's betas": ["training.adam_beta1=0.8", "training.adam_beta2=0.98"],
    "warm-up": ["training.schedule=constant_with_warmup", "training.warmup_steps=40"],
    "falling rate": ["training.schedule=inverse_sqrt", "training.warmup_steps=20"],
    "clip": ["training.clip=0.3"],
    "decay": ["training.regularization={kind: decay, strength: 0.3, groups: [mlp]}"],
    "L2": ["training.regularization={kind: l2, strength: 1e-3}", "training.clip=0.5"],
    "L2 on a group": ["training.regularization={kind: l2, strength: 3e-3, groups: [head]}"],
    "scales": ["model.exemplar_scale=0.7", "model.label_init_std=0.1"],
    "sequences": ["task.train={n_context: 4, burst: 2, zipf: 1.0}", "task.n_eval_sequences=30"],
    "evaluations": ["evaluate={every: null, per_decade: 3}"],
}
SHAPES = {
    "default": [],
    "interleaved": ["model.places=interleaved", "model.n_layers=2"],
    "tied, no norm": ["model.tie_labels=true", "model.layer_norm=false", "training.learning_rate=1e-3"],
    "attention alone, rotary": ["model.mlp_ratio=0", "model.positions=rotary", "model.n_layers=2"],
    "long, sinusoidal": [
        "task.train={n_context: 8}",
        "model.places=interleaved",
        "model.positions=sinusoidal",
        "model.n_layers=2",
    ],
}


def make_runs(folder: Path, varied, *settings: str) -> list[Run]:
    configs = [load_config("default", [*SETTINGS, *settings, *more]) for more in varied]
    return [Run.create(config, folder / str(number)) for number, config in enumerate(configs)]


def assert_same_rows(replica: Run, solo: Run, tolerance: float) -> None:
    """The same steps, and every loss and probability close; accuracies may flip at a tie, and then barely."""
    rows, expected = replica.history.rows, solo.history.rows
    assert [(row["step"], row["sequences"]) for row in rows] == [
        (row["step"], row["sequences"]) for row in expected
    ]
    for row, right in zip(rows, expected, strict=True):
        assert row["metrics"].keys() == right["metrics"].keys()
        for name, value in right["metrics"].items():
            slack = 0.051 if "accuracy" in name else tolerance * max(1.0, abs(value))
            assert row["metrics"][name] == pytest.approx(value, abs=slack), (row["step"], name)


@pytest.mark.slow
def test_every_setting_that_may_differ_gives_the_solo_history(tmp_path):
    settings = ("training.steps=200",)
    solo, together = (make_runs(tmp_path / name, VARIED.values(), *settings) for name in ("solo", "together"))
    for run in solo:
        run.train()
    train_replicas(together, n_processes=1)
    finals = set()
    for name, one, other in zip(VARIED, together, solo, strict=True):
        assert one.is_finished, name
        assert_same_rows(one, other, 1e-4)
        finals.add(round(one.history.rows[-1]["metrics"]["train/loss"], 6))
        mine, theirs = one.load_model().state_dict(), other.load_model().state_dict()
        for key, value in theirs.items():
            close = (mine[key] - value).abs() <= 2e-4
            if key.endswith("qkv.bias"):  # softmax undoes the keys' bias: its gradient is rounding noise
                close[16:32] = True
            assert close.all(), (name, key)
    assert len(finals) >= len(VARIED) - 1  # all but the one that only measures at other steps


@pytest.mark.integration
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_the_native_network_gives_the_solo_history(tmp_path, shape):
    settings = ("training.steps=20", *SHAPES[shape])
    varied = [[], ["seed=3"]]
    solo, together = (make_runs(tmp_path / name, varied, *settings) for name in ("solo", "together"))
    for run in solo:
        run.train()
    train_replicas(together, n_processes=1)
    for one, other in zip(together, solo, strict=True):
        assert_same_rows(one, other, 1e-4)


@pytest.mark.integration
def test_other_numbers_of_classes_and_exemplars_give_the_solo_history(tmp_path):
    varied = [[], VARIED["classes"], ["task.train={n_context: 4, burst: 1, zipf: 1.2}"]]
    solo, together = (make_runs(tmp_path / n, varied, "training.steps=40") for n in ("solo", "together"))
    for run in solo:
        run.train()
    train_replicas(together, n_processes=1)
    for one, other in zip(together, solo, strict=True):
        assert_same_rows(one, other, 1e-4)
    assert len({run.history.rows[-1]["metrics"]["train/loss"] for run in together}) == 3


def test_where_a_table_has_a_row_for_each_exemplar_their_number_is_a_shape():
    banks = [{"kind": "symbolic", "n_classes": n, "n_labels": 4} for n in (20, 30)]
    default = load_config("default")
    runs = [default.replace(task=TaskConfig(bank=bank, train=default.task.train)) for bank in banks]
    assert can_stack(*runs) == ["task.bank.n_classes"]
    own = ["task.bank.n_labels=null", "task.bank.n_classes=20"]
    few, more = load_config("default", own), load_config("default", [*own, "task.bank.n_classes=30"])
    assert can_stack(few, more) == ["task.bank.n_classes"]


@pytest.mark.integration
def test_a_bank_of_ids_gives_the_solo_history(tmp_path):
    bank = {"kind": "symbolic", "n_classes": 20, "n_holdout_classes": 4, "n_labels": 4}
    default = load_config("default", [*SETTINGS, "training.steps=20", "model.positions=none"])
    config = default.replace(task=TaskConfig(bank=bank, train=default.task.train, n_eval_sequences=40))
    solo, together = (
        [Run.create(config.replace(seed=seed), tmp_path / name / str(seed)) for seed in (0, 1)]
        for name in ("solo", "together")
    )
    for run in solo:
        run.train()
    train_replicas(together, n_processes=1)
    for one, other in zip(together, solo, strict=True):
        assert_same_rows(one, other, 1e-4)


@pytest.mark.integration
def test_what_a_replica_writes_is_what_a_run_writes(tmp_path):
    varied = [[], ["seed=3"]]
    solo, together = (make_runs(tmp_path / name, varied, "training.steps=40") for name in ("s", "t"))
    solo[0].train()
    train_replicas(together, n_processes=1)
    left_out = {"rng_state.pth"}  # of a generator that nothing draws from
    names = [
        {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.name not in left_out}
        for run in (solo[0], together[0])
    ]
    assert names[0] == names[1]
    final = load_file(together[1].folder / "model.safetensors")
    last = load_file(together[1].folder / "checkpoint-40/model.safetensors")
    assert final.keys() == last.keys() and all(torch.equal(final[name], last[name]) for name in last)
    assert Run.open(together[1].folder).record().rows[-1]["step"] == 40


@pytest.mark.integration
def test_a_run_goes_on_alone_where_its_group_stopped(programs, tmp_path):
    varied = [["training.learning_rate=2e-3"], ["training.schedule=inverse_sqrt", "training.warmup_steps=10"]]
    solo, together = (make_runs(tmp_path / name, varied, "training.steps=50") for name in ("s", "t"))
    assert programs.call(_train_and_die, together, 28) == -signal.SIGKILL
    for one, other in zip(together, solo, strict=True):
        assert not one.is_finished
        one.train()
        other.train()
        assert_same_rows(one, other, 1e-4)


def _train_and_die(runs: list[Run], die_at: int) -> None:
    step = Stack.step

    def step_or_die(self):
        if self.trainers[0].state.global_step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self)

    Stack.step = step_or_die
    train_replicas(runs, n_processes=1)


def _save_and_die(runs: list[Run], number: int) -> None:
    mark, marked = checkpoints.mark_whole, []

    def mark_or_die(folder: Path, *rest) -> None:
        marked.append(folder)
        if len(marked) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        mark(folder, *rest)

    checkpoints.mark_whole = mark_or_die
    train_replicas(runs, n_processes=1)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("end", "at"),
    [
        (_train_and_die, 28),
        pytest.param(_train_and_die, 8, marks=pytest.mark.slow),
        pytest.param(_save_and_die, 6, marks=pytest.mark.slow),
    ],
)
def test_a_killed_group_goes_on_to_the_same_bytes(programs, tmp_path, end, at):
    """Killed between checkpoints, before the first, and while the second of three saves the second
    checkpoint."""
    varied = [[], ["seed=3", "training.regularization={kind: l2, strength: 1e-3}"], ["training.clip=0.5"]]
    whole, parts = (make_runs(tmp_path / name, varied, "training.steps=50") for name in ("whole", "parts"))
    train_replicas(whole, n_processes=1)
    assert programs.call(end, parts, at) == -signal.SIGKILL
    train_replicas(parts, n_processes=1)
    for one, other in zip(parts, whole, strict=True):
        for name in ("history.jsonl", "model.safetensors", "config.json"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def test_a_finished_group_is_left_as_it_is(tmp_path):
    runs = make_runs(tmp_path, [[], ["seed=1"]], "training.steps=20")
    train_replicas(runs, n_processes=1)
    before = (runs[0].folder / "model.safetensors").stat().st_mtime_ns
    train_replicas(runs, n_processes=1)
    assert (runs[0].folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("model.n_layers=3", "model.n_layers"),
        ("training.batch_size=16", "training.batch_size"),
        ("training.steps=7", "training.steps"),
        ("task.bank.n_labels=8", "task.bank.n_labels"),
        ("task.train={n_context: 6, burst: 1}", "task.train.n_context"),
        ("model.positions=rotary", "model.positions"),
    ],
)
def test_runs_of_other_shapes_are_told_apart(setting, field):
    config, other = load_config("default", SETTINGS), load_config("default", [*SETTINGS, setting])
    assert can_stack(config, other) == [field] and can_stack(other, config) == [field]
    with pytest.raises(ConfigError, match=f"{field} = .*replicas must agree"):
        check_replicas([config, other])


@pytest.mark.parametrize(
    "setting",
    [
        "model.backbone={model_type: gpt2}",
        "training.keep_best=icl/accuracy",
        "training.arguments={optim: sgd}",
    ],
)
def test_what_replicas_cannot_do_is_refused_before_training(tmp_path, setting):
    config = load_config("default", [*SETTINGS, setting])
    with pytest.raises(ConfigError, match="Train this run alone"):
        train_replicas([Run(tmp_path, config, {})])
    assert not any(tmp_path.iterdir())


def test_what_holds_for_any_step_on_a_device_is_allowed():
    check_replicas([load_config("default", [*SETTINGS, "training.arguments={tf32: true, use_cpu: true}"])])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch warns of its own code while it compiles
def test_compiled_steps_in_two_processes_give_the_solo_history(tmp_path):
    varied = [VARIED[name] for name in ("seed", "learning rate", "L2", "falling rate")]
    solo, together = (
        make_runs(tmp_path / name, varied, "training.steps=300", "training.compile=true")
        for name in ("s", "t")
    )
    for run in solo:
        run.train()
    train_replicas(together, n_processes=2)
    for one, other in zip(together, solo, strict=True):
        assert_same_rows(one, other, 1e-3)


@pytest.mark.integration
@pytest.mark.parametrize("words", [["evaluate=1", "training.checkpoint_every=999"], ["evaluate=60"]])
def test_a_full_disk_is_told_and_a_group_goes_on_when_there_is_room(small_disk, words):
    """First a history fills the disk, then a checkpoint does."""
    by_history = words[0] == "evaluate=1"
    config = [load_config("default", [*TINY, "training.steps=60", *words, f"seed={seed}"]) for seed in (0, 1)]
    runs = [Run.create(one, small_disk / str(one.seed)) for one in config]
    (small_disk / "filler").write_bytes(b"0" * (240_000 if by_history else 150_000))
    said = "a row could not be written" if by_history else "the disk is full .*the same hf-icl sweep"
    with pytest.raises(RunError, match=said):
        train_replicas(runs, n_processes=1)
    for run in runs:
        lines = run.history.path.read_text().splitlines()
        assert lines and run.history.rows == [decode_row(line) for line in lines] and not run.is_finished
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    train_replicas([Run.open(run.folder) for run in runs], n_processes=1)
    assert all(run.is_finished and run.history.last_step == 60 for run in runs)
