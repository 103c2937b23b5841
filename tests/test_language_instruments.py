"""What else a language model loses: loss on a held text, and what it makes of random tokens given twice."""

import json
from pydoc_data.topics import topics

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hf_icl.circuits import language
from hf_icl.circuits.attention import Visitor, visit
from hf_icl.circuits.held import HeldText
from hf_icl.circuits.instrument import find_instruments
from hf_icl.circuits.language import RepeatInstrument, TextInstrument, measure_losses, read_text
from hf_icl.errors import ConfigError
from hf_icl.report.analysis import analyse
from hf_icl.report.words import list_table
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.summary.summary import Side, summarize_history
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task

WORDS = [
    "task.form=tokens", "task.bank={kind: symbolic, n_classes: 24, n_holdout_classes: 4, n_labels: 4}",
    "task.n_eval_sequences=8", "training.batch_size=4", "training.steps=2", "training.checkpoint_every=2",
    "training.threads=1", "evaluate.every=1",
]  # fmt: skip
ASK = {"batch_size": 8, "spread": False}


@pytest.fixture(scope="module")
def task():
    bank = {"kind": "symbolic", "n_classes": 24, "n_holdout_classes": 4, "n_labels": 4}
    return Task(TaskConfig(bank=bank, form="tokens", n_eval_sequences=8))


@pytest.fixture(scope="module")
def model(pretrained):
    return AutoModelForCausalLM.from_pretrained(pretrained).eval()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("held") / "held.txt"
    path.write_text("\n\n".join(topics.values())[:40_000], encoding="utf-8")
    return path


def test_losses_are_those_that_transformers_averages(model):
    tokens = torch.arange(30).view(2, 15)
    with torch.no_grad():
        whole = model(input_ids=tokens, labels=tokens).loss
    assert measure_losses(model, tokens).shape == (2, 14)
    assert measure_losses(model, tokens).mean() == pytest.approx(whole.item(), rel=1e-5)


def test_text_is_cut_into_windows_and_its_loss_is_the_mean(task, model, text, pretrained):
    instrument = TextInstrument(str(text), n_windows=3, window=1000)  # the model has 64 places
    found = instrument(task, model, **ASK).means
    tokens = language.find_tokenizer(model)(text.read_text(), verbose=False)["input_ids"][: 3 * 64]
    losses = measure_losses(model, torch.tensor(tokens).view(3, 64))
    assert found == {"text/loss": pytest.approx(losses.mean().item(), rel=1e-5)}
    untrained = GPT2LMHeadModel(model.config).eval()
    other = TextInstrument(str(text), n_windows=3, tokenizer=language.find_tokenizer(model))
    assert other(task, untrained, **ASK).means["text/loss"] > found["text/loss"] + 0.5


def test_a_data_set_is_read_by_its_column(tmp_path):
    rows = {"body": ["one", "two", "three"], "n": [1, 2, 3]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "test.parquet")
    assert read_text(str(tmp_path), "body", "test", 5) == "one\n\ntwo"
    with pytest.raises(ConfigError, match="evaluate.text.column = 'n': a column of texts .* body, n"):
        read_text(str(tmp_path), "n", "test", 5)


def test_what_cannot_be_read_is_said_before_training(task, model, tmp_path):
    (tmp_path / "short.txt").write_text("a b")
    too_short = "holds 2 tokens, and a window takes 64"
    for source, match in [("short.txt", too_short), ("no", "neither a text file")]:
        with pytest.raises(ConfigError, match=match):
            TextInstrument(str(tmp_path / source)).check(task, model)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        TextInstrument(str(tmp_path / "bytes.txt")).check(task, model)
    with pytest.raises(ConfigError, match="is for language models, and this task gives vectors"):
        RepeatInstrument().check(Task(TaskConfig(n_eval_sequences=8)), model)
    with pytest.raises(ConfigError, match="comes from nowhere that has a tokenizer"):
        fresh = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8))
        TextInstrument(str(tmp_path / "short.txt")).check(task, fresh)


