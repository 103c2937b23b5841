"""One, two and four processes: the same sequences, losses and counts; one of them killed, the run goes on."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

from hf_icl.checkpoints import is_whole
from hf_icl.forms import count_tokens
from hf_icl.models import ICLModel
from hf_icl.task import Task, TaskConfig
from hf_icl.trainer import TransienceTrainer
from tests import device_program
from tests.device_program import BANK, BATCH, STEPS, TRAININGS
from tests.programs import ROOT, environment


def launch(n_processes, *words, **options):
    """Run a program by torchrun to its end."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(n_processes),
        "--standalone",
    ]
    env = environment(PYTHONPATH=str(ROOT))
    options = dict(env=env, capture_output=True, text=True, timeout=300) | options
    return subprocess.run([*command, *map(str, words)], **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return device_program.train_all(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    """Folder and results of every process of a training on several."""
    folder = tmp_path_factory.mktemp("together")
    done = launch(request.param, ROOT / "tests/device_program.py", folder)
    assert done.returncode == 0, done.stderr
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("name", TRAININGS)
def test_every_sequence_is_seen_once_and_in_the_same_order(alone, together, name):
    """The parts of all processes, put side by side, are the whole batches of one process."""
    _, results = together
    parts = [result[name]["seen"] for result in results]
    in_order = [number for step in zip(*parts, strict=True) for part in step for number in part]
    assert in_order == list(range(BATCH * STEPS))
    assert [number for part in alone[name]["seen"] for number in part] == in_order


@pytest.mark.parametrize("name", TRAININGS)
def test_losses_weights_and_counts_agree(alone, together, name):
    _, results = together
    one = alone[name]
    for result in results:
        many = result[name]
        assert len(many["losses"]) == STEPS and many["losses"] == pytest.approx(one["losses"], abs=2e-6)
        assert many["weights"] == pytest.approx(one["weights"], abs=1e-6)
        assert [row["sequences"] for row in many["rows"]] == [row["sequences"] for row in one["rows"]]
        assert many["rows"][0] == one["rows"][0]  # before the first step the weights are the same bits
        for left, right in zip(many["rows"], one["rows"], strict=True):
            assert left["metrics"] == pytest.approx(right["metrics"], abs=1e-4)


def test_accumulation_and_kind_of_trainer_change_no_loss(alone):
    for name in ("own_tokens", "stock", "stock_each_reads"):
        assert alone[name]["losses"] == pytest.approx(alone["thin"]["losses"], abs=2e-6)
    assert alone["l2"]["losses"][0] > alone["thin"]["losses"][0] + 0.1


def test_all_processes_hold_the_same_rows_and_one_writes(together):
    folder, results = together
    for name in TRAININGS:
        assert all(result[name]["rows"] == results[0][name]["rows"] for result in results)
        assert [result[name]["wrote"] for result in results] == [True] + [False] * (len(results) - 1)
        lines = (folder / name / "history.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == results[0][name]["rows"]
        assert not list((folder / name).glob("history.*.jsonl"))


def test_the_best_checkpoint_is_the_same(alone, together):
    _, results = together
    for name in ("thin", "stock"):
        rows = {row["step"]: row["metrics"]["icl/accuracy"] for row in alone[name]["rows"]}
        assert all(result[name]["best"] == alone[name]["best"] for result in results)
        assert alone[name]["best"] == max(rows[step] for step in (2, 4, 6))


def test_evaluators_dealt_out_give_the_same_bits(alone, together):
    for result in [alone, *together[1]]:
        assert result["spread_equals_alone"]
        assert result["spread"] == [[0], [0, 10], [0, 10, 20, 30, 40]]


def test_processes_that_know_nothing_of_each_other_are_refused(together):
    if torch.accelerator.is_available():
        pytest.skip("with a GPU, processes find each other")
    assert all("each would train alone" in result["refused"] for result in together[1])


def test_weights_dealt_out_to_the_processes_train_the_same(alone, together):
    """FSDP2 with L2: losses and rows of one process, and a checkpoint that one process opens."""
    folder, results = together
    for result in results:
        assert "DTensor" in result["fsdp"]["kinds"]
        assert result["fsdp"]["losses"] == pytest.approx(alone["l2"]["losses"], abs=2e-6)
        assert result["fsdp"]["rows"] == results[0]["fsdp"]["rows"]
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40))
    checkpoint = folder / f"fsdp/checkpoint-{STEPS}"
    assert is_whole(checkpoint)
    model = ICLModel.from_pretrained(checkpoint)
    assert torch.cat([p.detach().flatten() for p in model.parameters()]).tolist() == pytest.approx(
        alone["l2"]["weights"], abs=1e-6
    )
    assert task.measure(model)[0] == pytest.approx(results[0]["fsdp"]["rows"][-1]["metrics"], abs=1e-6)


@pytest.mark.parametrize("form", ["vectors", "tokens"])
def test_bf16_trains_nearly_the_same(tmp_path, form):
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40, form=form))
    rows = {}
    for bf16 in (False, True):
        set_seed(0)
        if form == "vectors":
            model = device_program.build_model(task)
        else:
            size = dict(n_layer=1, n_embd=16, n_head=2, n_positions=16, vocab_size=count_tokens(task.bank))
            model = GPT2LMHeadModel(GPT2Config(**size, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
        args = TrainingArguments(
            str(tmp_path / str(bf16)), max_steps=40, learning_rate=3e-3, per_device_train_batch_size=BATCH,
            report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True, bf16=bf16,
        )  # fmt: skip
        trainer = TransienceTrainer(model, args, task, schedule=20)
        trainer.train()
        rows[bf16] = [row["metrics"]["train/loss"] for row in trainer.transience.history.rows]
    assert rows[True] != rows[False] and rows[True] == pytest.approx(rows[False], abs=0.02)
    assert rows[True][-1] < rows[True][0]
