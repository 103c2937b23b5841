"""The parts of publishing, each alone: which steps, what waits, when to try again, state as plain data."""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from hf_icl.errors import ConfigError, HubError, RunError
from hf_icl.hub import outbox as outbox_module
from hf_icl.hub.contents import put_step
from hf_icl.hub.failures import asking, describe_failure, is_passing
from hf_icl.hub.outbox import Outbox
from hf_icl.hub.pusher import BackgroundPusher, Pusher, insist
from hf_icl.hub.remote import Remote
from hf_icl.hub.state import read_plain, write_plain
from hf_icl.hub.target import Selection, Target
from hf_icl.runs.run import Run
from tests.test_runs import in_a_process, small_config, undisturbed  # noqa: F401  a run of 30 steps

httpx = sys.modules[HTTPError.__module__.partition(".")[0]]  # httpx, or httpx2 under huggingface_hub 2

# Which steps


@pytest.mark.parametrize(
    ("available", "count", "chosen"),
    [
        (range(1000, 17000, 1000), 5, [1000, 2000, 4000, 8000, 16000]),  # 1000 · 16^(i/4)
        ([10, 20, 30], 10, [10, 20, 30]),
        ([1, 2, 3, 100], 2, [1, 100]),
        ([5, 6, 7], 1, [7]),
        ([0, 4, 8], 3, [0, 4, 8]),
        ([7], 3, [7]),
        ([], 3, []),
    ],
)
def test_geometric_steps(available, count, chosen):
    assert Selection(max_revisions=count).choose(available) == chosen


@pytest.mark.parametrize("seed", range(20))
def test_geometric_steps_hold_first_and_last_within_the_cap(seed):
    rng = np.random.default_rng(seed)
    available = sorted({int(step) for step in rng.integers(1, 10**6, 200)})
    count = int(rng.integers(2, 30))
    chosen = Selection(max_revisions=count).choose(list(rng.permutation(available)))
    assert chosen[0] == available[0] and chosen[-1] == available[-1]
    assert len(chosen) <= count and chosen == sorted(set(chosen) & set(available))


SUMMARY = {
    "icl/accuracy": {"onset_step": 250, "peak_step": {"value": 400}, "half_decay_step": None, "peak": 0.9}
}


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (9, [200, 300, 400, 900]),  # around 250, at 400, and the last
        (3, [200, 400, 900]),  # the nearest first: 400 at a distance of 0, then 200 at 50
        (1, [900]),
    ],
)
def test_landmarks_are_surrounded(count, chosen):
    selection = Selection(steps="landmarks", max_revisions=count)
    assert selection.choose(range(100, 1000, 100), SUMMARY) == chosen


def test_landmarks_without_any_are_refused():
    with pytest.raises(ConfigError, match="no onset, peak or decay yet"):
        Selection(steps="landmarks").choose([1, 2], {"icl/accuracy": {"peak_step": None}})


def test_listed_steps_are_there_and_within_the_cap():
    assert Selection(steps=(30, 10, 10)).choose([10, 20, 30]) == [10, 30]
    with pytest.raises(ConfigError, match=r"no checkpoint at 15, 40\. There are: 10, 20, 30"):
        Selection(steps=(15, 10, 40)).choose([10, 20, 30])
    for steps in ("all", tuple(range(21))):
        with pytest.raises(ConfigError, match="21 revisions are more than max_revisions = 20"):
            Selection(steps=steps).choose(range(21))
    with pytest.raises(ConfigError, match="would take 2.50 GB"):
        Selection(max_gigabytes=2.4).check_size(2.5e9)
    Selection(max_gigabytes=2.6).check_size(2.5e9)


