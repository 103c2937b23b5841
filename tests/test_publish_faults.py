"""What goes wrong on the way to the Hub changes nothing in training, is said plainly,
and is made good by the next push.

Each case trains a run that publishes five revisions under a server that was told to fail, then pushes again
without the fault. What is to be seen stands in the table of docs/hub.md, which is read here.
"""

import json
import re

import pytest

from hf_icl.hub.outbox import Outbox
from hf_icl.runs.run import Run
from tests.programs import ROOT
from tests.publishing import MESSAGES, TAGS, assert_same_publication, assert_trained_as, published, train

ALWAYS = {"path": ".", "times": None}
ONCE = [
    {"path": "/api/models/", "method": "GET", "status": 500},
    {"path": "/preupload/", "status": 502},
    {"path": "/commit/", "status": 503},
    {"path": "/tag/", "status": 429, "headers": {"Retry-After": "1"}},
    {"path": "/[0-9a-f]{64}/", "method": "PUT", "first": 4, "cut_received": 1000},
    {"path": "/commit/", "first": 4, "cut_sent": 0},
]
FAULTS = {
    "500, 502, 503, 429 and a cut connection, each once": ONCE,
    "a commit from elsewhere in between": "foreign",
    "409 once": [{"path": "/commit/", "first": 2, "status": 409}],
    **{f"{status} for ever": [ALWAYS | {"status": status}] for status in (500, 502, 503)},
    "409 for ever": [{"path": "/commit/", "times": None, "status": 409}],
    "429 for ever, Retry-After an hour": [ALWAYS | {"status": 429, "headers": {"Retry-After": "3600"}}],
    "every upload cut in the middle": [{"path": ".", "method": "PUT", "times": None, "cut_received": 1000}],
    "no network from start to end": "no network",
    "401: a token that is not one": "hf_thisIsNoTokenThisIsNoToken",
    "401: no token": None,
    "403: a token that may only read": "ann/read",
    "404: the repository is deleted while training runs": "deleted",
    "the quota is full": "quota",
    "a slow server, 1 KB/s": [ALWAYS | {"rate": 1000}],
}
FAST = ("500, 502, 503, 429 and a cut connection, each once", "no network from start to end")
SECONDS = {"no network from start to end": "1", **dict.fromkeys(FAST[:1], "60")}


def read_table():
    """Return the rows of the table in docs/hub.md: fault to the other cells."""
    lines = (ROOT / "docs/hub.md").read_text().split("| fault |")[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {fault: cells for fault, *cells in rows}


def assert_no_token(hub, launcher, *folders):
    """Look for the tokens in every file that a command wrote: run folders, outputs, caches,
    and the repositories."""
    secrets = [token.encode() for token in (*hub.tokens.values(), FAULTS["401: a token that is not one"])]
    for folder in (*folders, launcher.scratch, hub.folder):
        for path in (path for path in ROOT.joinpath(folder).rglob("*") if path.is_file()):
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


def test_the_table_tells_of_every_fault():
    assert list(read_table()) == list(FAULTS)


@pytest.mark.integration
@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FAULTS]
)
def test_training_ends_with_everything_on_disk(hub, launcher, publication, tmp_path, fault):
    how, repo, user = FAULTS[fault], f"ann/fault-{list(FAULTS).index(fault)}", "ann/write"
    words, code, waiting, there, _ = read_table()[fault]
    waits = 3 if code == "3" and how != "quota" else 60
    if isinstance(how, list):
        for one in how:
            hub.fault(**one)
    elif how == "no network":
        hub.stop()
    elif how == "deleted":
        hub.fault("/commit/", first=3, delete_repo=f"model {repo}")
    elif how == "foreign":
        hub.fault(
            "/commit/", first=2, foreign_commit={"repo": f"model {repo}", "files": {"theirs.txt": "theirs"}}
        )
    elif how == "quota":
        repo, user = repo.replace("ann", "bob"), "bob/write"
        hub.quota(120_000)  # a first revision takes 57 KB, each further one 50 KB
    else:
        user = how
    more = ["--push", repo, "--revisions", "all", "--push-wait", str(waits)]
    ended = train(launcher, tmp_path, *more, user=user)
    if how == "no network":
        hub.start()
    run = tmp_path / "run"
    # what the table says
    assert ended.code == int(code), ended
    assert all(text in ended.out for text in re.findall("`(.*?)`", words)), ended.out
    assert len(Outbox(run).names()) == int(waiting), ended.out
    state = hub.repo(f"model {repo}")
    assert (len(state.tags) if state else 0) == int(there)
    # everything on disk, and said so
    assert Run.open(run).is_finished and "Traceback" not in ended.out + ended.err
    assert_trained_as(run, publication.twin)
    assert f"On the Hub, {repo}: {there} revisions" in ended.out
    if int(waiting):
        assert f"Not on the Hub: {waiting} commits wait in run/.outbox." in ended.out
        assert "Everything is on disk. Push the rest with: hf-icl push run" in ended.out
    # the next push
    hub.reset()
    user = "bob/write" if how == "quota" else "ann/write"
    again = launcher.hf_icl("push", "run", folder=tmp_path, user=user)
    assert again.code == 0 and not Outbox(run).names(), again
    found = published(hub, repo)
    if how == "deleted":
        assert found.tags == TAGS[2:] and found.messages == [MESSAGES[0], *MESSAGES[3:]]
        assert json.loads((hub.repo(f"model {repo}").folder / "settings.json").read_text())["private"]
    elif how == "foreign":
        assert found.tags == TAGS and found.files["main"]["theirs.txt"] == b"theirs"
        assert sorted(found.messages) == sorted([*MESSAGES, "From elsewhere"])
    else:
        assert_same_publication(hub, repo, "ann/undisturbed")
    assert_no_token(hub, launcher, tmp_path)
