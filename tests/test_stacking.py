"""Steps compiled whole: the same training as a stock Trainer's, to rounding,
whatever is switched on around it."""

import json
import logging

import pytest
import torch
from transformers import TrainerCallback

from hf_icl import TransienceTrainer
from hf_icl.errors import ConfigError
from hf_icl.runs import stackable
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.runs.stackable import is_compiled
from hf_icl.training.compiled import CompiledTrainer, compiling, products
from hf_icl.training.compiled.compiling import OLDEST_TORCH
from hf_icl.training.compiled.flat import FlatAdamW, flatten
from tests.programs import TINY

SMALL_GPT2 = "model.backbone={model_type: gpt2, n_embd: 16, n_head: 2, n_layer: 1}"
SETTINGS = [*TINY, "training.checkpoint_every=10", "evaluate=10", "training.steps=30"]

needs_new_torch = pytest.mark.skipif(
    torch.__version__ < OLDEST_TORCH, reason="this torch cannot compile a step"
)


@pytest.fixture(autouse=True)
def _obstacles_are_looked_for_anew():
    compiling.find_obstacle.cache_clear()
    yield
    compiling.find_obstacle.cache_clear()


@pytest.fixture
def eager():
    """Compiling takes longer than these tests train."""
    with torch.compiler.set_stance("force_eager"):
        yield


def make_run(folder, *more: str) -> Run:
    return Run.create(load_config("default", [*SETTINGS, *more]), folder)


def make_trainer(run: Run, kind: type[TransienceTrainer]) -> TransienceTrainer:
    return run.build_trainer(run.history, kind=kind)


def read_state(run: Run, step: int = 30) -> dict:
    return json.loads((run.folder / f"checkpoint-{step}/trainer_state.json").read_text())


def assert_same_training(one: Run, other: Run) -> None:
    for row, right in zip(one.history.rows, other.history.rows, strict=True):
        assert (row["step"], row["sequences"]) == (right["step"], right["sequences"])
        for name, value in right["metrics"].items():
            slack = 0.051 if "accuracy" in name else 1e-4
            assert row["metrics"][name] == pytest.approx(value, abs=slack), (row["step"], name)


@pytest.mark.integration
@needs_new_torch
@pytest.mark.filterwarnings("default")  # torch warns of its own code while it compiles
def test_a_compiled_run_is_the_stock_run(tmp_path):
    stock, compiled = (make_run(tmp_path / word, f"training.compile={word}") for word in ("false", "true"))
    stock.train()
    compiled.train()
    assert_same_training(compiled, stock)
    names = [
        {str(path.relative_to(run.folder)) for path in run.folder.rglob("*")} for run in (stock, compiled)
    ]
    assert names[0] - names[1] == {f"checkpoint-{step}/rng_state.pth" for step in (20, 30)}
    assert not names[1] - names[0]


@needs_new_torch
@pytest.mark.integration
def test_what_is_logged_is_what_a_stock_trainer_logs(tmp_path, eager):
    l2 = "training.regularization={kind: l2, strength: 1e-3}"
    stock, compiled = (
        make_run(tmp_path / word, l2, f"training.compile={word}") for word in ("false", "true")
    )
    stock.train()
    compiled.train()
    mine, theirs = read_state(compiled), read_state(stock)
    assert mine.keys() == theirs.keys()
    same = ("global_step", "max_steps", "epoch", "logging_steps", "save_steps", "train_batch_size")
    assert {key: mine[key] for key in same} == {key: theirs[key] for key in same}
    known = [state["stateful_callbacks"]["hf_icl"] for state in (mine, theirs)]
    assert known[0] == known[1]
    logged = [[entry for entry in state["log_history"] if "loss" in entry] for state in (mine, theirs)]
    assert [entry["step"] for entry in logged[0]] == [10, 20, 30]
    for entry, right in zip(*logged, strict=True):
        assert entry["loss"] == pytest.approx(right["loss"], abs=1e-4)
        assert entry["learning_rate"] == right["learning_rate"]


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step, self.ended = step, 0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.ended += 1


KINDS = [TransienceTrainer, CompiledTrainer]


