"""Templates compared: what each score counts, calibration by hand, and the command's table."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from hf_icl.circuits.instrument import find_instruments
from hf_icl.circuits.prompted import PromptInstrument, spread_labels
from hf_icl.cli.main import app
from hf_icl.errors import ConfigError
from hf_icl.runs.config import read_config
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.task.config import TaskConfig
from hf_icl.task.forms import label_tokens
from hf_icl.task.prompt import write_nothing
from hf_icl.task.task import Task
from hf_icl.task.written import TEMPLATES
from hf_icl.traces.prompts import NAME, SCORES, _pose, compare_prompts
from tests.words_lm import save_model

COUNTS = {"n_classes": 6, "n_holdout_classes": 2, "n_exemplars": 3, "n_labels": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield save_model(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def task(saved):
    return Task(TaskConfig(bank={"kind": "vocabulary", "source": str(saved), **COUNTS}, n_eval_sequences=5))


@pytest.fixture
def model(saved):
    return AutoModelForCausalLM.from_pretrained(saved).eval()


class Says(torch.nn.Module):
    """Gives the same logits whatever it reads, but for `N/A`."""

    def __init__(self, model, logits, prior, nothing):
        super().__init__()
        self.inner, self.logits, self.prior, self.nothing = model, logits, prior, nothing
        self.config, self.device = model.config, model.device

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, logits_to_keep=0):
        found = self.inner(input_ids=input_ids, logits_to_keep=logits_to_keep)
        has_nothing = torch.stack([(input_ids == token).any(1) for token in self.nothing]).all(0)
        logits = torch.where(has_nothing[:, None], self.prior, self.logits)
        found.logits = found.logits * 0 + logits[:, None]
        return found


def test_what_counts_as_right(task, model):
    """A model that always says one word, then its rarest label: worked out sequence by sequence."""
    labels, n = label_tokens(task.bank), model.config.vocab_size
    logits, prior = torch.zeros(n), torch.zeros(n)
    logits[labels] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    prior[labels] = torch.tensor([4.0, 2.0, 0.0, -2.0])  # less it: 0, 1, 2, 3
    others = [token for token in range(n) if token not in labels.tolist()]
    logits[others[5]] = 9.0
    liar = Says(model, logits, prior, write_nothing(task.bank))
    posed = _pose(task, "arrow", 4, 40)
    context, target = posed.evaluators[NAME].batch.labels[:, :-1], posed.evaluators[NAME].batch.labels[:, -1]
    assert set(target.tolist()) == {0, 1, 2, 3}  # drawn from all
    rows = list(zip(context.tolist(), target.tolist(), strict=True))
    wanted = {
        "context": [min(row) == right for row, right in rows],
        "context_calibrated": [max(row) == right for row, right in rows],
        "labels": (target == 0).tolist(),
        "labels_calibrated": (target == 3).tolist(),
        "whole_vocabulary": [False] * 40,
    }
    row = next(compare_prompts(task, liar, templates=["arrow"], contexts=[4], n_sequences=40))
    for name, hits in wanted.items():
        assert row.scores[name].value == pytest.approx(sum(hits) / 40), name
        assert row.scores[name].low <= row.scores[name].value <= row.scores[name].high
    logits[others[5]] = 0.0
    row = next(compare_prompts(task, liar, templates=["arrow"], contexts=[4], n_sequences=40))
    assert row.scores["whole_vocabulary"].value == row.scores["labels"].value > 0


def test_the_instrument_gives_the_same_numbers_in_the_rows_of_the_evaluators(task, model):
    labels, n = label_tokens(task.bank), model.config.vocab_size
    logits, prior = torch.zeros(n), torch.zeros(n)
    logits[labels] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    prior[labels] = torch.tensor([4.0, 2.0, 0.0, -2.0])
    liar = Says(model, logits, prior, write_nothing(task.bank))
    posed = Task(task.config.replace(train=SequenceSpec(n_context=4, burst=1), n_eval_sequences=40))
    found = posed.measure(liar, instruments=find_instruments(["prompt"])).means
    batch = posed.evaluators["icl"].batch
    target, context = batch.labels[:, -1], batch.labels[:, :-1]
    assert set(target.tolist()) == {0, 1, 2, 3}  # any two labels of a trained vocabulary, not the first two
    assert found["prompt/vocabulary_accuracy"] == found["icl/accuracy"] == (target == 0).double().mean()
    assert found["prompt/calibrated_accuracy"] == (target == 3).double().mean()
    last = context.max(1).values == target
    assert found["prompt/calibrated_context_accuracy"] == last.double().mean()
    first = (context.min(1).values == target).double()  # what it says of the context's labels
    shares = [first[target == label].mean() for label in range(4)]
    by_chance = [share * (1 - share) / (int((target == n).sum()) - 1) for n, share in enumerate(shares)]
    apart = torch.stack(shares).var() - torch.stack(by_chance).mean()
    assert found["prompt/label_spread"] == pytest.approx(float(apart.sqrt()), rel=1e-9)
    assert math.isnan(spread_labels(torch.tensor([True, True]), torch.tensor([2, 2])))  # one label alone


def test_the_instrument_refuses_what_it_cannot_ask(task, model):
    ask = {"instruments": find_instruments(["prompt"])}
    with pytest.raises(ConfigError, match="evaluate.prompt.* gives vectors"):
        PromptInstrument().check(Task(TaskConfig(n_eval_sequences=5)), model)
    with pytest.raises(ConfigError, match="takes the sequences of icl"):
        Task(task.config.replace(evaluators=("iwl",))).measure(model, **ask)
    symbolic = {"kind": "symbolic", "n_classes": 9, "n_labels": 4}
    with pytest.raises(ConfigError, match="no tokenizer"):
        Task(TaskConfig(bank=symbolic, form="tokens", n_eval_sequences=5)).measure(model, **ask)


def test_which_labels_icl_takes(task):
    """Those of a trained vocabulary differ as words do, so any two; others are alike, so the first two."""

    def labels(config, name="icl"):
        return set(Task(config.replace(n_eval_sequences=60)).evaluators[name].batch.labels.unique().tolist())

    symbolic = {"kind": "symbolic", "n_classes": 9, "n_labels": 4}
    fresh = TaskConfig(bank=symbolic, form="tokens")
    assert labels(task.config) == labels(task.config, "icl_holdout") == {0, 1, 2, 3}
    assert labels(fresh) == {0, 1}
    assert labels(task.config.replace(icl_labels="first")) == {0, 1}
    assert labels(fresh.replace(icl_labels="all")) == {0, 1, 2, 3}
    recorded = task.config.to_dict()
    assert read_config({"task": recorded}).task == task.config
    before = {name: value for name, value in recorded.items() if name != "icl_labels"}
    assert read_config({"task": before}).task == task.config.replace(icl_labels="first")


def test_all_templates_get_the_same_sequences(task, model):
    rows = list(compare_prompts(task, model, contexts=[2, 4], n_sequences=6))
    assert [(row.prompt.template, row.n_context) for row in rows] == [
        (template, n_context) for template in TEMPLATES for n_context in (2, 4)
    ]
    batches = [_pose(task, template, 4, 6).evaluators[NAME].batch for template in TEMPLATES]
    assert all(torch.equal(batch.labels, batches[0].labels) for batch in batches)
    assert all(torch.equal(batch.class_ids, batches[0].class_ids) for batch in batches)
    assert all(set(row.scores) == set(SCORES) for row in rows)


def test_content_free_prompts_differ_in_the_query_alone(task, model):
    posed, seen = _pose(task, "qa", 2, 3), []
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given["input_ids"]), with_kwargs=True)
    batch = posed.evaluators[NAME].batch
    for content_free in (False, True):
        posed.form.read_answers(posed.bank, model, batch, content_free=content_free)
    asked, empty = seen
    place, nothing = int(posed.form.template.exemplar_places(2)[-1]), write_nothing(task.bank)
    assert torch.equal(asked[:, :place], empty[:, :place])
    assert empty[0, place : place + len(nothing)].tolist() == nothing
    assert torch.equal(asked[:, place + 1 :], empty[:, place + len(nothing) :])


def test_refused(task, model):
    for words, says in (
        ({"contexts": [3]}, "context = 3"),
        ({"contexts": [0]}, "context = 0"),
        ({"templates": ["prose"]}, "template = 'prose'"),
        ({"contexts": [400]}, "n_context = 400: makes"),
    ):
        with pytest.raises(ConfigError, match=says):
            list(compare_prompts(task, model, n_sequences=2, **words))
    with pytest.raises(ConfigError, match="gives vectors"):
        list(compare_prompts(Task(TaskConfig(n_eval_sequences=5)), model))


def test_command(saved, monkeypatch):
    words = [f"task.bank.{name}={value}" for name, value in COUNTS.items()]
    call = ["prompts", str(saved), *words, "-n", "4", "--context", "2"]
    call += ["--template", "bare", "--template", "qa"]
    told = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    assert [(row["template"], row["n_context"], row["n_sequences"]) for row in told["rows"]] == [
        ("bare", 2, 4), ("qa", 2, 4),
    ]  # fmt: skip
    assert told["rows"][0]["scores"].keys() == SCORES.keys() and told["seed"] == 0
    shown = CliRunner().invoke(app, call).stdout
    assert "1/4 of all" in " ".join(shown.split()) and "│ qa" in shown
