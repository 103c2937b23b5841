"""What is said to be on the Hub is there, by commit; and training goes on whatever the Hub answers."""

import json
import shutil

import pytest

from hf_icl.hub.outbox import Outbox
from hf_icl.runs.run import Run
from tests.publishing import (
    MESSAGES,
    TAGS,
    assert_trained_as,
    published,
)


@pytest.fixture
def run(publication, tmp_path):
    """Return a copy of a finished run that keeps its last two checkpoints and was never pushed."""
    shutil.copytree(publication.twin, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.integration
@pytest.mark.parametrize(
    "status", [409, *(pytest.param(status, marks=pytest.mark.slow) for status in (400, 403, 500))]
)
def test_a_refused_tag_keeps_its_step_and_makes_no_second_commit(hub, launcher, run, status):
    """409 is what the client takes for a tag that is there already."""
    repo = f"ann/untagged-{status}"
    hub.fault("/tag/", method="POST", status=status, times=None)
    words = ["push", "run", repo, "--revisions", "all", "--wait", "1"]
    ended = launcher.hf_icl(*words, folder=run.parent)
    assert ended.code == 3 and f"On the Hub, {repo}: 0 revisions" in ended.out, ended
    assert "Not on the Hub: 3 commits wait" in ended.out and len(Outbox(run).names()) == 3
    assert published(hub, repo).messages == MESSAGES[:1] + ["Step 32"]
    hub.reset()
    ended = launcher.hf_icl("push", "run", folder=run.parent)
    assert ended.code == 0 and not Outbox(run).names() and "2 revisions" in ended.out, ended
    found = published(hub, repo)
    assert found.messages == [MESSAGES[0], "Step 32", *MESSAGES[-2:]] and found.tags == TAGS[3:]


@pytest.mark.integration
def test_a_tag_on_another_commit_is_no_success(hub, launcher, run):
    code = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("ann/taken", private=True)
api.create_tag("ann/taken", tag="step-00000032")
"""
    assert launcher.start(code=code, folder=run.parent).wait().code == 0
    ended = launcher.hf_icl("push", "run", "ann/taken", "--revisions", "all", folder=run.parent)
    assert ended.code == 3 and "On the Hub, ann/taken: 0 revisions" in ended.out, ended
    assert "the tag step-00000032 is there already, on commit" in ended.out
    assert published(hub, "ann/taken").messages == MESSAGES[:1]
    delete = "from huggingface_hub import HfApi; HfApi().delete_tag('ann/taken', tag='step-00000032')"
    assert launcher.start(code=delete, folder=run.parent).wait().code == 0
    ended = launcher.hf_icl("push", "run", folder=run.parent)
    assert ended.code == 0 and "2 revisions" in ended.out, ended


@pytest.mark.integration
def test_two_machines_that_push_one_run_make_each_commit_once(hub, launcher, publication, tmp_path):
    """At the same time, each from a copy of its own: one of them commits, the other finds it there."""
    commands = []
    for machine in ("one", "two"):
        shutil.copytree(publication.twin, tmp_path / machine / "run")
        words = ["push", "run", "ann/twice", "--revisions", "all"]
        commands.append(launcher.start(*words, folder=tmp_path / machine))
    for command in commands:
        ended = command.wait()
        assert ended.code == 0 and "2 revisions" in ended.out, ended
    found = published(hub, "ann/twice")
    assert found.messages == [MESSAGES[0], *MESSAGES[-3:]] and found.tags == TAGS[3:]


@pytest.mark.integration
def test_what_is_no_longer_there_is_pushed_again(hub, launcher, publication, tmp_path):
    """A tag that somebody has deleted: its commit is there still, and gets it back."""
    shutil.copytree(publication.run, tmp_path / "run")
    (tmp_path / "run/.hub.json").unlink()
    words = ["push", "run", "ann/lost", "--revisions", "all"]
    assert launcher.hf_icl(*words, folder=tmp_path).code == 0
    before = published(hub, "ann/lost")
    delete = "from huggingface_hub import HfApi; HfApi().delete_tag('ann/lost', tag='step-00000040')"
    assert launcher.start(code=delete, folder=tmp_path).wait().code == 0
    ended = launcher.hf_icl("push", "run", folder=tmp_path)
    assert ended.code == 0 and published(hub, "ann/lost") == before, ended


SHAPES = [
    "{}",
    "null",
    "[]",
    "[1]",
    "7",
    '"text"',
    "<html>log in</html>",
    '{"error": 1}',
    "[{}]",
    '{"tags": 1}',
]
ENDPOINTS = {
    "who": "/api/models/[^/]+/[^/]+$",
    "create": "/api/repos/create",
    "refs": "/refs",
    "tree": "/tree/",
    "commits": "/commits/",
    "yaml": "/validate-yaml",
    "preupload": "/preupload/",
    "lfs": "/objects/batch",
    "commit": "/commit/",
    "tag": "/tag/",
    "all": ".",
}


def _cases():
    for number, where in enumerate(ENDPOINTS):
        for offset, shape in enumerate(SHAPES):
            chosen = where in ("who", "commit", "all") and offset == number % len(SHAPES)
            marks = [] if chosen else [pytest.mark.slow]
            yield pytest.param(where, shape, marks=marks)


@pytest.fixture(scope="module")
def begun(publication, launcher, tmp_path_factory):
    """Return a run that publishes, taken back to its middle, with one step waiting and none on the Hub."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(publication.twin, folder / "run")
    for name in ("complete.json", "model.safetensors", "config.json", "checkpoint-40"):
        path = folder / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder / "run"


@pytest.mark.integration
@pytest.mark.parametrize(("where", "shape"), [*_cases()])
def test_resume_trains_whatever_the_hub_answers(hub, launcher, begun, publication, tmp_path, where, shape):
    """JSON of the wrong shape, at one address or at all: no number changes, it is told, and what was not
    taken waits."""
    run, repo = tmp_path / "run", f"ann/shape-{where}-{SHAPES.index(shape)}"
    shutil.copytree(begun, run)
    target = {"repo_id": repo, "selection": {"steps": "all"}, "wait_seconds": 1}
    (run / ".hub.json").write_text(json.dumps(target))
    hub.fault(ENDPOINTS[where], status=200, times=None, body=shape)
    ended = launcher.hf_icl("resume", "run", folder=tmp_path)
    assert "Traceback" not in ended.out + ended.err and Run.open(run).is_finished, ended
    assert_trained_as(run, publication.twin)
    waiting = len(Outbox(run).names())
    assert ended.code == (3 if waiting else 0), ended
    assert (f"Not on the Hub: {waiting} commits wait" in ended.out) == bool(waiting)
    hub.reset()
    ended = launcher.hf_icl("push", "run", folder=tmp_path)
    assert ended.code == 0 and "2 revisions" in ended.out and not Outbox(run).names(), ended
    found = published(hub, repo)
    assert found.tags == TAGS[3:] and found.messages == [MESSAGES[0], *MESSAGES[-3:]]
