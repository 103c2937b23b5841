"""A model along its checkpoints in a folder: rows, going on, what is skipped, and the report."""

import json
import os
import re
import shutil

import pytest
import torch

from hf_icl.errors import BankError, ConfigError, RunError
from hf_icl.report.analysis import analyse
from hf_icl.report.words import describe_run, list_table
from hf_icl.traces.folder import Trace, check_axis
from hf_icl.traces.measuring import Measurer
from hf_icl.traces.subject import open_subject
from hf_icl.traces.tracing import trace
from tests.series import SMALL, save_model, save_series
from tests.small_lm import make_tokenizer
from tests.test_traces import _shuffle


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "mine"
    save_series(folder, (10, 20, 30, 40))
    return folder


@pytest.fixture(scope="module")
def whole(saved, tmp_path_factory):
    """Return an undisturbed trace, made by a caller's own function that is told of each revision."""
    told = []
    torch.set_num_threads(1)  # as each test does, on whose numbers' last bits it tells
    made = trace(str(saved), tmp_path_factory.mktemp("whole") / "trace", overrides=SMALL, tell=told.append)
    assert [(one.number, one.count, one.outcome.revision.mark.step) for one in told] == [
        (number, 4, 10 * number) for number in range(1, 5)
    ]
    return made


@pytest.fixture
def copy(saved, tmp_path):
    """Return a copy of the checkpoints that a test may change, the same to the byte and second."""
    shutil.copytree(saved, tmp_path / "mine", copy_function=shutil.copy2)
    return tmp_path / "mine"


@pytest.fixture
def measured(monkeypatch):
    """Return the names of the revisions that are really measured."""
    names, measure = [], Measurer.measure

    def note(self, revision):
        names.append(revision.name)
        return measure(self, revision)

    monkeypatch.setattr(Measurer, "measure", note)
    return names


def rows(made: Trace):
    return list(made.history(made.about.series[0]).rows)


def test_a_row_is_what_one_checkpoint_is_found_to_do(saved, whole):
    """The twin: each checkpoint opened by itself, asked with the bank of the last."""
    bank = f"task.bank.source={saved / 'checkpoint-40'}"
    for row in rows(whole):
        alone = open_subject(str(saved / row["revision"]), None, overrides=[*SMALL, bank])
        assert alone.measure().means == row["metrics"]
        assert row["step"] == int(row["revision"].removeprefix("checkpoint-"))
    assert {row["commit"] for row in rows(whole)} == {None} and len(
        {row["weights"] for row in rows(whole)}
    ) == 4


def test_it_goes_on_where_it_stopped_and_takes_what_is_added(saved, whole, measured, tmp_path):
    part = tmp_path / "trace"
    trace(str(saved), part, revisions="checkpoint-20,checkpoint-40", overrides=SMALL)
    assert measured == ["checkpoint-20", "checkpoint-40"]
    made = trace(str(saved), part, overrides=SMALL)
    assert measured[2:] == ["checkpoint-10", "checkpoint-30"] and rows(made) == rows(whole)
    assert rows(trace(str(saved), part, overrides=SMALL)) == rows(whole) and len(measured) == 4


def test_a_torn_row_is_measured_again(saved, whole, measured, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "trace")
    history = tmp_path / "trace" / "mine" / "history.jsonl"
    os.truncate(history, history.stat().st_size - 7)
    assert rows(trace(str(saved), tmp_path / "trace", overrides=SMALL)) == rows(whole)
    assert measured == ["checkpoint-40"]


@pytest.mark.slow
def test_other_settings_and_another_bank_are_refused(copy, tmp_path):
    made = trace(str(copy), tmp_path / "trace", revisions="checkpoint-40", overrides=SMALL)
    for words, says in (
        ([*SMALL, "seed=1"], "asked otherwise, in seed"),
        ([*SMALL, f"task.bank.source={copy / 'checkpoint-10'}"], "in task.bank.source"),
    ):
        with pytest.raises(RunError, match=re.escape(says)):
            trace(str(copy), tmp_path / "trace", overrides=words)
    save_model(copy / "checkpoint-40", 99, tokenizer=make_tokenizer(700))
    with pytest.raises(RunError, match="the bank is not the one that was asked about before"):
        trace(str(copy), tmp_path / "trace", overrides=SMALL)
    assert len(rows(made)) == 1