def test_repeats_are_random_tokens_given_twice_the_same_each_time(task):
    tokens = RepeatInstrument(n_sequences=5).draw(task, 32)
    assert tokens.shape == (5, 64) and torch.equal(tokens[:, :32], tokens[:, 32:])
    assert torch.equal(tokens, RepeatInstrument(n_sequences=5).draw(task, 32))
    assert len(tokens.unique()) > 20 and tokens.max() < 28 + 4
    assert not torch.equal(tokens[0], tokens[1])


def test_the_score_is_taken_where_olsson_takes_it_as_fits_the_window(task, model, monkeypatch):
    """The loss of place p is p: of 64 places the early one is 64 · 50 / 512 = 6, the late one 62."""

    def count(model, tokens):
        model(input_ids=tokens)
        return torch.arange(float(tokens.shape[1] - 1)).expand(len(tokens), -1)

    monkeypatch.setattr(language, "measure_losses", count)
    with torch.no_grad():
        found = RepeatInstrument(n_sequences=2)(task, model, **ASK).means
    assert found["repeats/icl_score"] == 6 - 62
    assert found["repeats/loss_first"] == 15 and found["repeats/loss_second"] == 47


def test_prefix_matching_finds_a_head_that_looks_behind_the_earlier_token(task, model):
    """One head's attention is put where an induction head's would be."""

    class Put(Visitor):
        def take_pattern(self, layer, pattern):
            if layer == 1:
                pattern = pattern.clone()
                rows = torch.arange(32, 64)
                pattern[:, 2, rows] = 0.0
                pattern[:, 2, rows, rows - 31] = 1.0
            return pattern

    with visit(model, Put()):
        found = RepeatInstrument(n_sequences=2)(task, model, **ASK).means
    assert found["heads/prefix_matching/repeats/L1H2"] == found["repeats/prefix_matching"] == 1.0
    assert 0 <= found["heads/prefix_matching/repeats/L0H2"] < 0.5


def test_summary_follows_what_instruments_found():
    values = [(0, 0.2, 3.0), (10, 0.9, 4.0), (20, 0.3, 5.0), (30, 0.2, 5.5)]
    rows = [{"step": s, "metrics": {"icl/accuracy": a, "text/loss": loss}} for s, a, loss in values]
    assert summarize_history(rows, {"icl/accuracy": 0.0}).sides == {"text/loss": Side(3.0, 4.0, 5.5)}
    assert summarize_history(rows, {}).sides == {"text/loss": Side(3.0, None, 5.5)}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_run_has_them_in_its_rows_and_its_report(pretrained, text, lora, tmp_path):
    asked = [f"evaluate.text={{source: {text}, n_windows: 2}}", "evaluate.repeats=true"]
    words = [*WORDS, *asked, f"model.pretrained={pretrained}", *(["model.lora={rank: 2}"] if lora else [])]
    run = Run.create(load_config("default", words), tmp_path / "run")
    run.train()
    names = ["text/loss", "repeats/icl_score", "repeats/prefix_matching"]
    for row in run.history.rows:
        assert set(names) <= row["metrics"].keys() and "heads/prefix_matching/repeats/L1H3" in row["metrics"]
    instruments = find_instruments(run.config.evaluate.instruments)
    again = run.build_task().measure(run.load_model(), instruments=instruments)
    assert again.means["text/loss"] == run.history.rows[-1]["metrics"]["text/loss"]
    entry = analyse([run.record()]).document["runs"][0]
    told = {row.title: row.cells for row in list_table([entry]) if row.metric == "text/loss"}
    assert list(told) == ["before training", "at ICL's peak", "final value"]
    shown = (run.folder / "run.json").read_text()
    assert str(text.parent) not in shown
    assert json.loads(shown)["config"]["evaluate"]["text"]["source"] == "local:held.txt"


def test_names_and_settings_become_instruments():
    found = find_instruments(["repeats", HeldText(source="a.txt", window=8)])
    assert found == (RepeatInstrument(), TextInstrument("a.txt", window=8))