def test_a_target_is_kept_and_not_changed_by_accident(tmp_path):
    target = Target(repo_id="ann/a", selection={"steps": (1, 2)}, space="ann/page")
    target.save(tmp_path)
    assert Target.load(tmp_path) == target and Target.load(tmp_path / "elsewhere") is None
    with pytest.raises(ConfigError, match="is pushed to ann/a already"):
        Target(repo_id="ann/b").save(tmp_path)
    (tmp_path / ".hub.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        Target.load(tmp_path)
    with pytest.raises(ConfigError, match="repo_id"):
        Target(repo_id="a/b/c")


# What waits


def test_the_outbox_goes_out_in_order(tmp_path):
    box = Outbox(tmp_path)
    box.close({"README.md": b"card"}, message="Report", remove=["state"])
    for step in (900, 20_000, 8):
        box.put(step, {"a/b": str(step).encode()}, message=f"Step {step}")
    items = box.items()
    assert [item.tag for item in items] == ["step-00000008", "step-00000900", "step-00020000", None]
    assert [item.message for item in items] == ["Step 8", "Step 900", "Step 20000", "Report"]
    assert items[2].files["a/b"].read_text() == "20000" and items[3].remove == ("state",)
    assert box.steps == [8, 900, 20_000] and items[2].n_bytes == 5
    box.put(8, {"c": b"again"}, message="Step 8")
    assert list(box.items()[0].files) == ["c"]
    for item in box.items():
        box.done(item)
    assert box.items() == [] and box.names() == []


def test_what_waits_does_not_change_with_the_run(tmp_path):
    """It is linked, and still the same when the checkpoint is rotated away and the history grows."""
    weights = tmp_path / "checkpoint-8" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    Outbox(tmp_path).put(8, {"model.safetensors": weights}, message="Step 8")
    copy = Outbox(tmp_path).items()[0].files["model.safetensors"]
    assert os.path.samefile(copy, weights), "bytes were copied"
    shutil.rmtree(weights.parent)
    assert copy.read_bytes() == b"weights"


def test_where_links_cannot_be_made_files_are_copied(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "weights").write_bytes(b"w")
    Outbox(tmp_path).put(1, {"w": tmp_path / "weights"}, message="Step 1")
    assert Outbox(tmp_path).items()[0].files["w"].read_bytes() == b"w"


@pytest.mark.parametrize("when", ["_link", "write_text", "replace"])
def test_a_kill_leaves_an_item_whole_or_none(tmp_path, when):
    def put():
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        if when == "_link":
            outbox_module._link = die
        elif when == "write_text":
            outbox_module.Path.write_text = die
        else:
            os.replace = die
        Outbox(tmp_path).put(2, {"a": b"two", "w": tmp_path / "weights"}, message="Step 2")

    (tmp_path / "weights").write_bytes(b"w")
    Outbox(tmp_path).put(1, {"a": b"one"}, message="Step 1")
    assert in_a_process(put) == -signal.SIGKILL
    box = Outbox(tmp_path)
    assert box.names() == ["00000001"] and list(box.folder.glob(".*.tmp")), "it was not killed in the middle"
    box.close({"a": b"3"}, message="Report")
    box.tidy()
    assert box.names() == ["00000001"] and not list(box.folder.glob(".*.tmp"))


def test_a_kill_while_an_item_is_forgotten_leaves_no_half(tmp_path):
    def forget():
        shutil.rmtree = lambda path, **more: (
            path.name.endswith(".tmp") and path.exists() and os.kill(os.getpid(), 9)
        )
        Outbox(tmp_path).done(Outbox(tmp_path).items()[0])

    Outbox(tmp_path).put(1, {"a": b"one"}, message="Step 1")
    assert in_a_process(forget) == -signal.SIGKILL
    assert Outbox(tmp_path).items() == []


def test_a_full_disk_leaves_no_half(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"w")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outbox_module, "_link", full)
    with pytest.raises(RunError, match=r"No space left on device.*hf-icl push puts it there later"):
        Outbox(tmp_path).put(1, {"a": b"1", "w": tmp_path / "weights"}, message="Step 1")
    assert list(Outbox(tmp_path).folder.iterdir()) == []


def test_a_damaged_item_is_named(tmp_path):
    box = Outbox(tmp_path)
    box.put(1, {"a": b"1"}, message="Step 1")
    (box.folder / "00000001" / "item.json").write_text("[]")
    with pytest.raises(RunError, match="00000001: not a waiting push"):
        box.items()


# Trying again


def answer(status: int, said: str = "", **headers: str) -> Exception:
    """Return the client's error for an answer."""
    request = httpx.Request("POST", "http://hub")
    response = httpx.Response(
        status, headers={name.replace("_", "-"): text for name, text in headers.items()}, request=request
    )
    return HfHubHTTPError("no", response=response, server_message=said)


def try_with(*errors: Exception | None) -> tuple[list[float], int, str | None]:
    """Return the waits, the number of tries, and why it failed if it did,
    of a push whose client fails with these errors."""
    left, waits, tries = list(errors), [], []

    def push():
        tries.append(1)
        error = left.pop(0) if len(left) > 1 else left[0]
        with asking("ann/run"):
            if error is not None:
                raise error

    try:
        insist(push, wait=waits.append)
    except HubError as error:
        return waits, len(tries), str(error)
    return waits, len(tries), None


