"""Runs published on the loopback Hub: killed, resumed, pulled, measured again.
Every command is a process of its own."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub import ModelCard

from hf_icl.history.history import History
from hf_icl.hub.outbox import Outbox
from hf_icl.hub.target import Target
from hf_icl.runs.run import Run
from tests.programs import ROOT
from tests.publishing import (
    MESSAGES,
    SETTINGS,
    TAGS,
    assert_same_publication,
    assert_trained_as,
    published,
    train,
)


def test_every_checkpoint_is_a_revision(hub, publication):
    found = published(hub, "ann/undisturbed")
    assert found.tags == TAGS and found.messages == MESSAGES
    said = publication.ended.out
    assert "/ann/undisturbed, seen by its owners only. 5 revisions of about 0.0" in said
    assert "On the Hub, ann/undisturbed: 5 revisions" in said and "report and card." in said
    for tag in TAGS:
        rows = [json.loads(line) for line in found.files[tag]["history.jsonl"].splitlines()]
        assert (
            rows[-1]["step"] == int(tag[5:]) and "training_state/optimizer.pt.safetensors" in found.files[tag]
        )
    for path, content in found.files["main"].items():
        if path not in (".gitattributes", "README.md"):
            assert (publication.run / path).read_bytes() == content, path
    assert b'.from_pretrained("ann/undisturbed")' in found.files["main"]["README.md"]
    assert "report/index.html" in found.files["main"] and not any(
        path.startswith("training_state") for path in found.files["main"]
    )
    assert not Outbox(publication.run).names()


def test_publishing_changes_nothing_in_training(publication):
    assert_trained_as(publication.run, publication.twin)


def test_results_are_told_by_data_set_where_one_is_named(hub, launcher, publication, tmp_path):
    shutil.copytree(publication.twin, tmp_path / "run")
    ended = launcher.hf_icl(
        "push", "run", "ann/told", "--revisions", "40", "--dataset", "ann/rows", folder=tmp_path
    )
    assert ended.code == 0, ended.err
    files = published(hub, "ann/told").files["main"]
    results = {
        entry["dataset"]["task_id"]: entry for entry in yaml.safe_load(files[".eval_results/hf_icl.yaml"])
    }
    last = json.loads(files["history.jsonl"].splitlines()[-1])["metrics"]
    assert results["icl"]["value"] == last["icl/accuracy"] and results["icl"]["dataset"]["id"] == "ann/rows"
    assert ModelCard(files["README.md"].decode()).data.datasets == ["ann/rows"]


@pytest.mark.integration
def test_pushing_again_makes_no_commit(hub, launcher, publication):
    before = published(hub, "ann/undisturbed")
    for words in (["push", "run"], ["push", "run", "ann/undisturbed"], ["resume", "run"]):
        ended = launcher.hf_icl(*words, folder=publication.folder)
        assert ended.code == 0 and "5 revisions" in ended.out, ended
    assert published(hub, "ann/undisturbed") == before and not hub.requests("PUT")


@pytest.mark.integration
def test_killed_in_mid_push_a_run_ends_as_if_it_never_was(hub, launcher, publication, tmp_path):
    """Killed while a large file, a commit and a tag are on their way; then resumed,
    and pulled into an empty folder."""
    words = ["run", "default", *SETTINGS, "--output", "run", "--push", "ann/killed", "--revisions", "all"]
    for path, method, rate in (
        ("/models/ann/killed/[0-9a-f]{64}/", "PUT", 300), ("/commit/", "POST", 300), ("/tag/", "POST", 1),
    ):  # fmt: skip
        hub.reset()
        hub.fault(path, method=method, rate=rate, times=None)
        command = launcher.start(*words, folder=tmp_path)
        hub.wait_for(lambda: any(seen["fault"] and seen["received"] for seen in hub.requests()))  # noqa: B023
        assert command.kill().code == -9
        assert [seen["status"] for seen in hub.requests() if seen["fault"]] != [200], "the push was over"
        assert Outbox(tmp_path / "run").names(), "nothing was on its way"
        words = ["resume", "run"]
    hub.reset()
    ended = launcher.hf_icl(*words, folder=tmp_path)
    assert ended.code == 0 and "5 revisions" in ended.out, ended
    assert_same_publication(hub, "ann/killed", "ann/undisturbed")
    assert_trained_as(tmp_path / "run", publication.run)
    (tmp_path / "empty").mkdir()
    ended = launcher.hf_icl("pull", "ann/killed", "run", folder=tmp_path / "empty")
    assert ended.code == 0 and "finished" in ended.out, ended
    assert_trained_as(tmp_path / "empty" / "run", publication.run)


@pytest.mark.integration
def test_a_pulled_run_reports_resumes_and_evaluates(hub, launcher, publication, tmp_path):
    ended = launcher.hf_icl("pull", "ann/undisturbed", "run", "--revision", TAGS[1], folder=tmp_path)
    assert ended.code == 0 and "hf-icl resume run" in ended.out, ended
    run = Run.open(tmp_path / "run")
    assert not run.is_finished and [row["step"] for row in run.history.rows] == [0, 8, 16]
    assert launcher.hf_icl("report", "run", folder=tmp_path).code == 0
    ended = launcher.hf_icl("resume", "run", folder=tmp_path)
    assert ended.code == 0 and "On the Hub" not in ended.out, ended  # a pulled run is not pushed by itself
    assert_trained_as(tmp_path / "run", publication.run)
    ended = launcher.hf_icl("evaluate", "run", "--json", folder=tmp_path)
    measured = {name: found["value"] for name, found in json.loads(ended.out).items()}
    assert measured == run.history.rows[-1]["metrics"]


@pytest.mark.integration
def test_all_revisions_are_measured_again(hub, launcher, publication, tmp_path):
    ended = launcher.hf_icl("evaluate", "ann/undisturbed", "--all-revisions", folder=tmp_path)
    assert ended.code == 0, ended
    rows = [line.split("│") for line in ended.out.splitlines() if "step-" in line]
    assert [row[1].strip() for row in rows] == TAGS and {row[4].strip() for row in rows} == {"0"}
    ended = launcher.hf_icl("evaluate", "ann/undisturbed", "--json", folder=tmp_path)
    last = Run.open(publication.run).history.rows[-1]["metrics"]
    assert json.loads(ended.out)["icl/accuracy"]["value"] == last["icl/accuracy"]


@pytest.mark.integration
def test_revisions_that_do_not_agree_are_an_error(hub, launcher, publication, tmp_path):
    shutil.copytree(publication.run, tmp_path / "run")
    (tmp_path / "run" / ".hub.json").unlink()
    history = History(tmp_path / "run" / "history.jsonl")
    rows = list(history.rows)
    rows[-1]["metrics"]["icl/accuracy"] += 0.25
    history.restore(rows)
    assert launcher.hf_icl("push", "run", "ann/edited", folder=tmp_path).code == 0
    ended = launcher.hf_icl("evaluate", "ann/edited", "--all-revisions", folder=tmp_path)
    assert ended.code == 2 and "differs from the published history by up to 0.25" in ended.err


# Who sees it, and what is there already


@pytest.mark.integration
def test_who_sees_it_is_said_before_the_first_byte(hub, launcher, publication, tmp_path):
    shutil.copytree(publication.twin, tmp_path / "run")
    for repo, more, seen in (
        ("ann/hidden", [], "Private: the model repository {}/ann/hidden, seen by its owners only."),
        ("ann/open", ["--public"], "Public: the model repository {}/ann/open, seen by everyone."),
    ):
        hub.reset()
        (tmp_path / "run" / ".hub.json").unlink(missing_ok=True)
        hub.fault(
            "/api/", method="GET", delay=0.7
        )  # the first that is asked waits; what was said by then is looked at
        command = launcher.start("push", "run", repo, *more, folder=tmp_path)
        hub.wait_for(lambda: any(asked["fault"] for asked in hub.requests()))
        assert seen.format(hub.endpoint) in command.paths[0].read_text()
        assert {asked["method"] for asked in hub.requests()} == {"GET"}
        assert command.wait().code == 0
        settings = json.loads((hub.repo(f"model {repo}").folder / "settings.json").read_text())
        assert settings["private"] == (not more)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("repo", "more", "says"),
    [
        pytest.param(
            "ann/undisturbed", ["--public"], "there already and private, not public", marks=pytest.mark.slow
        ),
        ("ann/world", [], "there already and public, not private"),
        ("ann/undisturbed", [], "holds another run"),
    ],
)
def test_what_is_there_already_is_left_alone(hub, launcher, publication, tmp_path, repo, more, says):
    """Neither shown to more people than asked, nor mixed with another run;
    not even where reading it fails at first."""
    client = (
        "from huggingface_hub import HfApi; HfApi().create_repo('ann/world', private=False, exist_ok=True)"
    )
    assert launcher.start(code=client, folder=tmp_path).wait().code == 0
    before = hub.repo(f"model {repo}")
    hub.fault("/resolve/main/run.json", method="HEAD", status=503)
    other = [*SETTINGS, "seed=1", "training.steps=8"]
    ended = train(launcher, tmp_path, "--push", repo, *more, settings=other)
    assert ended.code == 3 and says in ended.out and "2 commits wait in run/.outbox" in ended.out, ended
    assert Run.open(tmp_path / "run").is_finished and hub.repo(f"model {repo}") == before


def test_a_run_goes_to_one_repository(launcher, publication):
    ended = launcher.hf_icl("push", "run", "ann/second", folder=publication.folder)
    assert ended.code == 2 and "is pushed to ann/undisturbed already" in ended.err


def test_two_processes_do_not_publish_one_run(publication, launcher):
    with Outbox(publication.run).lock():
        ended = launcher.hf_icl("push", "run", folder=publication.folder)
    assert ended.code == 2 and "another process is publishing it" in ended.err


# Which steps


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--revisions", "landmarks"], 2, "are known when the run is over"),
        (["--revisions", "8,12"], 2, "there is no checkpoint at 12. There are: 8, 16, 24, 32, 40."),
        (["--revisions", "all", "--max-revisions", "3"], 2, "5 revisions are more than max_revisions = 3"),
        (["--revisions", "often"], 2, "should be 'all', 'geometric' or 'landmarks'"),
        (["--revisions", "8,x"], 2, "For example 1000,2000"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_training(hub, launcher, tmp_path, words, code, text):
    ended = train(launcher, tmp_path, "--push", "ann/never", *words)
    assert ended.code == code and text in ended.err.replace("\n", " "), ended
    assert not (tmp_path / "run").exists() and not hub.requests()


def test_size_is_told_and_bounded(hub, launcher, publication, tmp_path):
    shutil.copytree(publication.twin, tmp_path / "run")
    settings = json.loads((publication.twin / "run.json").read_text())
    assert (
        settings["model_bytes"] * 3 * 2 > 50_000
    )  # two checkpoints, each a model and two numbers per weight
    Target(repo_id="ann/small", selection={"max_gigabytes": 5e-5}).save(tmp_path / "run")
    ended = launcher.hf_icl("push", "run", folder=tmp_path)
    assert ended.code == 2 and "these revisions would take 0.00 GB" in ended.err and not hub.requests()


@pytest.mark.slow
def test_listed_steps_and_landmarks_of_a_run_that_is_over(hub, launcher, tmp_path):
    settings = [*SETTINGS, "training.keep_checkpoints=null"]
    assert train(launcher, tmp_path, settings=settings).code == 0
    for repo, words, tags in (
        ("ann/listed", "16,40", [TAGS[1], TAGS[4]]),
        ("ann/landmarks", "landmarks", None),
        ("ann/geometric", "geometric", [TAGS[0], TAGS[4]]),
    ):
        (tmp_path / "run" / ".hub.json").unlink(missing_ok=True)
        ended = launcher.hf_icl(
            "push", "run", repo, "--revisions", words, "--max-revisions", "2", folder=tmp_path
        )
        assert ended.code == 0, ended
        found = published(hub, repo)
        assert found.tags == tags or (tags is None and 1 <= len(found.tags) <= 2 and TAGS[4] in found.tags)
        assert found.messages == [
            "initial commit",
            *(f"Step {int(tag[5:])}" for tag in found.tags),
            MESSAGES[-1],
        ]


# The page's own Space


@pytest.mark.integration
def test_a_space_shows_the_page(hub, launcher, publication, tmp_path):
    shutil.copytree(publication.twin, tmp_path / "run")
    hub.fault("/api/spaces/", status=403, times=None)
    words = ["push", "run", "ann/with-page", "--space", "ann/page"]
    ended = launcher.hf_icl(*words, folder=tmp_path)
    assert (
        ended.code == 3 and "The page is not on the Hub" in ended.out and hub.repo("space ann/page") is None
    ), ended
    hub.reset()
    for _ in range(2):
        ended = launcher.hf_icl("push", "run", folder=tmp_path)
        assert ended.code == 0 and f"Page: {hub.endpoint}/spaces/ann/page" in ended.out, ended
        space = hub.repo("space ann/page")
        assert space.files["index.html"] == (tmp_path / "run/report/index.html").read_bytes()
        assert len(space.commits) == 2  # the second push made none
    assert json.loads((space.folder / "settings.json").read_text())["private"]


@pytest.mark.integration
def test_the_example(hub, launcher, tmp_path):
    code = (ROOT / "examples/push_report.py").read_text()
    assert len(code.splitlines()) < 50
    words = ["ann/example", "--steps", "10"]
    ended = launcher.start(code=f"import sys; sys.argv[1:] = {words}\n{code}", folder=tmp_path).wait()
    assert ended.code == 0 and "The history on the Hub is that on disk: True" in ended.out, ended
    assert published(hub, "ann/example").tags == [f"step-{step:08d}" for step in (2, 4, 6, 8, 10)]


def test_state_on_the_hub_is_the_state_on_disk(hub, publication, tmp_path):
    """Optimizer, scheduler and random states come back bit for bit, though nothing pickled went up."""
    from hf_icl.hub.state import read_plain

    files = hub.repo("model ann/undisturbed", TAGS[4]).files
    assert not [path for path in files if path.endswith((".pt", ".pth", ".bin", ".pkl"))]
    for path, content in files.items():
        if path.startswith("training_state/"):
            (tmp_path / Path(path).name).write_bytes(content)
    checkpoint = publication.run / "checkpoint-40"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        read_plain(tmp_path / name, tmp_path / name)
        ours, theirs = (torch.load(folder / name, weights_only=False) for folder in (tmp_path, checkpoint))
        assert repr(ours) == repr(theirs)
    ours, theirs = (torch.load(folder / "optimizer.pt") for folder in (tmp_path, checkpoint))
    assert theirs["state"] and all(
        torch.equal(ours["state"][key][name], value)
        for key, state in theirs["state"].items()
        for name, value in state.items()
    )
    safetensors.torch.load(files["model.safetensors"])
