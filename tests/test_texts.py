"""Texts as exemplars and labels: read from files, written into prompts, scored token by token."""

import csv
import json

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_icl.banks import TextConfig, load_bank
from hf_icl.banks.texts import _check_phrases
from hf_icl.circuits.instrument import find_layout
from hf_icl.errors import BankError, ConfigError
from hf_icl.plan import estimate
from hf_icl.runs.config import RunConfig
from hf_icl.runs.run import Run
from hf_icl.task import phrases
from hf_icl.task.config import TaskConfig
from hf_icl.task.evaluators import EVALUATORS
from hf_icl.task.phrases import PhraseForm
from hf_icl.task.prompt import count_unstable
from hf_icl.task.task import Task
from hf_icl.task.written import TEMPLATES
from hf_icl.traces.prompts import compare_prompts
from hf_icl.traces.questions import ask_of_model
from hf_icl.training.trainer import keep_answers
from tests.words_lm import WORDS, save_model

LABELS = ("a good thing", "a good bird", "bad", "bad apple")  # two stems shared, one label in another


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield save_model(tmp_path_factory.mktemp("words"), n_places=200)


def make_rows(n_classes=4, n_texts=5):
    def write_text(k, n):
        return " ".join(WORDS[(7 * k + 3 * n + i) % len(WORDS)] for i in range(1 + (k + n) % 4))

    return [
        {"text": write_text(k, n), "label": f"class {k}"} for k in range(n_classes) for n in range(n_texts)
    ]


def write(path, rows):
    """Write rows as the file's ending says."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def file(saved, tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "mine.jsonl", make_rows())


def settings(saved, file, **changes):
    return {
        "kind": "texts",
        "source": str(saved),
        "data": str(file),
        "n_classes": 4,
        "n_exemplars": 5,
    } | changes


def make_task(saved, file, prompt=None, n_context=2, **changes):
    train = {"n_context": n_context, "burst": 1}
    bank = settings(saved, file, label_texts=LABELS, **changes)
    return Task(TaskConfig(bank=bank, train=train, n_eval_sequences=12, prompt=prompt))


@pytest.fixture
def model(saved):
    return AutoModelForCausalLM.from_pretrained(saved).eval()


def spell_out(task, batch, row):
    """Return the tokens of one prompt, put together by hand."""
    vocabulary, template = task.bank.vocabulary, task.form.find_template(task.bank)
    ids = task.bank.rows[batch.class_ids[row], batch.exemplar_ids[row]].tolist()
    tokens = list(template.start)
    for number, label in zip(ids[:-1], batch.labels[row, :-1].tolist(), strict=True):
        tokens += [*vocabulary.exemplar_phrases[number], *template.between]
        tokens += [*vocabulary.label_phrases[label], *template.after]
    return [*tokens, *vocabulary.exemplar_phrases[ids[-1]], *template.between]


def ask_alone(model, tokens, phrase):
    """Return a phrase's log-probability, and whether it is the likeliest, with nothing filled up."""
    with torch.no_grad():
        log_p = model(torch.tensor([[*tokens, *phrase]])).logits[0].log_softmax(-1)
    places = range(len(tokens) - 1, len(tokens) + len(phrase) - 1)
    found = [log_p[place, token] for place, token in zip(places, phrase, strict=True)]
    return sum(found).item(), all(
        log_p[place].argmax() == token for place, token in zip(places, phrase, strict=True)
    )


@pytest.mark.parametrize("at_once", [2048, 7])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_label_is_scored_by_the_sum_of_its_tokens(saved, file, model, template, at_once, monkeypatch):
    """As each label alone after each prompt alone; however many places are in memory together."""
    monkeypatch.setattr(phrases, "PLACES_AT_ONCE", at_once)
    task = make_task(saved, file, {"template": template})
    assert isinstance(task.form, PhraseForm) and task.bank.n_labels == 4
    batch = task.train_sampler.draw(0, 5)
    with torch.no_grad():
        found = task.form.read_answers(task.bank, model, batch)
        torch.testing.assert_close(task.predict(model, batch), found.labels)
    for row in range(5):
        tokens = spell_out(task, batch, row)
        for label, phrase in enumerate(task.bank.vocabulary.label_phrases):
            total, is_first = ask_alone(model, tokens, phrase)
            assert found.labels[row, label].item() == pytest.approx(total, abs=1e-3)
            assert found.is_first[row, label].item() == is_first