NO_JSON = json.JSONDecodeError("Expecting value", "<html>", 0)
PASSING = (408, 409, 412, 425, 429, 500, 501, 502, 503, 504, 520, 599)
LASTING = (400, 401, 402, 403, 404, 405, 410, 413, 415, 418, 422, 451)


def test_what_passes_is_tried_five_times_ever_later():
    for error in (*map(answer, PASSING), TimeoutError(), httpx.ConnectError("no"), ConnectionResetError(),
                  KeyError("sha"), TypeError("no"), AttributeError("no"), NO_JSON):  # fmt: skip
        waits, tries, trouble = try_with(error)
        assert (waits, tries) == ([1, 2, 4, 8], 5) and trouble == f"ann/run: {describe_failure(error)}"
    assert try_with(answer(503), TimeoutError(), None) == ([1, 2], 3, None)


def test_what_stays_is_tried_once():
    for error in (
        *map(answer, LASTING),
        ValueError("bad name"),
        ZeroDivisionError("a bug of the client"),
        FileNotFoundError(2, "gone"),
        ConfigError("public", False, "no"),
        OfflineModeIsEnabled("offline"),
    ):
        if isinstance(error, ConfigError):
            with pytest.raises(ConfigError):
                try_with(error)
            continue
        waits, tries, trouble = try_with(error)
        assert (waits, tries) == ([], 1) and trouble


def test_a_status_is_either_tried_again_or_said_to_be_in_vain():
    """Whatever the number: a message says what to do, and never both to try again and that it is in vain."""
    for status in range(400, 600):
        _, tries, trouble = try_with(answer(status))
        assert (tries == 5) == (status in (408, 409, 412, 425, 429) or status >= 500), status
        in_vain = "The same again would be refused again" in trouble
        assert in_vain == (tries == 1 and status not in (401, 402, 403, 404)), trouble


@pytest.mark.parametrize("said", ["x" * 10**6, "\x1b]0;mine\x07" * 99, "a\nb\nc", "hf_" + "a" * 30])
def test_what_a_server_says_is_cut_cleaned_and_masked(said):
    for error in (answer(400, said), RuntimeError(said), KeyError(said)):
        _, _, trouble = try_with(error)
        assert len(trouble) < 2_100 and "\x1b" not in trouble and "\n" not in trouble
        assert "hf_aaaa" not in trouble


@pytest.mark.parametrize(
    ("said", "wait"),
    [("7", 7), ("0.5", 0.5), ("86400", 300), ("-3", 1), ("soon", 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)],
)
def test_retry_after_is_honoured_up_to_five_minutes(said, wait):
    assert try_with(answer(429, Retry_After=said), None) == ([wait], 2, None)


def test_a_wait_that_is_cut_short_is_the_end():
    calls = []

    def push():
        calls.append(1)
        with asking("ann/run"):
            raise TimeoutError

    with pytest.raises(HubError):
        insist(push, wait=lambda seconds: True)
    assert calls == [1]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (answer(401), "does not know this token"),
        (
            answer(403, "You may not"),
            "may not write there. Make one with write access, then log in with: hf auth login. The Hub "
            "says: You may not",
        ),
        (
            answer(403, "Storage limit reached"),
            "the quota is used up. Free some space on the Hub, or push less. The Hub says: Storage limit "
            "reached",
        ),
        (answer(418), "the Hub answers 418"),
        (httpx.ConnectError("no"), "the Hub cannot be reached (ConnectError: no)"),
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set"),
        (FileNotFoundError(2, "No such file", "a.bin"), "on this machine, a.bin: No such file"),
        (NO_JSON, "no JSON, as from a login page or a proxy"),
        (
            answer(502, "<!DOCTYPE html><title>Bad gateway</title>"),
            "answers 502. Try again later. What answered",
        ),
        (AttributeError("'list' object has no attribute 'get'"), "not of the shape that it should have"),
        (RuntimeError("odd"), "the client gave up (RuntimeError: odd)"),
    ],
)
def test_troubles_are_said_in_a_sentence(error, says):
    assert says in describe_failure(error)


