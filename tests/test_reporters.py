"""What reporters are told: what TensorBoard, trackio and wandb have written."""

import contextlib
import importlib.util
import json
import sqlite3
import struct
import subprocess
import sys

import pytest
from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from hf_icl.history.history import History
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from tests.programs import ROOT, environment
from tests.test_callback import BANK, add, build

LOOKED_AT = {
    "icl/accuracy", "icl_holdout/accuracy", "iwl/accuracy", "ciwl/accuracy", "flip/context_accuracy",
    "train_eval/accuracy", "train_eval/loss",
}  # fmt: skip

BLOCK, WHOLE, LAST = 32_768, 1, 4  # of LevelDB's logs


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


PROGRAM = """
import sys
from pathlib import Path
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from tests.test_callback import BANK, add, build
folder, reporter = Path(sys.argv[1]), sys.argv[2]
task = Task(TaskConfig(bank=BANK, n_eval_sequences=20))
trainer = build(folder / "run", task, report_to=reporter, project="test", logging_steps=4)
add(trainer, task)
trainer.train()
"""


def read_trackio(folder):
    """Return what its database holds: the values of each call of `log`."""
    (path,) = (folder / "trackio").rglob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [json.loads(row) for (row,) in database.execute("SELECT metrics FROM metrics ORDER BY id")]


def read_wandb(folder):
    """Return what an offline run's file holds: records framed as in LevelDB's logs, after seven bytes."""
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at, found, whole = path.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (WHOLE, LAST):
            record = messages.Record.FromString(whole)
            items = record.history.item
            found.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
            whole = b""
    return [values for values in found if values]


@pytest.mark.slow
@pytest.mark.parametrize("reporter, read", [("trackio", read_trackio), ("wandb", read_wandb)])
def test_the_others_have_the_same_names_at_the_same_steps(tmp_path, reporter, read):
    """What lies on disk afterwards: trackio's database, the file of an offline run of wandb."""
    if importlib.util.find_spec(reporter) is None:
        pytest.skip(f"{reporter} is not installed: make test-reporters")
    where = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), reporter]
    subprocess.run(program, env=environment(**where), cwd=ROOT, check=True, capture_output=True)
    stored = read(tmp_path)
    names = dict.fromkeys(name for one in stored for name in one)
    steps = {name: [one["train/global_step"] for one in stored if name in one] for name in names}
    assert {name for name, at in steps.items() if at == [0, 3, 6, 9, 12]} == {f"train/{n}" for n in LOOKED_AT}
    assert steps["train/loss"] == [4, 8, 12] and "train/train/loss" not in steps
    rows = History(tmp_path / "run/history.jsonl").rows
    for name in LOOKED_AT:
        values = [one[f"train/{name}"] for one in stored if f"train/{name}" in one]
        metric = name.replace("train_eval", "train")
        assert values == pytest.approx([row["metrics"][metric] for row in rows])
