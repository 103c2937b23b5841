"""A loss that is no number any more: where it began, what ends, what stays sound, who says so."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import Trainer

from hf_icl import TransienceCallback
from hf_icl.cli import main as cli
from hf_icl.errors import DivergedError
from hf_icl.history.history import History
from hf_icl.report.analysis import analyse
from hf_icl.report.card import render_card
from hf_icl.runs.config import load_config
from hf_icl.runs.replicas import train_replicas
from hf_icl.runs.run import Run
from hf_icl.task.scoring import score
from hf_icl.training.callback import TransienceCallback as Callback
from hf_icl.training.compiled.compiling import OLDEST_TORCH
from hf_icl.training.trainer import TransienceTrainer
from tests.programs import TINY
from tests.test_trainer import arguments, build_model, task  # noqa: F401

SETTINGS = [*TINY, "training.steps=24", "training.checkpoint_every=4", "evaluate=4"]
BURST = "training.learning_rate=1e30"  # weights of 1e30 after one step, so that step 2's loss is no number


def make_run(folder, *more: str) -> Run:
    return Run.create(load_config("default", [*SETTINGS, *more]), folder)


def poison(monkeypatch, at: int) -> None:
    """Let the loss be no number from one step on, without a change to weights before it."""
    step = Trainer.training_step

    def broken(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step + 1 >= at else loss

    monkeypatch.setattr(Trainer, "training_step", broken)


needs_new_torch = pytest.mark.skipif(
    torch.__version__ < OLDEST_TORCH, reason="this torch cannot compile a step"
)


@pytest.mark.integration
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_new_torch)])
def test_a_run_ends_where_its_loss_is_no_number_and_says_so(tmp_path, compiled, recwarn):
    run = make_run(tmp_path / "run", BURST, f"training.compile={str(compiled).lower()}")
    with torch.compiler.set_stance("force_eager"), pytest.raises(DivergedError, match="diverged at step 2: "):
        run.train()
    assert (run.diverged_step, run.is_finished) == (2, False)
    assert [row["step"] for row in run.history.rows] == [0, 2]
    assert not list(run.folder.glob("checkpoint-*"))  # none but of numbers
    (told,) = analyse([run.record()]).document["runs"]
    assert (told["verdict"], told["diverged_step"], told["last_step"]) == ("diverged", 2, 0)


def test_the_last_checkpoint_from_before_is_kept_and_named(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    poison(monkeypatch, at=10)
    with pytest.raises(DivergedError, match="step 10: .*checkpoint-8 is sound.*learning_rate="):
        run.train()
    assert run.diverged_step == 10
    assert sorted(path.name for path in run.folder.glob("checkpoint-*"))[-1] == "checkpoint-8"
    before = (run.folder / "history.jsonl").read_bytes()
    with pytest.raises(DivergedError, match="diverged at step 10"):
        Run.open(run.folder).train()  # it would be the same again
    assert (run.folder / "history.jsonl").read_bytes() == before


def test_a_run_may_be_asked_to_go_on(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", "training.on_divergence=go_on", "evaluate=6")
    poison(monkeypatch, at=10)
    run.train()
    rows = run.history.rows
    assert run.is_finished and [row.get("diverged") for row in rows] == [None, None, 10, 10, 10, 10]
    (told,) = analyse([run.record()]).document["runs"]
    assert (told["verdict"], told["diverged_step"], told["last_step"]) == ("diverged", 10, 6)


def test_a_stock_trainer_hears_of_it_from_the_measured_loss(tmp_path, task, caplog):  # noqa: F811
    model = build_model(task)
    trainer = Trainer(
        model,
        arguments(tmp_path, learning_rate=1e30, max_steps=8),
        train_dataset=task.dataset(64),
        data_collator=task.collate,
        callbacks=[Callback(task, schedule=4, on_divergence="stop")],
    )
    trainer.train()
    assert trainer.state.global_step == 4 and "Step 4: the loss is no number any more" in caplog.text
    assert [row.get("diverged") for row in History(tmp_path / "history.jsonl").rows] == [None, 4]


def test_a_stock_trainer_goes_on_unless_asked(tmp_path, task):  # noqa: F811
    callback = TransienceCallback(task, schedule=4)
    trainer = Trainer(
        build_model(task),
        arguments(tmp_path, learning_rate=1e30, max_steps=8),
        train_dataset=task.dataset(64),
        data_collator=task.collate,
        callbacks=[callback],
    )
    trainer.train()
    assert trainer.state.global_step == 8 and callback.diverged_step == 4


@pytest.mark.integration
def test_one_replica_diverges_and_the_others_finish(tmp_path):
    rates = ["training.learning_rate=1e-3", BURST, "training.learning_rate=3e-3"]
    together = [make_run(tmp_path / str(i), rate) for i, rate in enumerate(rates)]
    compiles = str(torch.__version__ >= OLDEST_TORCH).lower()
    alone = make_run(tmp_path / "alone", rates[2], f"training.compile={compiles}")
    with torch.compiler.set_stance("force_eager"):
        with pytest.raises(DivergedError, match=r"1 of 3 replicas diverged: .*/1 at step 2"):
            train_replicas(together, n_processes=1)
        alone.train()
        assert [run.is_finished for run in together] == [True, False, True]
        assert [row["step"] for row in together[1].history.rows] == [0, 2]
        for row, right in zip(together[2].history.rows, alone.history.rows, strict=True):
            value, expected = (each["metrics"]["train/loss"] for each in (row, right))
            assert value == pytest.approx(expected, rel=1e-4)
        with pytest.raises(DivergedError, match="1 of 3"):
            train_replicas(together, n_processes=1)  # nothing is trained again
    document = analyse([run.record() for run in together]).document
    assert [run["verdict"] == "diverged" for run in document["runs"]] == [False, True, False]


@pytest.mark.integration
def test_the_command_writes_the_report_and_ends_with_a_code_of_its_own(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    start = ["run", "default", *SETTINGS, BURST, "--output", str(folder)]
    for words in (start, ["resume", str(folder)]):
        monkeypatch.setattr("sys.argv", ["hf-icl", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        assert end.value.code == 4, told.err
        assert "diverged" in told.out and "diverged at step 2" in " ".join(told.err.split())
        document = json.loads((folder / "report/transience.json").read_text())
        assert document["runs"][0]["diverged_step"] == 2
        assert "diverged at step 2" in (folder / "README.md").read_text()


def test_what_is_said_of_a_diverged_run_ends_before(tmp_path, monkeypatch):
    """Late values would be those of a network of NaN; peak and onset were before."""
    run = make_run(tmp_path / "run", "training.on_divergence=go_on")
    poison(monkeypatch, at=15)
    run.train()
    (told,) = analyse([run.record()]).document["runs"]
    of_icl = {name: measure["value"] for name, measure in told["measures"]["icl/accuracy"].items()}
    assert of_icl["peak"] is not None and of_icl["final"] is None and told["verdict_shares"] is None
    assert "15" in render_card(analyse([run.record()])).split("diverged at step")[1][:5]


@pytest.mark.parametrize("seed", range(5))
def test_logits_that_are_no_numbers_are_no_answer(seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(50, 6))).float()
    labels = torch.from_numpy(rng.integers(6, size=(50, 5)))
    is_bad = torch.from_numpy(rng.random(50) < 0.5)
    logits[is_bad, torch.from_numpy(rng.integers(6, size=50))[is_bad]] = math.nan
    found = score(logits, labels[:, :-1], labels[:, -1])
    assert not (found["accuracy"] & is_bad).any() and not (found["context_accuracy"] & is_bad).any()
    clean = score(logits[~is_bad], labels[~is_bad, :-1], labels[~is_bad, -1])
    assert torch.equal(found["accuracy"][~is_bad], clean["accuracy"])


def test_a_second_training_knows_nothing_of_how_the_first_ended(tmp_path, task):  # noqa: F811
    trainer = TransienceTrainer(build_model(task), arguments(tmp_path, max_steps=6), task, schedule=2)
    trainer.watch.note(torch.tensor(math.nan), 1)
    trainer.train()
    assert (trainer.state.global_step, trainer.transience.diverged_step) == (6, None)