def test_what_cannot_be_measured_is_said_and_skipped(copy, tmp_path):
    (copy / "checkpoint-25").mkdir()
    shutil.copytree(copy / "checkpoint-10", copy / "checkpoint-15")
    save_model(copy / "checkpoint-35", 7, tokenizer=_shuffle(make_tokenizer(700)))
    save_model(copy / "checkpoint-36", 8)
    (copy / "checkpoint-30" / "model.safetensors").write_bytes(b"torn")
    made = trace(str(copy), tmp_path / "trace", overrides=SMALL)
    assert [row["step"] for row in rows(made)] == [10, 20, 40]
    whys = {one["revision"]: one["why"] for one in made.about.skipped}
    assert Trace.open(made.folder).about == made.about and whys.keys() == {
        f"checkpoint-{step}" for step in (15, 25, 30, 35, 36)
    }
    for step, why in {15: "weights of checkpoint-10 again", 25: "is empty", 30: "cannot be loaded",
                      35: "another tokenizer", 36: "without a tokenizer"}.items():  # fmt: skip
        assert why in whys[f"checkpoint-{step}"]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda folder: (folder / "checkpoint-1").mkdir(), "no revision can be measured"),
        (lambda folder: None, "none of the 0 revisions"),
        (lambda folder: save_model(folder / "checkpoint-1"), "comes without a tokenizer"),
    ],
)
def test_a_folder_with_nothing_to_measure_is_an_error(tmp_path, build, says):
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty")
    with pytest.raises((RunError, ConfigError, BankError), match=says):
        trace(str(tmp_path / "empty"), tmp_path / "trace", overrides=SMALL)


def test_a_folder_that_holds_something_else_is_left_alone(saved, tmp_path):
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="is there already, and holds no trace"):
        trace(str(saved), tmp_path / "trace", overrides=SMALL)
    for word in ("nowhere", "/nowhere/at/all"):
        with pytest.raises(RunError, match="names on the Hub are USER/REPO"):
            trace(word, tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trace.json").write_text('{"schema": 1}')
    with pytest.raises(RunError, match="cannot be read as a trace folder"):
        Trace.open(tmp_path / "other")


# Reports


def test_records_name_no_path_and_report_like_a_run(whole, saved):
    (record,) = whole.records()
    told = json.dumps([record.config, record.provenance, record.bank])
    assert str(saved.parent) not in told and record.config["task"]["bank"]["source"] == "local:checkpoint-40"
    entry = analyse([record]).document["runs"][0]
    assert entry["n_evaluations"] == 4 and entry["last_step"] == 40 and entry["axis"] == "step"
    assert record.config["model"] == {"type": "gpt2", "n_parameters": 15_536}


def test_tokens_on_the_axis_are_steps_times_what_a_step_takes(saved, whole, tmp_path):
    with pytest.raises(RunError, match="tokens seen by step 10 of mine are not known"):
        whole.records("tokens")
    made = trace(str(saved), tmp_path / "trace", overrides=SMALL, tokens_per_step=2_000_000)
    (record,) = made.records("tokens")
    assert record.columns.steps.tolist() == [20_000_000, 40_000_000, 60_000_000, 80_000_000]
    entry = analyse([record]).document["runs"][0]
    titles = [row.title for row in list_table([entry])]
    assert "peak, tokens" in titles and not any(title.endswith(", step") for title in titles)
    assert " tokens" in describe_run(entry) and " step " not in describe_run(entry)
    steps = [describe_run(analyse(made.records()).document["runs"][0])]
    assert not any("tokens" in text for text in steps)
    with pytest.raises(ConfigError, match="must be one of step, tokens"):
        check_axis("epoch")


@pytest.mark.slow
def test_models_of_one_size_are_replicas_and_others_are_not(saved, tmp_path):
    for number, (size, name) in enumerate(((700, "m-seed1"), (700, "m-seed2"), (900, "large"))):
        tokenizer = make_tokenizer(700)
        save_model(tmp_path / name / "checkpoint-1", 50 + number, size=size, tokenizer=tokenizer)
    places = [str(tmp_path / name) for name in ("m-seed1", "m-seed2", "large")]
    records = trace(places, tmp_path / "trace", overrides=SMALL).records()
    groups = analyse(records).document["groups"]
    assert [(group["name"], group["runs"]) for group in groups] == [("m, seeds 1, 2", ["m-seed1", "m-seed2"])]


@pytest.mark.slow
def test_a_run_of_ours_is_traced_with_its_own_task(tmp_path):
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import Run
    from tests.programs import TINY

    words = [
        *TINY,
        "training.steps=4",
        "training.checkpoint_every=2",
        "training.keep_checkpoints=null",
        "evaluate=2",
    ]
    run = Run.create(load_config("default", words), tmp_path / "run")
    run.train()
    made = trace(str(tmp_path / "run"), tmp_path / "trace")
    published = {row["step"]: row["metrics"] for row in run.history.rows}
    assert {row["step"]: row["metrics"] for row in rows(made)} == {step: published[step] for step in (2, 4)}
