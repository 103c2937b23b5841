"""How sequences are written for a language model: templates, their places, and what cannot be written."""

import json
import random
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hf_icl.banks import load_bank
from hf_icl.banks.embeddings import Checkpoint
from hf_icl.banks.tokenizer import find_prefix, load_tokenizer
from hf_icl.banks.words import choose_labels, is_word
from hf_icl.circuits.instrument import find_layout
from hf_icl.errors import BankError, ConfigError
from hf_icl.runs.config import RunConfig
from hf_icl.runs.folder import read_about, write_about
from hf_icl.runs.run import Run
from hf_icl.task.config import TaskConfig
from hf_icl.task.forms import exemplar_tokens, label_tokens
from hf_icl.task.prompt import count_unstable
from hf_icl.task.show import render_sequences
from hf_icl.task.task import Task
from hf_icl.task.written import TEMPLATES
from hf_icl.training.trainer import keep_answers
from tests.words_lm import CHAT, END, WORDS, save_model

COUNTS = {"n_classes": 6, "n_holdout_classes": 2, "n_exemplars": 3, "n_labels": 4}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory, cache):
    return save_model(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def started(tmp_path_factory, cache):
    return save_model(tmp_path_factory.mktemp("started"), start=True)


def make_task(folder, n_context=2, bank=None, **prompt):
    bank = {"kind": "vocabulary", "source": str(folder), **COUNTS, **(bank or {})}
    train = {"n_context": n_context, "burst": 1, "distractor": n_context > 1}
    given = {"prompt": prompt} if prompt else {}
    return Task(TaskConfig(bank=bank, train=train, n_eval_sequences=20, **given))


def read(task, batch):
    tokenizer = load_tokenizer(Checkpoint("", Path(task.config.bank.source)))
    return [tokenizer.decode(row) for row in task.form.prompt(task.bank, batch).tolist()]


def name(task, ids):
    return [task.bank.vocabulary.names[token] for token in ids.tolist()]


def test_bare_is_what_is_written_without_a_prompt(saved, started):
    for folder in (saved, started):
        plain, bare = make_task(folder), make_task(folder, template="bare")
        batch = plain.train_sampler.draw(0, 20)
        ours, theirs = plain.encode(batch), bare.encode(batch)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        exemplars, labels = exemplar_tokens(plain.bank, batch), label_tokens(plain.bank)[batch.labels]
        prefix = [0] if folder == started else []
        row = torch.stack([exemplars[3], labels[3]], dim=1).flatten().tolist()
        assert ours["input_ids"][3].tolist() == prefix + row


def test_each_template_reads_as_its_name_says(saved):
    task = make_task(saved, n_context=2)
    batch = task.train_sampler.draw(0, 1)
    (x1, x2, x3), (l1, l2, _) = (
        name(task, ids[0])
        for ids in (exemplar_tokens(task.bank, batch), label_tokens(task.bank)[batch.labels])
    )
    wanted = {
        "bare": f"{x1}{l1}{x2}{l2}{x3}",
        "arrow": f"{x1} ->{l1}\n{x2} ->{l2}\n{x3} ->",
        "colon": f"{x1}:{l1}\n{x2}:{l2}\n{x3}:",
        "qa": f"Q:{x1}\nA:{l1}\nQ:{x2}\nA:{l2}\nQ:{x3}\nA:",
    }
    assert wanted.keys() == TEMPLATES.keys()
    for template, text in wanted.items():
        assert read(make_task(saved, template=template), batch) == [text]
    assert read(make_task(saved, template="arrow", start="Sort:\n"), batch) == [f"Sort:\n{wanted['arrow']}"]
    own = {"template": "arrow", "between": " =", "after": ";"}
    assert read(make_task(saved, **own), batch) == [f"{x1} ={l1};{x2} ={l2};{x3} ="]
    pairs = ((x1, l1), (x2, l2))
    turns = "".join(f"<|user|>Q:{x}\nA:{END}\n<|assistant|>{label}{END}\n" for x, label in pairs)
    turns += f"<|user|>Q:{x3}\nA:{END}\n<|assistant|>"
    assert read(make_task(saved, template="qa", chat=True), batch) == [turns]
    asked = make_task(saved, template="qa", chat=True, start="Sort.")
    assert read(asked, batch) == [f"<|system|>Sort.{END}\n{turns}"]


@pytest.mark.parametrize("which", ["saved", "started"])
def test_places_hold_what_they_say_and_text_reads_back(which, request):
    """For any template, start, chat and length: labels, exemplars, the answer and the loss are where they are
    looked for, and the prompt's text is cut into the same tokens again."""
    folder, draw = request.getfixturevalue(which), random.Random(0)
    for _ in range(12):
        chosen = {"template": draw.choice(list(TEMPLATES)), "chat": draw.random() < 0.3}
        chosen["start"] = draw.choice(["", "Sort:\n", f"{END}\n", "Say what it is:"])
        n_context = draw.randint(1, 5)
        task = make_task(folder, n_context, **chosen)
        batch = task.train_sampler.draw(draw.randrange(1000), 4)
        inputs = task.encode(batch)
        exemplars, labels = exemplar_tokens(task.bank, batch), label_tokens(task.bank)[batch.labels]
        layout = find_layout(task, None, n_context)
        prompt = task.form.prompt(task.bank, batch)
        assert torch.equal(prompt[:, layout.exemplars], exemplars[:, :-1])
        assert torch.equal(prompt[:, layout.query], exemplars[:, -1])
        assert torch.equal(prompt[:, layout.labels], labels[:, :-1])
        assert layout.answer == prompt.shape[1] - 1 == inputs["input_ids"].shape[1] - 2
        assert (inputs["labels"][:, :-1] == -100).all()
        assert torch.equal(inputs["labels"][:, -1], labels[:, -1])
        context, right = task.form.read_labels(task.bank, inputs)
        assert torch.equal(context, labels[:, :-1]) and torch.equal(right, labels[:, -1])
        if not chosen["chat"]:
            assert prompt[0, : len(task.bank.vocabulary.prefix)].tolist() == list(task.bank.vocabulary.prefix)
        words = label_tokens(task.bank)
        written = task.form.template.fill(words[None, [0, 1, 2]], words[None, [3, 2]])
        assert count_unstable(task.bank, written) == (0, 1), chosen


def test_a_model_is_asked_where_the_answer_stands(saved):
    task = make_task(saved, template="qa")
    model = AutoModelForCausalLM.from_pretrained(saved).eval()
    batch = task.train_sampler.draw(0, 5)
    with torch.no_grad():
        whole = model(task.encode(batch)["input_ids"]).logits[:, -2]
        torch.testing.assert_close(task.predict(model, batch), whole[:, label_tokens(task.bank)])
        inputs = task.encode(batch)
        torch.testing.assert_close(model(**keep_answers(model, inputs)).loss, model(**inputs).loss)
    found = task.measure(model, instruments=[])
    assert set(found.means) >= {"icl/accuracy", "flip/context_accuracy"}


def test_prompts_that_read_back_as_other_tokens_are_counted(saved):
    """A word's beginning after another word is one longer word, to whoever reads the text."""
    task = make_task(saved)
    ids = load_tokenizer(Checkpoint("", Path(saved)))(" apple bird", add_special_tokens=False)["input_ids"]
    letters = load_tokenizer(Checkpoint("", Path(saved))).convert_tokens_to_ids(["Ġ", "a", "p"])
    prompts = torch.tensor([[ids[0], ids[1]], [letters[0], ids[1]]])
    assert len(ids) == 2 and count_unstable(task.bank, prompts) == (0, 2)
    broken = torch.tensor([[ids[0], ids[1], letters[1]], [*letters]])
    assert count_unstable(task.bank, broken) == (1, 2)


def test_shown_and_recorded(saved, tmp_path):
    config = RunConfig(
        task={
            "bank": {"kind": "vocabulary", "source": str(saved), **COUNTS},
            "train": {"n_context": 2, "burst": 1},
            "prompt": {"template": "arrow", "start": "Sort:\n"},
            "n_eval_sequences": 20,
        },
        model={"pretrained": str(saved)},
        training={"steps": 1, "batch_size": 2},
    )
    console = Console(width=300)
    with console.capture() as capture:
        console.print(render_sequences(make_task(saved, template="arrow", start="Sort:\n"), count=1))
    text = capture.get()
    assert "written as Sort:⏎ x -> l⏎ x -> l⏎ x ->" in text
    assert " of 200 prompts are other tokens" in text and "prompt: 'Sort:\\n" in text and " ->" in text
    run = Run.create(config, tmp_path / "run")
    recorded = json.loads((run.folder / "run.json").read_text())["config"]["task"]
    assert recorded["prompt"]["template"] == "arrow" and recorded["bank"]["tokens"] == "readable"
    assert Run.open(run.folder).config == config
    about = read_about(run.folder)
    del about["config"]["task"]["bank"]["tokens"], about["config"]["task"]["prompt"]
    write_about(run.folder, about)  # as an earlier version wrote it
    earlier = Run.open(run.folder).config.task
    assert earlier.bank.tokens == "any" and earlier.prompt is None


def test_texts_that_join_with_words(tmp_path, cache):
    """To a tokenizer of words between spaces, a sign at a word is another word, and a new line is nothing."""
    folder = save_model(tmp_path / "spaces", n_places=64)
    words = {word: number for number, word in enumerate(["<unk>", "=", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    for template in ("arrow", "colon", "qa"):
        with pytest.raises(ConfigError, match=f"prompt = '{template}': .* joins with the words"):
            make_task(folder, template=template)
    with pytest.raises(ConfigError, match="joins with the words"):
        make_task(folder, between="ing")
    with pytest.raises(ConfigError, match="joins with the words"):
        make_task(folder, between=" =", after="\n")
    task = make_task(folder, between=" =")
    assert task.form.template.between == (1,) and task.form.template.after == ()


def test_what_cannot_be_written_is_told(saved, tmp_path, cache):
    with pytest.raises(ConfigError, match="this task gives vectors"):
        Task(TaskConfig(prompt={"template": "arrow"}))
    symbolic = {"kind": "symbolic", "n_classes": 8, "n_labels": 3}
    with pytest.raises(ConfigError, match="no tokenizer that could write it"):
        Task(TaskConfig(bank=symbolic, form="tokens", prompt={"template": "arrow"}))
    for chat, says in (
        (None, "has no chat template"),
        ("{{ raise_exception('none') }}", "chat template refuses it"),
        (CHAT.replace("<|{{ message.role }}|>", "{{ loop.index }}"), "does not write all turns alike"),
    ):
        folder = save_model(tmp_path / says, chat=chat)
        with pytest.raises(ConfigError, match=says):
            make_task(folder, chat=True)
    model = AutoModelForCausalLM.from_pretrained(saved)
    task = make_task(saved, 4, template="qa", start="A word and another. " * 40)
    with pytest.raises(ConfigError, match=r"n_context = 4: makes \d+ places .* context or the prompt"):
        task.check_model(model)


class TestWords:
    def test_labels_are_words_unlike_one_another_and_exemplars(self, saved):
        """In every seed; by the definition of near, worked out pair by pair."""
        table = AutoModelForCausalLM.from_pretrained(saved).get_input_embeddings().weight.detach()
        unit = torch.nn.functional.normalize(table)
        for seed in range(6):
            bank = load_bank({"kind": "vocabulary", "source": str(saved), **COUNTS, "seed": seed})
            names, labels = bank.vocabulary.names, bank.vocabulary.label_tokens.tolist()
            assert all(is_word(names[token]) for token in labels)
            shown = labels + bank.rows.flatten().tolist()
            spelt = [names[token].strip().casefold() for token in labels]
            assert len(set(spelt)) == len(spelt)
            for token in bank.rows.flatten().tolist():
                assert names[token].isprintable() and names[token].strip() and "\ufffd" not in names[token]
                assert names[token].strip().casefold() not in spelt
            tokenizer = bank.vocabulary.load_tokenizer()
            readable = [t for t in range(len(table)) if t > 3 and names_readable(tokenizer, t)]
            for label in labels:
                others = [t for t in readable if t != label]
                nearest = max(others, key=lambda t: float(unit[label] @ unit[t]))
                assert nearest not in shown, (seed, names[label])

    def test_any_keeps_the_numbers_of_before(self, saved):
        old = load_bank({"kind": "vocabulary", "source": str(saved), **COUNTS, "tokens": "any"})
        names = list(old.vocabulary.names.values())
        assert not all(is_word(text) for text in names)
        config = {"task": {"bank": {"kind": "vocabulary", "source": str(saved), **COUNTS}}}
        assert RunConfig(**config, model={"pretrained": str(saved)}).task.bank.tokens == "readable"

    def test_too_few_words(self, saved):
        with pytest.raises(BankError, match=r"of its tokens are whole words .* 500 label tokens are needed"):
            load_bank({"kind": "vocabulary", "source": str(saved), **COUNTS, "n_labels": 500})

    def test_near_words_are_passed_over(self):
        """On a line: of two neighbours the first in order is taken, and one of two spellings."""
        names = {0: " one", 1: " two", 2: " three", 3: " One", 4: "ing", 5: " far"}
        vectors = torch.tensor([[0.0], [0.1], [5.0], [9.0], [5.3], [20.0]]).numpy()
        labels, left = choose_labels(torch.arange(6), vectors, torch.tensor([0, 1, 2, 3, 4, 5]), names, 6)
        # 1 is nearest to 0; 3 is 0 in capitals; 5's nearest is 3, which was not taken
        assert (labels.tolist(), left.tolist()) == ([0, 2, 5], [])
        names, vectors = {0: " one", 1: " two", 2: " three"}, torch.tensor([[0.0], [1.0], [1.5]]).numpy()
        labels, _ = choose_labels(torch.arange(3), vectors, torch.tensor([0, 1, 2]), names, 3)
        assert labels.tolist() == [0, 2]  # 1 is 0's neighbour, though 2 is nearer to 1


def names_readable(tokenizer, token):
    text = tokenizer.decode([token])
    return bool(text.strip()) and "\ufffd" not in text and text.strip(" ").isprintable()


def test_the_prefix_comes_from_the_tokenizer(started):
    assert find_prefix(load_tokenizer(Checkpoint("", Path(started)))) == (0,)