def test_what_is_said_of_itself_is_what_counts_in_the_whole_vocabulary(saved, file, model):
    """A model taught to say one label after anything says it, and no other."""
    task = make_task(saved, file)
    all_phrases = task.bank.vocabulary.label_phrases
    said = next(label for label, phrase in enumerate(all_phrases) if 1 < len(phrase) == len(set(phrase)))
    wanted = all_phrases[said]
    follow = dict(zip(wanted, wanted[1:], strict=False))

    def say(module, args, given, output):
        ids = given["input_ids"][:, -output.logits.shape[1] :]
        next_ids = torch.tensor([follow.get(token, wanted[0]) for token in range(output.logits.shape[2])])
        output.logits = 9.0 * torch.nn.functional.one_hot(next_ids[ids], len(next_ids))
        return output

    hook = model.register_forward_hook(say, with_kwargs=True)
    batch = task.train_sampler.draw(0, 6)
    ends = [row[-1] in follow for row in task.form.list_prompts(task.bank, batch)]
    found = task.form.read_answers(task.bank, model, batch)
    assert found.is_first[:, said].tolist() == [not end for end in ends] and not all(ends)
    assert not found.is_first[:, [label for label in range(4) if label != said]].any()
    hook.remove()
    follow = dict.fromkeys(range(model.config.vocab_size), wanted[-1])  # its end alone is no label
    model.register_forward_hook(say, with_kwargs=True)
    assert not task.form.read_answers(task.bank, model, batch).is_first.any()


def test_the_loss_is_that_of_the_answer_s_tokens(saved, file, model):
    task = make_task(saved, file, {"template": "qa"})
    batch = task.train_sampler.draw(3, 4)
    inputs = task.encode(batch)
    answers = [task.bank.vocabulary.label_phrases[label] for label in batch.labels[:, -1].tolist()]
    totals = [ask_alone(model, spell_out(task, batch, row), answer)[0] for row, answer in enumerate(answers)]
    with torch.no_grad():
        loss = model(**inputs).loss
        torch.testing.assert_close(model(**keep_answers(model, inputs)).loss, loss)
    assert loss.item() == pytest.approx(-sum(totals) / sum(map(len, answers)), abs=1e-4)
    assert task.form.read_labels(task.bank, inputs) is None


def test_it_reads_as_it_was_written(saved, file):
    task = make_task(saved, file, {"template": "arrow", "start": "Sort:\n"})
    batch = task.train_sampler.draw(0, 1)
    tokenizer = task.bank.vocabulary.load_tokenizer()
    pairs = zip(batch.class_ids[0].tolist(), batch.exemplar_ids[0].tolist(), strict=True)
    texts = [task.bank.exemplar_names[class_id][number] for class_id, number in pairs]
    names = [LABELS[label] for label in batch.labels[0].tolist()]
    prompts = task.form.list_prompts(task.bank, batch)
    assert tokenizer.decode(prompts[0]) == (
        f"Sort:\n {texts[0]} -> {names[0]}\n {texts[1]} -> {names[1]}\n {texts[2]} ->"
    )
    assert count_unstable(task.bank, prompts) == (0, 1)
    assert [task.bank.vocabulary.name_label(label) for label in range(4)] == [f" {text}" for text in LABELS]


@pytest.mark.filterwarnings(
    "default::pytest.PytestUnraisableExceptionWarning"
)  # datasets 3 leaves a .csv open
def test_the_same_bank_from_every_file(saved, tmp_path):
    rows = make_rows()
    banks = [
        load_bank(settings(saved, write(tmp_path / f"a{end}", rows)))
        for end in (".csv", ".jsonl", ".parquet")
    ]
    assert all(bank.exemplar_names == banks[0].exemplar_names for bank in banks)
    assert all(bank.vocabulary.exemplar_phrases == banks[0].vocabulary.exemplar_phrases for bank in banks)
    assert banks[0].class_names == [f"class {k}" for k in range(4)]
    for k, texts in enumerate(banks[0].exemplar_names):
        assert sorted(texts) == sorted(row["text"] for row in rows if row["label"] == f"class {k}")


