"""Presets: every one loads, and the fine-tuning one takes its classes from the model that is fine-tuned."""

import re
from pathlib import Path

import pytest

from hf_icl.errors import ConfigError
from hf_icl.runs.config import load_config
from hf_icl.runs.presets import FOLDER, list_presets

ROOT = Path(__file__).resolve().parents[1]
ADVICE = re.compile(r"(?<![\w.])([a-z_]+(?:\.[a-z_0-9]+)+=(?:'?\{[^}]*\}'?|[^\s,;`|]+))")
COMMAND = re.compile(r"hf-icl (?:run|plan|data show|data export|sweep|presets) ([a-z][\w.-]*)(?![\w/.])")


def list_advice(text: str) -> list[str]:
    """Return the settings that a text tells to set."""
    return [word.replace("'", "").rstrip(".)") for word in ADVICE.findall(" ".join(text.split()))]


def can_set(base: str, word: str) -> bool:
    try:
        load_config(base, [word])
    except ConfigError:
        return False
    return True


def join_comments(name: str) -> str:
    """Return the comment lines of a preset as one text."""
    lines = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_loads_and_says_what_it_is(name):
    assert load_config(name).training.steps > 0
    assert len(list_presets()[name]) > 20


@pytest.mark.parametrize("name", list_presets())
def test_what_a_preset_tells_to_set_can_be_set(name):
    text = join_comments(name)
    for word in list_advice(text):
        load_config(name, [word])
    assert {word for word in COMMAND.findall(text) if "." not in word} <= set(list_presets())
    for file in re.findall(r"docs/[\w.-]+\.md", text):
        assert (ROOT / file).exists(), file


def test_advice_is_found_where_it_stands():
    told = {name: list_advice(join_comments(name)) for name in list_presets()}
    assert told["coopetition-2l"] == [
        "task.bank={kind: features, source: FILE.npy, n_classes: 12800, n_holdout_classes: 128}"
    ]
    assert len(told["finetune"]) == 3 and told["gpt2-12x768"] == ["training.arguments.bf16=true"]
    assert list_advice("set task.bank={kind: features, path: FILE.npy}.") == [
        "task.bank={kind: features, path: FILE.npy}"
    ]


PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
PAGES.remove("docs/reproduction.md")  # settings of arms, set together: tests/test_claims_markdown.py


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_docs_exist(page):
    text = (ROOT / page).read_text("utf-8")
    for word in list_advice(text):
        assert any(can_set(base, word) for base in ("default", "omniglot-cpu", "finetune")), word


def test_classes_come_from_the_vocabulary_of_the_model_that_is_fine_tuned():
    assert load_config("finetune").task.bank.source == load_config("finetune").model.pretrained
    mine = load_config("finetune", ["model.pretrained=me/mine", "model.revision=step-5"])
    assert (mine.task.bank.source, mine.task.bank.revision) == ("me/mine", "step-5")
    other = load_config("finetune", ["model.pretrained=me/mine", "task.bank.source=you/yours"])
    assert other.task.bank.source == "you/yours"
    assert mine.replace(seed=3).task.bank.source == "me/mine"
    with pytest.raises(
        ConfigError, match=r"task.bank.source = None: .* Set it, or model.pretrained for both"
    ):
        load_config("finetune", ["model.pretrained=null"])