def test_what_the_client_hides_is_found():
    """It wraps failed uploads in RuntimeError and failed downloads in an error about its cache."""
    for outer in (RuntimeError("while uploading"), LocalEntryNotFoundError("not in the cache")):
        outer.__cause__ = answer(503)
        assert is_passing(outer) and "answers 503" in describe_failure(outer)
        outer.__cause__ = answer(401)
        assert not is_passing(outer) and "token" in describe_failure(outer)


class Api:
    """A Hub that makes commits in memory, and fails where told:
    order and threads are what is looked at here."""

    def __init__(self, errors=(), gate=None):
        self.errors, self.gate, self.commits, self.tags, self.trees = list(errors), gate, [], {}, [{}]

    @staticmethod
    def name(number):
        return f"{number:040x}"

    def repo_info(self, repo_id, repo_type):
        return SimpleNamespace(sha=self.name(len(self.commits)))

    def list_repo_refs(self, repo_id, repo_type):
        return SimpleNamespace(
            tags=[SimpleNamespace(name=tag, target_commit=commit) for tag, commit in self.tags.items()]
        )

    def list_repo_commits(self, repo_id, repo_type):
        titles = ["initial commit", *self.commits]
        return [SimpleNamespace(commit_id=self.name(n), title=title) for n, title in enumerate(titles)][::-1]

    def list_repo_tree(self, repo_id, repo_type, revision, recursive):
        for path, content in self.trees[int(revision, 16)].items():
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            yield RepoFile(path=path, size=len(content), oid=oid)

    def create_commit(self, repo_id, operations, commit_message, repo_type, parent_commit):
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.errors and (error := self.errors.pop(0)):
            raise error
        assert parent_commit == self.name(len(self.commits))
        self.commits.append(commit_message)
        added = {one.path_in_repo: Path(one.path_or_fileobj).read_bytes() for one in operations}
        self.trees.append(self.trees[-1] | added)
        return SimpleNamespace(oid=self.name(len(self.commits)))

    def create_tag(self, repo_id, repo_type, tag, revision, exist_ok):
        self.tags.setdefault(tag, revision)


def make_pusher(tmp_path, *steps, **more) -> Pusher:
    box = Outbox(tmp_path)
    for step in steps:
        box.put(step, {"a": b"%d" % step}, message=f"Step {step}")
    return Pusher(box, Remote("ann/run", api=Api(**more)), lambda: None, wait=lambda seconds: None)


def test_a_commit_that_fails_stops_those_after_it(tmp_path):
    pusher = make_pusher(tmp_path, 1, 2, 3, errors=[None, answer(403)])
    api = pusher.remote.api
    pusher.push_all()
    assert api.commits == ["Step 1"] and pusher.outbox.steps == [2, 3] and "write access" in pusher.trouble
    pusher.push_all()
    assert api.commits == ["Step 1", "Step 2", "Step 3"] and pusher.trouble is None
    assert pusher.published == {step: api.name(step) for step in (1, 2, 3)} and not pusher.outbox.names()


def test_whatever_the_client_raises_is_told_and_kept(tmp_path):
    pusher = make_pusher(tmp_path, 1, errors=[ZeroDivisionError("a bug")])
    pusher.push_all()
    assert "the client gave up (ZeroDivisionError: a bug)" in pusher.trouble and pusher.outbox.steps == [1]


def test_a_step_that_is_there_is_not_pushed_again(tmp_path):
    """By its tag, or by a commit whose tag an earlier process, or another machine, did not get to."""
    first, second = (make_pusher(tmp_path / name, 1, 2, 3) for name in ("here", "there"))
    api = second.remote.api = first.remote.api
    first.push_all()
    del api.tags["step-00000002"]
    second.push_all()
    assert api.commits == ["Step 1", "Step 2", "Step 3"] and second.trouble is None
    assert second.published == first.published == {step: api.name(step) for step in (1, 2, 3)}
    assert set(api.tags.values()) == set(first.published.values()) and not second.outbox.names()


def test_a_tag_on_another_commit_is_no_success(tmp_path):
    pusher = make_pusher(tmp_path, 1, 2)
    api = pusher.remote.api
    api.tags["step-00000001"] = api.name(0)  # as somebody else has put it
    pusher.push_all()
    assert "the tag step-00000001 is there already, on commit 00000000" in pusher.trouble
    assert not api.commits and pusher.outbox.steps == [1, 2] and not pusher.published