@pytest.mark.integration
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_either_trainer_goes_on_where_the_other_stopped(tmp_path, eager, first, second):
    whole, parts = make_run(tmp_path / "whole"), make_run(tmp_path / "parts")
    make_trainer(whole, second).train()
    for kind, folder, stop in (
        (first, None, StopAt(23)),
        (second, parts.folder / "checkpoint-20", StopAt(0)),
    ):
        trainer = make_trainer(parts, kind)
        trainer.add_callback(stop)
        output = trainer.train(resume_from_checkpoint=None if folder is None else str(folder))
        assert stop.ended == 1 and output.global_step == (stop.step or 30)
    assert_same_training(parts, whole)
    if first is second:
        for name in ("history.jsonl", "checkpoint-30/model.safetensors"):
            assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_search_over_settings_is_refused(tmp_path, eager):
    run = make_run(tmp_path / "run")
    trainer = make_trainer(run, CompiledTrainer)
    with pytest.raises(ConfigError, match="trial = .*Use TransienceTrainer"):
        trainer.train(trial={"learning_rate": 1.0})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.arguments={gradient_accumulation_steps: 2}", "gradient_accumulation_steps = 2"),
        ("training.arguments={bf16: true, use_cpu: true}", "bf16 = True"),
        ("training.keep_best=icl/accuracy", "eval_strategy"),
        (SMALL_GPT2, "model = 'ICLModel'"),
    ],
)
def test_what_the_compiled_loop_would_leave_out_is_refused(tmp_path, setting, message):
    run = make_run(tmp_path / "run", setting)
    with pytest.raises(ConfigError, match=f"{message}.*Use TransienceTrainer"):
        make_trainer(run, CompiledTrainer)
    make_trainer(run, TransienceTrainer)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["training.steps=5000"], True),
        (["training.steps=4999"], False),
        (["training.steps=4999", "training.compile=true"], True),
        (["training.compile=false"], False),
        (["training.keep_best=icl/accuracy"], False),
        (["model.backbone={model_type: gpt2}"], False),
    ],
)
def test_which_runs_are_compiled(words, expected):
    assert is_compiled(load_config("default", words)) is expected


def test_what_cannot_be_compiled_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="model.backbone = .*only the native network"):
        make_run(tmp_path / "run", "training.compile=true", SMALL_GPT2)
    assert not any(tmp_path.iterdir())


@pytest.mark.integration
def test_where_torch_cannot_compile_a_run_is_stock_and_says_why(tmp_path, monkeypatch, caplog):
    def fail(function, **options):
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(compiling, "OLDEST_TORCH", (2, 0))
    monkeypatch.setattr(stackable, "MIN_STEPS", 1)
    stock, other = (make_run(tmp_path / word, f"training.compile={word}") for word in ("false", "null"))
    stock.train()
    with caplog.at_level(logging.WARNING):
        other.train()
    expected = "steps are not compiled, so they take about twice as long: No working C++ compiler found"
    assert expected in caplog.messages
    assert other.history.path.read_bytes() == stock.history.path.read_bytes()
    with pytest.raises(ConfigError, match="training.compile = True: No working C.. compiler found"):
        make_run(tmp_path / "asked", "training.compile=true")
    assert not (tmp_path / "asked").exists()


def make_optimizer(model: torch.nn.Module, decayed: str) -> torch.optim.AdamW:
    """Two groups, one with decay, of which the parameters do not all lie side by side."""
    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith(decayed)].append(parameter)
    groups = [{"params": groups[True], "weight_decay": 0.1, "lr": 0.05}, {"params": groups[False]}]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), weight_decay=0.0)


@pytest.mark.parametrize("decayed", ["weight", "bias", "0.weight", ""])
def test_adamw_over_one_block_is_adamw(decayed):
    """Six steps of two replicas; before the fourth, new optimizers load what those of the other kind
    saved."""
    make = lambda: torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2), torch.nn.Linear(2, 7))  # noqa: E731
    torch.manual_seed(0)
    models, twins = [make() for _ in range(2)], [make() for _ in range(2)]
    for model, twin in zip(models, twins, strict=True):
        twin.load_state_dict(model.state_dict())
    flat = flatten(models)
    mine = [FlatAdamW(make_optimizer(model, decayed), model, flat, r) for r, model in enumerate(models)]
    stock = [make_optimizer(twin, decayed) for twin in twins]
    for number in range(6):
        if number == 3:
            saved = [[one.state_dict() for one in kind] for kind in (mine, stock)]
            mine = [
                FlatAdamW(make_optimizer(model, decayed), model, flat, r) for r, model in enumerate(models)
            ]
            stock = [make_optimizer(twin, decayed) for twin in twins]
            for ours, theirs, one, other in zip(*saved, mine, stock, strict=True):
                one.load_state_dict(theirs)
                other.load_state_dict(ours)
        for model, twin in zip(models, twins, strict=True):
            for own, other in zip(model.parameters(), twin.parameters(), strict=True):
                own.grad.copy_(torch.randn(own.shape))
                other.grad = own.grad.clone()
        for optimizer in (*mine, *stock):
            optimizer.step()
    for model, twin in zip(models, twins, strict=True):
        for own, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(own, other)
    gaps = torch.ones_like(flat.values, dtype=torch.bool)
    for place in flat.spans.values():
        gaps[:, place] = False
    assert gaps.any() and not flat.values[gaps].any()
    pointers = [
        value.data_ptr() for state in mine[0].state_dict()["state"].values() for value in state.values()
    ]
    assert len(set(pointers)) == len(pointers) == 18


