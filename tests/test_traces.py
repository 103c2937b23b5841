"""Models that are there already: what names of revisions say, which are chosen, and one model measured."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

from hf_icl.distributed import choose_device
from hf_icl.errors import BankError, ConfigError, HfIclError
from hf_icl.traces.choosing import choose, thin_out
from hf_icl.traces.loading import check_tokens, fingerprint, load_whole
from hf_icl.traces.names import RULES, Mark, find_tokens_per_step, read_name
from hf_icl.traces.questions import ask_of_model
from hf_icl.traces.sources import UnusableError, choose_files
from hf_icl.traces.subject import build_task, open_subject
from tests.series import BANK, SIZE, SMALL, save_model, save_series
from tests.small_lm import make_tokenizer

# Names as the series of PAPERS publish them, and what they say.
PUBLISHED = {
    "step0": Mark(0),
    "step143000": Mark(143000),
    "step1000-tokens4B": Mark(1000, 4 * 10**9),
    "step738020-tokens3094B": Mark(738020, 3094 * 10**9),
    "stage1-step140000-tokens294B": Mark(140000, 294 * 10**9, "stage1"),
    "stage2-ingredient3-step1000-tokens5B": Mark(1000, 5 * 10**9, "stage2-ingredient3"),
    "step-240000": Mark(240000),
    "stage3-step-4720000": Mark(4720000, None, "stage3"),
    "ckpt_000": Mark(0),
    "ckpt_358": Mark(358),
    "checkpoint-600": Mark(600),
    "step-00012000": Mark(12000),
}
UNKNOWN = (
    "main|step|step-|stepx|step10-tokens|step10-tokens5|v1.0|step1000 |xstep1000|step1000\n"
    "|lc-4k-to-32k-step-4000|it-SFT|step-1000-tokens4B|STEP10|step१०|refs/pr/1|stage1-ingredient2-step-5|step"
    + "9"
    * 16
).split("|")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(SIZE)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with three checkpoints of a language model."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_series(folder, (10, 20, 30))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path_factory.getbasetemp() / "icl-cache"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_public_series_are_read(name):
    assert read_name(name) == PUBLISHED[name]


def test_no_other_name_says_anything():
    assert [name for name in UNKNOWN if read_name(name) is not None] == []


def test_each_example_is_read_by_its_own_rule_alone():
    for rule in RULES:
        assert [one.series for one in RULES if re.fullmatch(one.pattern, rule.example)] == [rule.series]


def test_tokens_of_a_step_are_known_of_one_series_alone():
    assert find_tokens_per_step("EleutherAI/pythia-14m-seed3") == 2_097_152
    assert (
        find_tokens_per_step("EleutherAI/gpt-neo-125m")
        is find_tokens_per_step("x/EleutherAI/pythia-1b")
        is None
    )


def test_all_known_names_are_chosen_by_stage_and_step():
    names = ["main", "stage1-step-40", "stage2-step-8", "stage1-step-4", "it-SFT", "step-7"]
    chosen = choose(names)
    assert list(chosen.marks) == ["stage1-step-4", "stage1-step-40", "stage2-step-8"]
    assert chosen.left_out.keys() == {"it-SFT", "step-7"}  # no word of main
    assert "no stage" in chosen.left_out["step-7"] and "no known form" in chosen.left_out["it-SFT"]


@pytest.mark.parametrize(
    ("names", "wanted", "kept", "left"),
    [
        (["step1", "step2", "x"], "step*", ["step1", "step2"], []),
        (["a/it5", "a/it7"], r"(?P<stage>\w)/it(?P<step>\d+)", ["a/it5", "a/it7"], []),
        (["step1", "step2"], "step2,step9", ["step2"], ["step9"]),
        (["v1", "v2"], ["v2=200", "v1=100"], ["v1", "v2"], []),
        (["step10", "step-10"], None, ["step-10"], ["step10"]),
        (["step10", "stage1-step-5"], "step10,stage1-step-5", ["step10", "stage1-step-5"], []),
    ],
)
def test_patterns_and_lists(names, wanted, kept, left):
    chosen = choose(names, wanted)
    assert list(chosen.marks) == kept and list(chosen.left_out) == left


@pytest.mark.parametrize(
    ("names", "wanted", "says"),
    [
        (["main", "v1"], None, "none of the 2 revisions (main, v1) is named in a known form"),
        (["v1"], "v*", "tells the step of none"),
        (["v1"], "v(?P<stp>.)", "has no group called step"),
        (["v1"], "v(?P<step>", "is no regular expression"),
        (["va"], "v(?P<step>.)", "holds 'a', which is no number"),
        (["v1x9Q"], r"v(?P<step>\d)x(?P<tokens>\w+)", "ends in 'Q'"),
        (["v1"], "v1", "Write v1=STEP"),
        (["step1"], "step8", "tells the step of none"),
        ([], None, "(none)"),
    ],
)
def test_nothing_is_guessed(names, wanted, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        choose(names, wanted)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 154])
def test_thinning_keeps_both_ends_of_every_stage(most):
    pythia = [0, *(2**i for i in range(10)), *range(1000, 144000, 1000)]
    marks = {f"s{stage}-{step}": Mark(step, None, stage) for stage in ("a", "b") for step in pythia}
    for stage in "ab":
        kept = [mark.step for mark in thin_out(marks, most).values() if mark.stage == stage]
        assert len(kept) <= most and kept == sorted(set(kept)) and kept[-1] == 143000
        assert most == 1 or kept[0] == 0


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([".gitattributes", "README.md"], "is empty"),
        (["config.json"], "holds no model"),
        (["config.json", "pytorch_model.bin"], "pickled"),
        (["model.safetensors"], "no config.json"),
    ],
)
def test_what_cannot_be_measured_says_why(names, says):
    with pytest.raises(UnusableError, match=says):
        choose_files(names)


def test_only_what_a_model_needs_is_taken():
    taken = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    taken += ["spiece.model", "tokenizer.json"]
    more = "optimizer.safetensors flax_model.msgpack README.md x.py ../model.safetensors "
    more += "pytorch_model.bin .model.safetensors original/model.safetensors"
    assert choose_files([*more.split(), *taken]) == taken
    whole = choose_files([*taken, "model.safetensors"])
    assert whole == ["config.json", "model.safetensors", "spiece.model", "tokenizer.json"]


# One model


def ask(folder, **options):
    return open_subject(str(folder), None, overrides=SMALL, **options)


def test_a_saved_language_model_is_measured_with_a_bank_of_its_own(saved, tokenizer):
    """The twin: its bank and its task built by hand, the model asked directly."""
    subject = ask(saved / "checkpoint-10")
    assert subject.task.bank.facts["source"] == "checkpoint-10" and subject.tokenizer == fingerprint(
        tokenizer
    )
    bank = {"kind": "vocabulary", "source": str(saved / "checkpoint-10"), **BANK}
    asked = {"task.bank": bank, "task.n_eval_sequences": 16, "task.evaluators": ["icl", "flip"]}
    config = ask_of_model(None, asked, "unused")
    means, hits = build_task(config).measure(load_whole(saved / "checkpoint-10"))
    found = subject.measure()
    assert found.means == means and found.hits.keys() == hits.keys()
    assert ask(saved, checkpoint="checkpoint-20").measure().means != means


def test_another_tokenizer_of_the_same_size_is_refused_by_name(saved, tokenizer, tmp_path):
    other = save_model(tmp_path / "other", 1, tokenizer=_shuffle(tokenizer))
    task = tmp_path / "task.yaml"
    task.write_text(
        json.dumps({"task": {"bank": {"kind": "vocabulary", "source": str(saved / "checkpoint-10"), **BANK}}})
    )
    with pytest.raises(
        BankError, match="another tokenizer than that of the bank, which was made from checkpoint-10"
    ):
        ask(other, task=str(task))
    assert ask(saved / "checkpoint-30", task=str(task)).tokenizer == fingerprint(tokenizer)
    assert ask(other).tokenizer != fingerprint(tokenizer)


def _shuffle(tokenizer):
    """Return a tokenizer with the same texts under other ids."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    names = list(vocab)[300:]
    vocab |= dict(zip(names, [vocab[name] for name in names[::-1]], strict=True))
    return type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(state)))


