"""Models along their checkpoints, on the loopback Hub, named as public series name them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from hf_icl.history.history import History
from tests.series import SMALL, publish, save_model, save_series
from tests.small_lm import make_tokenizer

SERIES = {
    "pythia": ["step0", "step1", "step512", "step1000"],
    "olmo": ["step1000-tokens4B", "step2000-tokens8B", "step3000-tokens13B"],
    "smol2": ["step-125000", "step-250000"],
    "amber": ["ckpt_000", "ckpt_100", "ckpt_358"],
}
STAGED = ["stage1-step0-tokens0B", "stage1-step140000-tokens294B", "stage2-ingredient1-step1000-tokens5B"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return folders of models, each with other weights, by number."""
    folder = tmp_path_factory.mktemp("models")
    return save_series(folder, range(6), "model{}")


def rows_of(folder: Path, series: str):
    return list(History(folder / series / "history.jsonl").rows)


def trace(launcher, folder, *words, **options):
    return launcher.hf_icl("trace", *words, *SMALL, "--output", "trace", folder=folder, **options)


def put_series(hub, repo, names, models, kind="branch"):
    return publish(hub, repo, {name: (models[number], kind) for number, name in enumerate(names)})


@pytest.mark.slow
def test_a_series_is_traced_and_killed_in_the_middle_goes_on(hub, launcher, models, tmp_path):
    """Row for row what an undisturbed trace measures; nothing twice; nothing fetched is left."""
    names = SERIES["pythia"]
    commits = put_series(hub, "ann/pythia-14m", names, models)
    whole = trace(launcher, tmp_path, "ann/pythia-14m", "--tokens-per-step", "2097152")
    assert whole.code == 0, whole.err
    rows = rows_of(tmp_path / "trace", "pythia-14m")
    assert [row["step"] for row in rows] == [0, 1, 512, 1000]
    assert [row["tokens"] for row in rows] == [2_097_152 * row["step"] for row in rows]
    assert [(row["revision"], row["commit"]) for row in rows] == [(name, commits[name]) for name in names]
    assert not (tmp_path / "trace/.fetched").exists() and (tmp_path / "trace/report/index.html").exists()

    hub.reset()
    hub.fault(f"/resolve/{commits['step512']}/model.safetensors", method="HEAD", delay=30)
    folder = tmp_path / "killed"
    folder.mkdir()
    begun = trace_start(launcher, folder)
    hub.wait_for(lambda: any(asked["fault"] for asked in hub.requests()))
    assert begun.kill().code == -9
    assert [row["step"] for row in rows_of(folder / "trace", "pythia-14m")] == [0, 1]
    hub.reset()
    again = trace(launcher, folder, "ann/pythia-14m", "--tokens-per-step", "2097152")
    assert again.code == 0, again.err
    assert rows_of(folder / "trace", "pythia-14m") == rows
    asked = {
        commit for commit in commits.values() if hub.requests("HEAD", f"/resolve/{commit}/model.safetensors")
    }
    assert asked == {commits["step512"], commits["step1000"]}


def trace_start(launcher, folder):
    words = ["ann/pythia-14m", "--tokens-per-step", "2097152", *SMALL, "--output", "trace"]
    return launcher.start("trace", *words, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SERIES if name != "pythia"])
@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_each_public_form_is_traced(hub, launcher, models, tmp_path, name, kind):
    put_series(hub, f"ann/{name}-{kind}", SERIES[name], models, kind)
    ended = trace(launcher, tmp_path, f"ann/{name}-{kind}")
    assert ended.code == 0, ended.err
    rows = rows_of(tmp_path / "trace", f"{name}-{kind}")
    assert [row["revision"] for row in rows] == SERIES[name]
    told = [
        int(found[1]) * 10**9
        for found in (re.search("tokens([0-9]+)B", one) for one in SERIES[name])
        if found
    ]
    assert [row["tokens"] for row in rows] == (told or [None] * len(rows))
    by_tokens = trace(launcher, tmp_path, f"ann/{name}-{kind}", "--axis", "tokens")
    assert (by_tokens.code, "--tokens-per-step" in by_tokens.err) == ((0, False) if told else (2, True))