@pytest.mark.parametrize("how", ["refused", "taken and lost", "put elsewhere"])
def test_a_tag_that_is_not_there_keeps_its_step_waiting(tmp_path, how):
    """Though the commit is made: the next push makes none, and gives it its tag."""
    pusher = make_pusher(tmp_path, 1, 2)
    api = pusher.remote.api

    def create_tag(repo_id, tag, **more):
        if how == "refused":
            raise answer(403)
        if how == "put elsewhere":
            api.tags[tag] = api.name(0)

    api.create_tag = create_tag
    pusher.push_all()
    assert api.commits == ["Step 1"] and pusher.outbox.steps == [1, 2] and not pusher.published
    told = {"refused": "write access", "taken and lost": "is not there", "put elsewhere": "is there already"}
    assert told[how] in pusher.trouble
    del api.create_tag
    api.tags.clear()
    pusher.push_all()
    assert api.commits == ["Step 1", "Step 2"] and not pusher.outbox.names() and pusher.trouble is None


def test_a_commit_that_does_not_hold_what_was_sent_is_no_success(tmp_path):
    pusher = make_pusher(tmp_path, 1)
    api = pusher.remote.api
    create = api.create_commit

    def lose(*words, **more):
        made = create(*words, **more)
        api.trees[-1]["a"] = b"other"
        return made

    api.create_commit = lose
    pusher.push_all()
    assert "'a' is not as it was sent in commit" in pusher.trouble and pusher.outbox.steps == [1]


@pytest.mark.parametrize("round_", range(5))
def test_in_the_background_nothing_is_left_out(tmp_path, round_):
    """However puts and pushes fall together, `drain` returns when all that was put before is pushed."""
    pusher = make_pusher(tmp_path, 1)
    background = BackgroundPusher(pusher)
    background.start()
    for step in range(2, 30):
        pusher.outbox.put(step, {"a": b"%d" % step}, message=f"Step {step}")
        background.wake()
        if step % 7 == 0:
            assert background.drain(10) and {*pusher.published} == {*range(1, step + 1)}
    assert background.drain(10)
    assert pusher.remote.api.commits == [f"Step {step}" for step in range(1, 30)]
    background.stop()


def test_nobody_waits_for_a_push_longer_than_allowed(tmp_path):
    pusher = make_pusher(tmp_path, 1, gate=threading.Event())
    background = BackgroundPusher(pusher)
    background.start()
    assert not background.drain(0.05) and pusher.outbox.steps == [1]
    pusher.remote.api.gate.set()
    assert background.drain(10) and pusher.outbox.steps == []
    background.stop()


def test_what_is_no_push_error_reaches_the_one_who_waits(tmp_path):
    pusher = make_pusher(tmp_path, 1)
    pusher.prepare = lambda: 1 / 0  # a bug of ours
    background = BackgroundPusher(pusher)
    background.start()
    with pytest.raises(ZeroDivisionError):
        background.drain(10)


@pytest.mark.parametrize("status", [404, 503])
def test_a_repository_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(status):
    """The client has one error for a repository that is missing, and others for all else that says 404."""

    def repo_info(**words):
        raise answer(status)

    with pytest.raises(HubError):
        Remote("ann/run", api=SimpleNamespace(repo_info=repo_info)).find()


# State as plain data


def test_the_state_of_a_trainer_comes_back_bit_for_bit(undisturbed, tmp_path):  # noqa: F811
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        source = undisturbed / "checkpoint-30" / name
        write_plain(source, tmp_path / name)
        assert {path.suffix for path in tmp_path.glob(f"{name}.*")} == {".json", ".safetensors"}
        read_plain(tmp_path / name, tmp_path / name)
        same(*(torch.load(path, weights_only=False) for path in (source, tmp_path / name)))


@pytest.mark.parametrize("core", ["core", "_core"])
def test_random_state_is_read_whichever_numpy_wrote_it(tmp_path, core):
    saved, renamed = tmp_path / "saved.pth", tmp_path / "rng_state.pth"
    state = np.random.RandomState(3).get_state()
    torch.save({"numpy": state}, saved)
    with ZipFile(saved) as source, ZipFile(renamed, "w") as target:
        for name in source.namelist():
            written = re.sub(rb"cnumpy\._?core\.", f"cnumpy.{core}.".encode(), source.read(name))
            assert not name.endswith("data.pkl") or f"cnumpy.{core}.multiarray".encode() in written
            target.writestr(name, written)
    write_plain(renamed, tmp_path / "plain")
    read_plain(tmp_path / "plain", tmp_path / "back.pth")
    same(torch.load(tmp_path / "back.pth", weights_only=False), {"numpy": state})


