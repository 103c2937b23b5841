"""Model cards on the Hub: its own checks pass them, results agree with the report,
the Trainer's card writing spares them."""

import dataclasses
import inspect
import json
import textwrap

import pytest
import yaml
from huggingface_hub import ModelCard, RepoCard, parse_eval_result_entries

from hf_icl.data import export_parquet
from hf_icl.errors import RunError
from hf_icl.hub.eval_results import EVAL_RESULTS_FILE, list_eval_results, render_eval_results
from hf_icl.metrics.push import render_space
from hf_icl.report import analyse, render_card
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.trainer import TransienceTrainer
from tests.report_histories import CHANCE, make_run
from tests.test_trainer import BANK, arguments, build_model, train

asks_the_endpoint = pytest.mark.skipif(
    "https://huggingface.co" in inspect.getsource(RepoCard.validate),
    reason="this huggingface_hub has huggingface.co itself check cards, whatever the endpoint",
)

HOSTILE = "a|b\n---\nlicense: nonsense <script>alert(1)</script> {{ x }} 'quoted\""


@pytest.fixture(scope="module")
def run():
    return make_run("mine", n_rows=12)


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=40))


@pytest.mark.integration
@asks_the_endpoint
def test_every_card_passes_the_checks_of_the_hub(hub, launcher, run, task, tmp_path):
    pretrained = dataclasses.replace(run, config={"model": {"pretrained": "a/b", "lora": {"rank": 2}}})
    hostile = dataclasses.replace(run, name=HOSTILE, provenance={"command": HOSTILE, "machine": HOSTILE})
    young = dataclasses.replace(run, rows=run.rows[:1])
    good = [
        ("model", render_card([run], repo_id="ann/model", dataset="ann/sequences")),
        ("model", render_card([pretrained])),
        ("model", render_card([hostile, run])),
        ("model", render_card([young])),
        ("dataset", (export_parquet(task, tmp_path / "out", n_sequences=5) / "README.md").read_text()),
        ("space", render_space("ann/flip_share")["README.md"].decode()),
    ]
    bad = [
        ("model", good[0][1].replace("license: apache-2.0", "license: nonsense")),
        ("model", good[0][1].replace("- hf-icl\n", "- 7\n")),
    ]
    validate = f"""
        from huggingface_hub import DatasetCard, ModelCard, SpaceCard
        cards, result = {{"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}}, []
        for kind, text in {[*good, *bad]!r}:
            try:
                cards[kind](text).validate()
                result.append("passes")
            except ValueError as error:
                result.append(str(error))
    """
    said = launcher.run(validate)
    assert said[: len(good)] == ["passes"] * len(good)
    assert "nonsense" in said[-2] and "tags" in said[-1]
    assert len(hub.requests("POST", "/api/validate-yaml")) == len(said)


def test_the_card_links_data_set_and_repository(run):
    card = ModelCard(render_card([run], repo_id="ann/model", dataset="ann/sequences"))
    assert card.data.datasets == ["ann/sequences"] and 'from_pretrained("ann/model")' in card.text
    assert "https://huggingface.co/datasets/ann/sequences" in card.text
    assert {(result.dataset_type, result.dataset_split) for result in card.data.eval_results} == {
        ("ann/sequences", "icl"), ("ann/sequences", "iwl"),
    }  # fmt: skip
    alone = ModelCard(render_card([run]))
    assert alone.data.datasets is None and "huggingface.co/datasets" not in alone.text
    assert {result.dataset_type for result in alone.data.eval_results} == {"hf_icl"}


def test_results_by_data_set_are_those_of_card_and_report(run):
    text = render_eval_results(run, "ann/sequences", source_url="https://huggingface.co/ann/model")
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert entries == list_eval_results(run, "ann/sequences", source_url="https://huggingface.co/ann/model")
    found = {entry.task_id: entry for entry in entries}
    assert set(found) == {"train_eval", "icl", "icl_holdout", "iwl", "ciwl", "flip"}
    measures = analyse([run]).document["runs"][0]["measures"]
    for metric in ("icl/accuracy", "iwl/accuracy", "flip/context_accuracy"):
        assert found[metric.partition("/")[0]].value == measures[metric]["final"]["value"]
    assert found["train_eval"].value == run.rows[-1]["metrics"]["train/accuracy"]
    assert (
        found["flip"].notes
        == "share of in-context answers at training step 32,000, chance 0.5, 512 sequences"
    )
    assert {entry.dataset_id for entry in entries} == {"ann/sequences"}
    assert EVAL_RESULTS_FILE.startswith(".eval_results/") and EVAL_RESULTS_FILE.endswith(".yaml")
    unmeasured = dataclasses.replace(run, chance={"icl/accuracy": CHANCE["icl/accuracy"]})
    assert [entry.task_id for entry in list_eval_results(unmeasured, "ann/sequences")] == ["icl"]


