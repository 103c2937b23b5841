"""The log in a trainer's state is bounded, and a training resumed from what is left of it goes the same
way."""

import functools
import json

import numpy as np
import pytest

from hf_icl.errors import RunError
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.training import trainer as trainer_module
from hf_icl.training.interventions.base import Trigger, Watch
from hf_icl.training.progress import bound_log
from tests.programs import TINY

MOST = 3
SETTINGS = [
    *TINY,
    "training.steps=40",
    "training.checkpoint_every=10",
    "evaluate=1",
    "training.compile=false",
]
FALL = {"metric": "train/loss", "falls_by": 0.05}  # of the loss: it comes early


@pytest.fixture
def short(monkeypatch):
    """Logs of a few entries, where a run's own would be of thousands."""
    monkeypatch.setattr(trainer_module, "bound_log", functools.partial(bound_log, most=MOST))


def make_run(folder, *more: str) -> Run:
    return Run.create(load_config("default", [*SETTINGS, *more]), folder)


def read_log(run: Run, step: int) -> list[dict]:
    """Return a checkpoint's log without epochs, which the stock loop counts from where it was resumed."""
    state = json.loads((run.folder / f"checkpoint-{step}/trainer_state.json").read_text())
    return [{**entry, "epoch": None} for entry in state["log_history"]]


def test_what_is_kept_tells_a_watch_what_all_would_have_told():
    rng = np.random.default_rng(1)
    for _ in range(200):
        values = rng.integers(0, 10, size=30) / 10
        entries = [{"step": 5 * n, "a/b": float(value)} for n, value in enumerate(values)]
        start, trigger = int(rng.integers(0, 100)), Trigger(metric="a/b", falls_by=rng.integers(1, 9) / 10)
        right, watch, log = Watch(start, trigger).find(entries), Watch(start, trigger), []
        for entry in entries:
            watch.find(log)
            bound_log(log, watch.needed, most=1)
            log.append(entry)
        assert len(log) <= 6 and watch.find(log) == right
        assert Watch(start, trigger).find(json.loads(json.dumps(log))) == right


@pytest.mark.integration
def test_a_long_run_keeps_a_short_log_and_resumes_to_the_same_bytes(tmp_path, short):
    freeze = f"training.interventions=[{{kind: freeze, when: {json.dumps(FALL)}}}]"
    whole, parts = make_run(tmp_path / "whole", freeze), make_run(tmp_path / "parts", freeze)
    whole.train()
    parts.train()
    log = read_log(whole, 40)
    assert len(log) <= 4 * MOST + 2 and log[-1]["step"] == 40
    assert len(whole.history.rows) == 41
    trainer = parts.build_trainer(parts.history)
    trainer.train(resume_from_checkpoint=str(parts.folder / "checkpoint-30"))
    assert read_log(parts, 40) == log
    for name in ("history.jsonl", "checkpoint-40/model.safetensors"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.integration
def test_rows_lost_since_come_back_as_far_as_the_log_goes(tmp_path, short):
    run = make_run(tmp_path / "run")
    run.train()
    metrics, path = run.history.rows[-1]["metrics"], run.folder / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    trainer = run.build_trainer(run.history)  # two rows are lost, of which the log knows
    checkpoint = run.folder / "checkpoint-40"
    state = type(trainer.state).load_from_json(str(checkpoint / "trainer_state.json"))
    trainer.transience.restore(trainer.args, state)
    assert [row["step"] for row in run.history.rows] == list(range(41))
    assert run.history.rows[-1]["metrics"] == metrics
    path.write_bytes(b"".join(lines[:20]))  # and now more than it knows
    again = run.build_trainer(run.history)
    with pytest.raises(RunError, match="rows are lost, and the checkpoint's log knows .* of its 41"):
        again.transience.restore(again.args, state)


def test_a_stop_is_remembered_by_a_checkpoint_whose_log_is_short(tmp_path, short):
    stop = f"training.interventions=[{{kind: early_stop, when: {json.dumps(FALL)}}}]"
    run = make_run(tmp_path / "run", stop)
    run.train()
    last = run.history.rows[-1]["step"]
    assert 0 < last < 40 and run.is_over(run.folder / f"checkpoint-{last}")