def same(one, two) -> None:
    assert type(one) is type(two) or isinstance(one, dict)
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two)
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype and np.array_equal(one, two)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        [same(one[key], two[key]) for key in one]
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        [same(a, b) for a, b in zip(one, two, strict=True)]
    else:
        assert one == two


@pytest.mark.parametrize(
    "value",
    [
        {0: (torch.ones(2), [None, True, 1, 0.1, "x"]), "b": {"c": ()}},
        torch.arange(3, dtype=torch.bfloat16),
        [torch.zeros(0), torch.tensor(5)],
        OrderedDict(a=1),
        1e-320,
        -0.0,
    ],
)
def test_plain_data_round_trips(tmp_path, value):
    torch.save(value, tmp_path / "a.pt")
    write_plain(tmp_path / "a.pt", tmp_path / "b.pt")
    read_plain(tmp_path / "b.pt", tmp_path / "c.pt")
    same(value, torch.load(tmp_path / "c.pt", weights_only=False))


@pytest.mark.parametrize("value", [{"a": SimpleNamespace()}, {1, 2}, torch.nn.Linear(1, 1), 1 + 2j])
def test_other_objects_are_refused_by_name(tmp_path, value):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(RunError, match="cannot be published as plain data"):
        write_plain(tmp_path / "a.pt", tmp_path / "b.pt")


@pytest.mark.parametrize(
    "skeleton", ['{"call": []}', '{"tensor": "9"}', '{"tensor": "0", "list": []}', "{}", "[" * 10_000, "{"]
)
def test_foreign_state_is_refused(tmp_path, skeleton):
    torch.save(torch.ones(1), tmp_path / "a.pt")
    write_plain(tmp_path / "a.pt", tmp_path / "a.pt")
    (tmp_path / "a.pt.json").write_text(skeleton)
    with pytest.raises(RunError, match="not a trainer state"):
        read_plain(tmp_path / "a.pt", tmp_path / "b.pt")


# From checkpoint to commit


def test_a_commit_holds_the_history_up_to_its_step(undisturbed, tmp_path):  # noqa: F811
    box = Outbox(tmp_path)
    put_step(box, undisturbed, undisturbed / "checkpoint-24")
    files = box.items()[0].files
    rows = [json.loads(line)["step"] for line in files["history.jsonl"].read_text().splitlines()]
    assert rows == [0, 4, 8, 12, 16, 20, 24]
    assert os.path.samefile(files["model.safetensors"], undisturbed / "checkpoint-24" / "model.safetensors")
    assert {path for path in files if path.endswith((".pt", ".pth", ".bin"))} == set()
    assert [path.name for path in box.folder.iterdir()] == ["00000024"]


@pytest.mark.parametrize("damage", ["part", "foreign"])
def test_a_checkpoint_that_cannot_be_published_does_not_stop_training(tmp_path, damage, caplog):
    from hf_icl.hub.publisher import PublishCallback

    run = Run.create(small_config("training.steps=12"), tmp_path / "run")
    woken = SimpleNamespace(wake=lambda: pytest.fail("there is nothing to push"))
    callback = PublishCallback(run.folder, [6], Outbox(run.folder), woken)
    put = callback.on_save

    def damaged(args, state, control, **kwargs):
        checkpoint = run.folder / f"checkpoint-{state.global_step}"
        whole = {name: (checkpoint / name).read_bytes() for name in ("scheduler.pt", "complete.json")}
        if damage == "part":
            (checkpoint / "scheduler.pt").write_bytes(b"")
        else:
            torch.save({"a": {1, 2}}, checkpoint / "scheduler.pt")
            names = json.loads((checkpoint / "complete.json").read_text())
            names["scheduler.pt"] = (checkpoint / "scheduler.pt").stat().st_size
            (checkpoint / "complete.json").write_text(json.dumps(names))
        put(args, state, control, **kwargs)
        for name, content in whole.items():
            (checkpoint / name).write_bytes(content)

    callback.on_save = damaged
    run.train(callbacks=[callback])
    assert run.is_finished and Outbox(run.folder).names() == []
    assert (
        "scheduler.pt has 0 bytes" if damage == "part" else "cannot be published as plain data"
    ) in caplog.text