@pytest.mark.integration
def test_a_loader_of_ones_own_is_used(tmp_path, eager):
    """One that reads the same sequences from a data set gives the same weights,
    one that reads others does not."""
    weights = []
    for name, first in (("stream", None), ("same", 0), ("others", 64)):
        trainer = make_trainer(make_run(tmp_path / name), CompiledTrainer)
        if first is not None:
            task, size = trainer.task, trainer.args.train_batch_size
            rows = torch.utils.data.Subset(task.dataset(first + 30 * size), range(first, first + 30 * size))
            loader = torch.utils.data.DataLoader(rows, batch_size=size, collate_fn=task.collate)
            trainer.get_train_dataloader = lambda loader=loader: loader
        trainer.train()
        weights.append(trainer.model.head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.integration
@needs_new_torch
def test_an_optimizer_or_schedule_of_ones_own_is_kept(tmp_path, eager):
    run = make_run(tmp_path / "run")
    trainer = make_trainer(run, CompiledTrainer)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.5)
    before = trainer.model.head.weight.clone()
    trainer.train()
    assert type(trainer.optimizer) is torch.optim.SGD and not torch.equal(trainer.model.head.weight, before)
    assert read_state(run)["log_history"][-1]["step"] == 30


def test_an_old_torch_trains_by_the_stock_loop(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.10.1"))
    monkeypatch.setattr(stackable, "MIN_STEPS", 1)
    with caplog.at_level(logging.WARNING):
        make_run(tmp_path / "run").train()
    assert (
        "steps are not compiled, so they take about twice as long: torch 2.10.1 is older than 2.11"
        in caplog.messages
    )


@pytest.mark.skipif(not products.HAS_ONEDNN, reason="this torch has no oneDNN")
def test_products_by_either_library_agree(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (3, 40, 16), "weight": (3, 24, 16), "bias": (3, 24), "g": (3, 40, 24)}
    x, weight, bias, g = (torch.randn(shape, generator=generator) for shape in shapes.values())
    found = []
    monkeypatch.setattr(products, "MIN_FLOPS", 0)
    for is_slow in (True, False):
        monkeypatch.setattr(products, "IS_MKL_SLOW", is_slow)
        output, pull = torch.func.vjp(products.project, x, weight, bias)
        found.append([output, *pull(g)])
    expected = [x @ weight.mT + bias[:, None], g @ weight, g.mT @ x, g.sum(1)]
    for one, other, right in zip(*found, expected, strict=True):
        torch.testing.assert_close(one, right, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other, right, atol=1e-4, rtol=1e-4)
    assert found[0][2].is_contiguous()


@pytest.mark.skipif(not products.HAS_ONEDNN, reason="this torch has no oneDNN")
def test_onednn_is_given_dense_matrices_alone(monkeypatch):
    """Of a slice it has a plain loop, which took 430 of a step's 530 ms in a model of width 256."""
    given, multiply = [], products._multiply_dense
    monkeypatch.setattr(products, "_multiply_dense", lambda *all: given.append(all[:2]) or multiply(*all))
    places = torch.randn(2, 12, 5, 8, generator=torch.Generator().manual_seed(0))
    whole, queries, wide = places[:, :, 0].contiguous(), places[:, :, -1], places[..., :4].flatten(1, 2)
    for x in (whole, queries, queries[:, ::2], whole.expand(2, 12, 8), whole[:1].expand(2, 12, 8), wide):
        g = torch.ones(len(x), x.shape[1], 3)
        weight = torch.randn(len(x), 3, x.shape[2] + 1)[..., 1:]
        torch.testing.assert_close(torch.ops.hf_icl.gradient(g, x), g.mT @ x)
        torch.testing.assert_close(torch.ops.hf_icl.linear(x, weight, None), x @ weight.mT)
    assert len(given) == 24
    assert all(matrix.is_contiguous() or matrix.mT.is_contiguous() for pair in given for matrix in pair)