def test_what_stands_before_a_text_must_be_the_same(saved, tokenizer):
    bank = ask(saved / "checkpoint-10").task.bank
    begun = SimpleNamespace(names=bank.vocabulary.names, prefix=(0,))
    with pytest.raises(BankError, match=r"puts \[\] before a text"):
        check_tokens(SimpleNamespace(vocabulary=begun, facts={}), tokenizer, "mine")


def test_a_model_without_a_tokenizer_is_refused_unless_its_own_is_named(saved, tmp_path):
    bare = save_model(tmp_path / "bare", 5)
    with pytest.raises(BankError, match="comes without a tokenizer"):
        ask(bare)
    named = open_subject(str(bare), None, overrides=[*SMALL, f"task.bank.source={saved / 'checkpoint-10'}"])
    assert named.tokenizer is None and "icl/accuracy" in named.measure().means


def test_weights_that_would_be_made_up_are_no_model(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.0.attn.c_attn.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnusableError, match=r"lacks 1 of its weights \(transformer.h.0.attn.c_attn.weight\)"):
        load_whole(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UnusableError, match="cannot be loaded"):
        load_whole(folder)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["training.steps=3"], "training = {'steps': 3}: means nothing here"),
        (["evaluate.every=3"], "evaluate.every"),
        (["evaluate=3"], "must be a mapping"),
        (["tsk.seed=3"], "Did you mean task?"),
        (["task.bank.n_clases=3"], "Did you mean n_classes?"),
    ],
)
def test_settings_that_mean_nothing_are_refused(words, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        ask_of_model(None, words, "me/model")


def test_the_accelerator_is_taken_where_there_is_one(monkeypatch):
    assert choose_device() == torch.device("cpu") or torch.accelerator.is_available()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert choose_device() == torch.device("cuda")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"revision": "step1"}, "is a folder, which has no revisions"),
        ({"checkpoint": "checkpoint-9"}, "Checkpoints in .*: checkpoint-10, checkpoint-20, checkpoint-30"),
        ({"task": "default", "checkpoint": "checkpoint-10"}, "takes tokens, and this task gives vectors"),
        ({}, "holds neither a run nor a saved model"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(saved, options, says):
    overrides = [] if "task" in options else SMALL
    with pytest.raises(HfIclError, match=says):
        open_subject(str(saved), None, overrides=overrides, **options).measure()