@pytest.mark.slow
def test_stages_are_series_of_their_own_and_seeds_are_replicas(hub, launcher, models, tmp_path):
    put_series(hub, "ann/olmo2", STAGED, models)
    assert trace(launcher, tmp_path, "ann/olmo2").code == 0
    document = json.loads((tmp_path / "trace/report/transience.json").read_text())
    assert {run["name"]: run["n_evaluations"] for run in document["runs"]} == {
        "olmo2-stage1": 2,
        "olmo2-stage2-ingredient1": 1,
    }
    assert document["groups"] == []
    seeds = [f"ann/pythia-14m-seed{seed}" for seed in (1, 2)]
    for number, repo in enumerate(seeds):  # main is empty, as PolyPythias' is
        put_series(hub, repo, ["step0", "step1000"], models[2 * number :])
    (tmp_path / "seeds").mkdir()
    ended = trace(launcher, tmp_path / "seeds", *seeds)
    assert ended.code == 0, ended.err
    document = json.loads((tmp_path / "seeds/trace/report/transience.json").read_text())
    assert [group["name"] for group in document["groups"]] == ["pythia-14m, seeds 1, 2"]


@pytest.mark.slow
def test_what_cannot_be_measured_is_said_and_skipped(hub, launcher, models, tmp_path):
    """Empty, twice the same commit, twice the same weights, main's weights too early, pickled, too large."""
    pickled = tmp_path / "pickled"
    shutil.copytree(models[3], pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    again = tmp_path / "again"
    shutil.copytree(models[0], again)
    (again / "README.md").write_text("---\nlicense: mit\n---\n")
    large = save_model(tmp_path / "large", 9, size=20_000, tokenizer=make_tokenizer())
    commits = publish(
        hub,
        "ann/odd",
        {
            "step5": (pickled, "branch"),
            "main": (models[5], "branch"),
            "step1": (models[0], "branch"),
            "step2": (None, "step1"),
            "step3": (again, "branch"),
            "step4": (models[5], "branch"),
            "step6": (large, "branch"),
            "step7": (models[2], "branch"),
            "final": (models[4], "branch"),
        },
    )
    publish(hub, "ann/odd", {"step8": (models[5], "branch")})
    wanted = ",".join(f"step{number}" for number in range(1, 10))
    ended = trace(launcher, tmp_path, "ann/odd", "--max-gb", "0.001", "--revisions", wanted)
    assert ended.code == 0, ended.err
    assert [row["step"] for row in rows_of(tmp_path / "trace", "odd")] == [1, 7, 8]
    skipped = {
        one["revision"]: one["why"]
        for one in json.loads((tmp_path / "trace/trace.json").read_text())["skipped"]
    }
    assert skipped.keys() == {f"step{number}" for number in (2, 3, 4, 5, 6, 9)} and commits
    for name, why in {
        "step2": "holds the weights of step1 again",
        "step3": "holds the weights of step1 again",
        "step4": "which is the end of training",
        "step5": "pickled",
        "step6": "0.001 are allowed",
        "step9": "no such revision",
    }.items():
        assert why in skipped[name] and re.search(rf"Left out: odd, {name}: .*{re.escape(why)}", ended.out), (
            name
        )


@pytest.mark.slow
def test_one_model_at_a_revision_and_each_error_is_a_sentence(hub, launcher, models, tmp_path):
    put_series(hub, "ann/plain", ["step1", "step2"], models)
    publish(hub, "ann/plain", {"bare": (save_model(tmp_path / "bare", 3), "branch")})
    values = []
    for revision in ("step1", "step2"):
        ended = launcher.hf_icl(
            "evaluate", "ann/plain", *SMALL, "--revision", revision, "--json", folder=tmp_path
        )
        assert ended.code == 0, ended.err
        values.append(json.loads(ended.out)["icl/loss"]["value"])
    assert values[0] != values[1]
    launcher.run("from huggingface_hub import HfApi\nHfApi().update_repo_settings('ann/plain', gated='auto')")
    for words, says, user in (
        (["ann/plain", "--revision", "step9"], "there is no such revision", "ann/write"),
        (["ann/plain"], "is empty: it holds no model", "ann/write"),
        (["ann/nothing"], "there is no such repository", "ann/write"),
        (["ann/plain", "--revision", "bare"], "comes without a tokenizer", "ann/write"),
        (["ann/plain", "--revision", "step1"], "it is gated. Ask for access", "bob/write"),
        (["ann/plain", "--checkpoint", "x"], "is a repository, which has revisions", "ann/write"),
    ):
        ended = launcher.hf_icl("evaluate", *words, *SMALL, folder=tmp_path, user=user)
        assert ended.code == 2 and says in ended.err and "Traceback" not in ended.err, ended
        assert ended.err.count("\n") < 8, ended.err