@pytest.mark.integration
@pytest.mark.usefixtures("_blank_figures")
def test_the_trainer_writes_our_card_and_report(tmp_path, task):
    trainer = train(tmp_path / "mine", task)
    (tmp_path / "mine" / "README.md").write_text("An earlier draft.")
    trainer.create_model_card(
        tags=["lab", "hf-icl"], language="en", license="mit", dataset_tags="ann/sequences"
    )
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.text.lstrip().startswith("# mine\n") and "earlier draft" not in card.text
    assert card.data.tags[-1] == "lab" and card.data.tags.count("hf-icl") == 1
    assert (card.data.language, card.data.license, card.data.datasets) == ("en", "mit", ["ann/sequences"])
    report = json.loads((tmp_path / "mine" / "report" / "transience.json").read_text())
    final = trainer.transience.history.rows[-1]["metrics"]["icl/accuracy"]
    assert report["runs"][0]["measures"]["icl/accuracy"]["final"]["value"] == final
    assert final in [result.metric_value for result in card.data.eval_results]
    trainer.create_model_card(model_name="other", finetuned_from="a/b")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.base_model == "a/b" and card.data.license is None and "# other\n" in card.text


def test_before_training_the_draft_of_the_stock_trainer_will_do(tmp_path, task):
    trainer = TransienceTrainer(build_model(task), arguments(tmp_path), task)
    trainer.create_model_card(model_name="young")
    assert "generated automatically" in (tmp_path / "README.md").read_text()
    with pytest.raises(RunError, match="young: nothing has been measured yet. Train first."):
        trainer.transience.record("young")


TRAIN = """
    from huggingface_hub import ModelCard
    from transformers import Trainer
    from hf_icl import Task, TaskConfig, TransienceCallback, TransienceTrainer
    from hf_icl.report import render_card
    from tests.test_trainer import BANK, arguments, build_model

    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40))
    settings = dict(push_to_hub=True, save_strategy="steps", save_steps=6)
    settings |= dict(hub_model_id="ann/{name}", hub_private_repo=True)
    args = arguments("{name}", **settings)
"""


@pytest.mark.integration
def test_our_card_survives_the_pushes_of_our_trainer(hub, launcher):
    code = """
        trainer = TransienceTrainer(build_model(task), args, task, schedule=4)
        trainer.train()
        trainer.push_to_hub()
        trainer.push_to_hub("Once more")
        result = trainer.transience.history.rows[-1]["metrics"]["icl/accuracy"]
    """
    final = launcher.run(textwrap.dedent(TRAIN.format(name="ours")) + textwrap.dedent(code))
    there = hub.repo("model ann/ours")
    card = ModelCard(there.files["README.md"].decode())
    assert final in [result.metric_value for result in card.data.eval_results]
    assert "in-context-learning" in card.data.tags and "# ours\n" in card.text
    assert {"report/transience.json", "report/index.html", "history.jsonl"} <= set(there.files)
    assert len([message for message in there.messages if message == "End of training"]) == 1


@pytest.mark.integration
@asks_the_endpoint
def test_a_stock_trainer_overwrites_the_card_so_it_is_pushed_afterwards(hub, launcher):
    """What the documentation says of one's own `Trainer`: push, then put our card over its draft."""
    code = """
        trainer = Trainer(build_model(task), args, train_dataset=task.dataset(96), data_collator=task.collate)
        callback = TransienceCallback(task, schedule=4, log=trainer.log)
        trainer.add_callback(callback)
        trainer.train()
        trainer.push_to_hub()
        draft = ModelCard.load("ann/theirs").text
        ModelCard(render_card([callback.record("theirs")])).push_to_hub("ann/theirs")
        result = draft
    """
    assert "generated automatically" in launcher.run(
        textwrap.dedent(TRAIN.format(name="theirs")) + textwrap.dedent(code)
    )
    card = ModelCard(hub.repo("model ann/theirs").files["README.md"].decode())
    assert card.text.lstrip().startswith("# theirs\n") and card.data.eval_results[0].dataset_type == "hf_icl"
    assert "generated automatically" not in card.text