def test_classes_of_a_data_set_and_what_is_left_out(saved, tmp_path):
    """Names of numbered classes; empty, long, repeated texts and rows without a class are no exemplars."""
    texts = [
        "one bird",
        "  two\n birds ",
        "two birds",
        "",
        "x" * 60,
        None,
        "three birds",
        "four",
        "five",
        "six",
    ]
    numbers = [0, 0, 0, 0, 0, 0, 1, 1, 1, -1]
    features = datasets.Features(
        sentence=datasets.Value("string"), kind=datasets.ClassLabel(names=["sky", "sea"])
    )
    rows = {"sentence": texts, "kind": numbers}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    changes = {"text": "sentence", "label": "kind", "n_classes": 2, "n_exemplars": 2, "most_characters": 50}
    bank = load_bank(settings(saved, tmp_path / "a.parquet", **changes))
    assert bank.class_names == ["sea", "sky"] and bank.vocabulary.name_label(1) == " sky"
    assert set(bank.exemplar_names[1]) == {"one bird", "two birds"}
    with pytest.raises(BankError, match="class 'sky': 2 exemplars there, but n_exemplars = 3"):
        load_bank(settings(saved, tmp_path / "a.parquet", **changes | {"n_exemplars": 3}))


def test_holdout_classes_and_seeds(saved, file):
    one, two = (
        load_bank(settings(saved, file, n_classes=2, n_holdout_classes=1, seed=seed)) for seed in (0, 1)
    )
    assert one.labels.tolist() == [[0], [1], [-1]] and one.n_labels == 2
    assert one.exemplar_names != two.exemplar_names
    again = load_bank(settings(saved, file, n_classes=2, n_holdout_classes=1, seed=0))
    assert again.exemplar_names == one.exemplar_names


def test_what_cannot_be_is_told(saved, file, tmp_path):
    for changes, says in (
        ({"data": "nowhere.csv"}, "there is no such file"),
        ({"text": "body"}, "has no column 'body'; there are text, label. Set text."),
        ({"label": "stars"}, "has no column 'stars'"),
        ({"n_classes": 9}, "classes: 4 there, but n_classes = 9"),
    ):
        with pytest.raises((BankError, ConfigError), match=says.replace(".", r"\.")):
            load_bank(settings(saved, file, **changes))
    for changes, says in (
        ({"label_texts": ["a"]}, "each of the 4 training classes needs a text"),
        ({"label_texts": ["a b", "a  b", "b", "c"]}, "and all must differ"),
        ({"n_labels": 3}, "n_labels = 3: a class of texts is called by one name"),
        ({"labels_per_class": 2}, "labels_per_class = 2"),
    ):
        with pytest.raises(ConfigError, match=says):
            TextConfig(**settings(saved, file, **changes))
    with pytest.raises(BankError, match="the label 'a' is nothing, or another's text too"):
        _check_phrases(TextConfig(**settings(saved, file)), ["a", "b"], [(1,), (1,)])
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    with pytest.raises(BankError, match="cannot be loaded"):
        load_bank(settings(saved, broken))


def test_a_prompt_longer_than_the_window_and_heads_are_refused(saved, file, model):
    task = make_task(saved, file, {"template": "qa", "start": "A thing. " * 40})
    with pytest.raises(ConfigError, match=r"makes \d+ places .* reach to 200. Shorten"):
        task.check_model(model)
    with pytest.raises(ConfigError, match="heads are looked at where each exemplar and label is one token"):
        find_layout(make_task(saved, file), model, 2)


