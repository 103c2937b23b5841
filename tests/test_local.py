"""Paths of this machine stand in no setting that is shown or published, wherever they were given."""

import json
import random
from pathlib import Path

import pytest

from hf_icl.experiments.claim import Claim, ClaimFile
from hf_icl.experiments.evidence import Evidence
from hf_icl.experiments.plan import plan_claims
from hf_icl.experiments.write import Judged, describe
from hf_icl.local import LOCAL_FILE, MARK, hide_paths, show_paths, write_paths
from hf_icl.runs.config import read_config

PLAIN = ("fixed", "gpt2", "EleutherAI/pythia-70m", "/", "~", " / ", "", "a{0}/b" * 900, None, 3, 0.5, True)


def make_tree(draw: random.Random, paths: list[str], depth: int = 0):
    """Return nested settings with paths and other values at any depth."""
    kind = draw.choice(("path", "plain", "mapping", "list") if depth < 4 else ("path", "plain"))
    if kind == "path":
        return draw.choice(paths)
    if kind == "plain":
        return draw.choice(PLAIN)
    inner = [make_tree(draw, paths, depth + 1) for _ in range(draw.randrange(4))]
    return inner if kind == "list" else {f"key{number}": value for number, value in enumerate(inner)}


def list_texts(tree) -> list[str]:
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tree] if isinstance(tree, str) else [text for one in inner for text in list_texts(one)]


@pytest.mark.parametrize("seed", range(50))
def test_no_path_is_shown_wherever_it_stands_and_each_comes_back(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "private" / "run").mkdir(parents=True)
    there = str(tmp_path / "private" / "run")
    paths = [there, f"{there}/new/x", "private/run", "./private/run", "~/private/run", "~/private/new"]
    config = {f"room{number}": make_tree(random.Random(100 * seed + number), paths) for number in range(4)}
    shown, hidden = hide_paths(config)
    assert not [text for text in list_texts(shown) if "private" in text]
    plain = [text for text in list_texts(config) if text not in paths]
    assert [text for text in list_texts(shown) if not text.startswith(MARK)] == plain
    assert sorted(hidden.values()) == sorted(text for text in list_texts(config) if text in paths)
    write_paths(tmp_path, hidden)
    assert show_paths(shown, tmp_path) == config
    assert (tmp_path / LOCAL_FILE).exists() == bool(hidden)


def test_a_name_is_a_path_only_where_one_may_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fixed").mkdir()
    config = {"task": {"bank": {"source": "fixed"}, "train": {"labels": "fixed"}}}
    shown, _ = hide_paths(config)
    assert shown == {"task": {"bank": {"source": "local:fixed"}, "train": {"labels": "fixed"}}}


def test_the_run_that_a_graft_takes_from_is_not_shown(tmp_path):
    graft = {"kind": "graft", "layers": [1], "source": str(tmp_path)}
    config = read_config({"training": {"interventions": [graft]}})
    shown, hidden = hide_paths(config.to_dict())
    assert str(tmp_path.parent) not in json.dumps(shown)
    write_paths(tmp_path, hidden)
    assert read_config(show_paths(shown, tmp_path)) == config


def test_what_is_written_of_a_claim_names_no_path(tmp_path):
    """Neither its base, nor what its arms set, nor why they could not be had."""
    base = tmp_path / "base.yaml"
    base.write_text("preset: fast\n")
    arm = {"training.interventions": [{"kind": "graft", "source": str(tmp_path / "run")}]}
    term = {"arm": "grafted", "metric": "icl/accuracy", "measure": "peak"}
    claim = Claim(
        id="mine", title="A", statement="B", source="C", fixed="2026-11-26", arms={"grafted": arm},
        criteria=[{"that": "D", "take": term, "above": 0.5}],
        scales={"laptop": {"base": str(base), "seeds": [0]}},
    )  # fmt: skip
    file = ClaimFile(claim, tmp_path / "mine.yaml", "0" * 64)
    why = f"its exemplars cannot be had: {tmp_path / 'run'}: is not there"
    plan = plan_claims([claim], "laptop")
    document = describe([Judged(file, "undecided", why, [], {})], Evidence(tmp_path / "runs"), plan)
    told = document["claims"][0]
    assert str(tmp_path) not in json.dumps(document)
    assert told["base"] == "local:base.yaml" and told["why"].endswith("local:run: is not there")
    assert told["settings"]["grafted"]["training.interventions"][0]["source"] == "local:run"
