"""Answers to a few sequences: what is kept, that it agrees with what is measured, and where it is shown."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GPT2Config, Trainer, TrainingArguments

from hf_icl.errors import RunError
from hf_icl.history.columns import SMALL_BYTES, read_columns
from hf_icl.history.history import History, make_row, unpack_hits
from hf_icl.models import ICLModel
from hf_icl.report.analysis import analyse
from hf_icl.report.answers import list_answers, write_answers
from hf_icl.report.page import render_page
from hf_icl.report.write import write_report
from hf_icl.runs.config import load_config
from hf_icl.runs.folder import read_record
from hf_icl.runs.run import Run
from hf_icl.task.config import TaskConfig
from hf_icl.task.measuring import measure
from hf_icl.task.sample import describe_sample
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from tests.programs import TINY
from tests.report_histories import make_run

BANK = dict(kind="gaussian", n_classes=24, n_holdout_classes=4, n_exemplars=4, dim=8, n_labels=4)
SETTINGS = [
    *TINY,
    "training.steps=12",
    "training.checkpoint_every=4",
    "evaluate={every: 4, early: null, answers: 5}",
]


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=20))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run.create(load_config("default", SETTINGS), tmp_path_factory.mktemp("answers") / "run")
    run.train()
    return run


def test_an_answer_is_a_hit_exactly_where_it_is_the_right_label(task):
    generator = torch.Generator().manual_seed(3)
    found = measure(task.evaluators, lambda batch: torch.randn(len(batch), 4, generator=generator))
    for name, evaluator in task.evaluators.items():
        answers = found.answers[name]
        assert torch.equal(answers.labels == evaluator.batch.labels[:, -1], found.hits[evaluator.primary])
        assert 0 < answers.probabilities.min() and answers.probabilities.max() < 1
    flip, icl = task.evaluators["flip"], task.evaluators["icl"]
    in_context = (found.answers["flip"].labels[:, None] == flip.batch.labels[:, :-1]).any(1)
    assert in_context.all()  # that evaluator lets choose among the labels of the context alone
    assert not (found.answers["icl"].labels[:, None] == icl.batch.labels[:, :-1]).any(1).all()


def test_answers_by_hand(task):
    logits = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    found = measure({"iwl": task.evaluators["iwl"]}, lambda batch: logits.expand(len(batch), 4))
    right = task.evaluators["iwl"].batch.labels[:, -1]
    assert found.answers["iwl"].labels.tolist() == [3] * 20
    assert found.answers["iwl"].probabilities.tolist() == pytest.approx(((right + 1) / 10).tolist())


def test_logits_that_are_no_numbers_are_no_answer(task):
    found = measure(task.evaluators, lambda batch: torch.full((len(batch), 4), torch.nan))
    assert all(answers.labels.tolist() == [-1] * 20 for answers in found.answers.values())


def test_a_long_history_with_answers_is_read_by_column(tmp_path):
    history = History(tmp_path / "history.jsonl")
    pair = (np.arange(8), np.full(8, 0.5))
    row = make_row(0, 0, {"icl/accuracy": 0.5}, {"icl/accuracy": np.ones(6000, bool)}, {"icl": pair})
    history.restore([row | {"step": step} for step in range(1200)])
    block = (tmp_path / "history.jsonl").read_bytes()
    ends = [place + 1 for place, byte in enumerate(block) if byte == 10]
    assert len(block) > SMALL_BYTES and len(read_columns(block, ends)) == 1200


def test_a_run_keeps_as_many_answers_as_it_says_and_they_are_those_of_its_hits(run):
    record, task = run.record(), run.build_task()
    assert record.sample == describe_sample(task, 5)
    answered = list_answers(record)
    assert [step for step, _ in answered] == [0, 4, 8, 12]
    for (_, kept), row in zip(answered, record.rows, strict=True):
        assert kept.keys() == task.evaluators.keys()
        for name, evaluator in task.evaluators.items():
            hits = unpack_hits(row["hits"][evaluator.primary], len(evaluator.batch))[:5]
            right = [one["labels"][-1] for one in record.sample["sequences"][name]]
            assert (kept[name]["label"] == right).tolist() == hits.tolist()


def test_the_last_answers_are_those_of_the_final_model(run):
    found = run.build_task().measure(run.load_model())
    for name, answers in list_answers(run.record())[-1][1].items():
        labels, probabilities = found.answers[name]
        assert answers["label"].tolist() == labels[:5].tolist()
        assert answers["probability"].tolist() == pytest.approx(probabilities[:5].tolist(), abs=1e-6)


@pytest.mark.integration
def test_the_table_says_what_was_asked_and_answered(run, tmp_path):
    report = write_report([run.record()], tmp_path)
    rows = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    assert len(rows) == 4 * len(run.build_task().evaluators) * 5
    row = next(row for row in rows if (row["step"], row["evaluator"], row["sequence"]) == (8, "flip", 2))
    batch = run.build_task().sampler("flip").draw(2, 1)
    assert row["context_classes"] == batch.class_ids[0, :-1].tolist()
    assert row["context_exemplars"] == batch.exemplar_ids[0, :-1].tolist()
    assert row["context_labels"] == batch.labels[0, :-1].tolist()
    assert (row["query_class"], row["label"]) == (int(batch.class_ids[0, -1]), int(batch.labels[0, -1]))
    assert all(row["hit"] == (row["answer"] == row["label"]) for row in rows)
    page = report.page.read_text("utf-8")
    assert (
        page.count('<table class="attention answers">') == 5
    )  # of six evaluators, one is not shown at first
    assert "answers.parquet" in page


def test_a_run_that_was_stopped_goes_on_to_the_same_answers(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    for name in ("complete.json", "model.safetensors", "config.json", "checkpoint-12/complete.json"):
        (folder / name).unlink()
    Run.open(folder).train()
    assert (folder / "history.jsonl").read_bytes() == (run.folder / "history.jsonl").read_bytes()
    for number, which in enumerate((run.folder, folder)):
        write_answers([read_record(which)], tmp_path / f"{number}.parquet")
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()


def test_a_run_of_an_earlier_version_keeps_none(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    del about["sample"], about["config"]["evaluate"]["answers"]
    for name in ("complete.json", "config.yaml", "history.jsonl", *(f"checkpoint-{n}" for n in (8, 12))):
        (shutil.rmtree if (folder / name).is_dir() else type(folder).unlink)(folder / name)
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "config.yaml").write_text(json.dumps(about["config"]))
    Run.open(folder).train()
    rows = History(folder / "history.jsonl").rows
    assert len(rows) == 4 and not any("answers" in row for row in rows)
    assert not list_answers(read_record(folder))
    assert "answers.parquet" not in render_page(analyse([read_record(folder)]))


@pytest.mark.integration
def test_a_stock_trainer_s_report_has_them_too(tmp_path, task):
    model = ICLModel.from_backbone(
        GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=16), task.bank, n_context=task.n_context
    )
    args = TrainingArguments(
        str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=8, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=task.dataset(32), data_collator=task.collate)
    callback = TransienceCallback(task, schedule=2, log=trainer.log, answers=3)
    trainer.add_callback(callback)
    trainer.train()
    callback.report(tmp_path / "report")
    table = pq.read_table(tmp_path / "report/answers.parquet")
    assert sorted(set(table["step"].to_pylist())) == [0, 2, 4] and table.num_rows == 3 * 6 * 3


@pytest.mark.parametrize("harm", ["AAAA", "?", "AAAAAAAAAAA=", 7])
def test_answers_that_are_not_of_the_sampled_sequences_are_refused(harm):
    run = make_run(n_rows=6)
    row = run.rows[3]
    row["answers"] = row["answers"] | {"icl": harm}
    with pytest.raises(RunError, match="answers"):
        render_page(analyse([run]))