def test_evaluators_are_those_that_so_few_classes_allow(saved, file, model):
    few = make_task(saved, file, n_context=4)
    assert list(few.specs) == ["train", "icl", "flip"]
    with pytest.raises(ConfigError, match="too few classes"):
        config = few.config.replace(evaluators=("iwl",))
        Task(config, bank=few.bank).evaluators  # noqa: B018
    means = few.measure(model).means
    assert means.keys() >= {EVALUATORS["flip"].metric, "icl/accuracy", "train/accuracy"}
    row = next(compare_prompts(few, model, templates=["qa"], contexts=[2], n_sequences=5))
    assert row.n_labels == 4 and row.unstable == (0, 5)


def test_a_bank_of_texts_is_read_by_the_model_that_is_asked(saved, file):
    bank = {"kind": "texts", "data": str(file), "n_classes": 4, "n_exemplars": 5}
    config = RunConfig(task={"bank": bank}, model={"pretrained": str(saved)})
    assert config.task.bank.source == str(saved)
    asked = ask_of_model(None, [f"task.bank={json.dumps(bank)}"], str(saved))
    assert asked.task.bank.source == str(saved)
    with pytest.raises(ConfigError, match="a bank of kind texts needs a checkpoint"):
        RunConfig(task={"bank": bank})


def test_a_plan_of_texts_is_refused(saved, file):
    bank = settings(saved, file, n_classes=2, label_texts=LABELS[:2])
    task = {"bank": bank, "train": {"n_context": 2, "burst": 1}, "n_eval_sequences": 20}
    with pytest.raises(ConfigError, match="its prompts differ in length"):
        estimate(RunConfig(task=task, model={"pretrained": str(saved)}, training={"steps": 2}))


@pytest.mark.integration
def test_a_run_trains_on_texts(saved, file, tmp_path):
    """Its loss falls, its report names the texts, and no path of this machine is in its record."""
    config = RunConfig(
        task={
            "bank": settings(saved, file, n_classes=2, label_texts=LABELS[:2]),
            "train": {"n_context": 2, "burst": 1},
            "prompt": {"template": "arrow"},
            "n_eval_sequences": 20,
        },
        model={"pretrained": str(saved), "places": "interleaved"},
        training={"steps": 12, "batch_size": 8, "learning_rate": 1e-2},
        evaluate={"every": 6},
    )
    run = Run.create(config, tmp_path / "run")
    run.train()
    first, last = run.history.rows[0]["metrics"], run.history.rows[-1]["metrics"]
    assert last["train/loss"] < first["train/loss"]
    text = (run.folder / "run.json").read_text()
    assert str(file.parent) not in text and str(saved.parent) not in text and "local:mine.jsonl" in text
    assert Run.open(run.folder).config == config
    assert run.record().reads_tokens


@pytest.mark.integration
def test_a_data_set_on_the_hub_is_read_by_its_name(hub, launcher, saved):
    """Pushed as anyone pushes one, its classes by number and name; what is not there is a sentence."""
    rows = make_rows()
    done = launcher.run(f"""
        import datasets
        from hf_icl.banks import load_bank
        from hf_icl.errors import BankError
        rows = datasets.Dataset.from_list({rows!r}).class_encode_column("label")
        rows.push_to_hub("ann/reviews", config_name="short", split="test")
        settings = dict(kind="texts", source={str(saved)!r}, n_classes=3, n_exemplars=4, subset="short")
        bank = load_bank(settings | dict(data="ann/reviews", split="test"))
        told = []
        for wrong in (dict(data="ann/nowhere"), dict(data="ann/reviews", split="train")):
            try:
                load_bank(settings | wrong)
            except BankError as error:
                told.append(str(error))
        result = [bank.class_names, bank.exemplar_names, bank.facts["data"], told]
    """)
    names, texts, data, told = done
    mine = {name: {row["text"] for row in rows if row["label"] == name} for name in names}
    assert len(names) == 3 and data == "ann/reviews"
    assert all(set(found) <= mine[name] for name, found in zip(names, texts, strict=True))
    assert told[0].startswith("ann/nowhere: cannot be loaded")
    assert told[1].startswith("ann/reviews: cannot be loaded") and "test" in told[1]
