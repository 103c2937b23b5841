"""What reporters are told: real TensorBoard files, and what trackio and wandb would send."""

import pytest
from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from hf_icl.task.task import Task, TaskConfig
from tests.test_callback import BANK, add, build

LOOKED_AT = {
    "icl/accuracy", "icl_holdout/accuracy", "iwl/accuracy", "ciwl/accuracy", "flip/context_accuracy",
    "train_eval/accuracy", "train_eval/loss",
}  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=20))


def read_events(folder):
    """Return the values in TensorBoard's files: name to step to value."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = accumulators.EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        name: {event.step: event.value for event in accumulator.Scalars(name)}
        for name in accumulator.Tags()["scalars"]
    }


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_gets_one_value_per_evaluator_at_the_steps_measured(tmp_path, task, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = build(tmp_path / "run", task, report_to="tensorboard", logging_steps=4)
    callback = add(trainer, task)
    add(trainer, task, name="letters", schedule=6)
    trainer.train()
    events = read_events(tmp_path / "events")
    rows = {row["step"]: row["metrics"] for row in callback.history.rows}
    for name in LOOKED_AT:
        metric = name.replace("train_eval", "train")
        assert events[f"train/{name}"] == pytest.approx({step: row[metric] for step, row in rows.items()})
    measured = {name.removeprefix("train/") for name in events if name.count("/") > 1}
    assert measured == LOOKED_AT | {f"letters/{name}" for name in LOOKED_AT}
    assert set(events["train/loss"]) == {4, 8, 12} and "train/train/loss" not in events
    assert set(events["train/letters/icl/accuracy"]) == {0, 6, 12}
    lines = [line for line in capsys.readouterr().out.splitlines() if "'icl/accuracy'" in line]
    assert len(lines) == len(rows) and all(line.count(":") == 8 for line in lines)  # and the epoch


class Listener(TrainerCallback):
    """Stands where the callbacks of trackio and wandb do, and renames as they do."""

    def __init__(self):
        self.told = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.told += [(name, state.global_step) for name in rewrite_logs(logs)]


def test_no_name_is_given_twice_at_a_step(tmp_path, task):
    """Of two values under one name, reporters keep whichever they like; with evaluations too."""
    listener = Listener()
    settings = dict(eval_dataset=task.dataset(8), eval_strategy="steps", eval_steps=3, logging_steps=1)
    trainer = build(tmp_path, task, callbacks=[listener], **settings)
    add(trainer, task)
    trainer.train()
    told = [one for one in listener.told if one[0] != "train/epoch"]
    assert len(told) == len(set(told)) and ("train/icl/accuracy", 3) in told


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("reporter", ["trackio", "wandb"])
def test_the_others_get_the_same_names_at_the_same_steps(tmp_path, task, monkeypatch, reporter):
    """Their own callbacks, with the function that sends replaced: what they would send."""
    module = pytest.importorskip(reporter, reason=f"to try it: pip install {reporter}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    sent, owner = [], module.Run if reporter == "wandb" else module
    log = owner.log

    def note(*words, **more):
        sent.append(dict(next(word for word in words if isinstance(word, dict))))
        return log(*words, **more)

    monkeypatch.setattr(owner, "log", note)
    trainer = build(tmp_path / "run", task, report_to=reporter, project="test", logging_steps=4)
    add(trainer, task)
    trainer.train()
    steps = {name: [one["train/global_step"] for one in sent if name in one] for name in sent[0]}
    assert all(steps[f"train/{name}"] == [0, 3, 6, 9, 12] for name in LOOKED_AT)
    assert not any("train/train/loss" in one for one in sent)
