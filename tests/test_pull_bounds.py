"""How much of an answer of the Hub is taken in, of how many files, and for how long, is decided here."""

import gzip
import time
from types import SimpleNamespace

import pytest
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from hf_icl.errors import HubError
from hf_icl.hub.bounds import bounded, finish_within, httpx
from hf_icl.hub.pull import MOST_FILES, fetch_files
from hf_icl.hub.remote import RemoteFile


@pytest.fixture
def answer():
    """Return what lets the client get answers without a network: pieces, and headers."""
    asked = []

    def give(pieces, **headers):
        def handle(request):
            asked.append(request)
            return httpx.Response(200, headers=headers, content=iter(pieces))

        set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(handle)))
        return asked

    yield give
    set_client_factory(default_client_factory)


def fetch(n_times: int = 1) -> list[int]:
    return [len(get_session().get("http://hub/x").content) for _ in range(n_times)]


@pytest.mark.parametrize("size", [1, 7, 1_000, 65_536])
@pytest.mark.parametrize("most", [0, 999, 1_000, 100_000])
def test_no_more_bytes_come_in_than_are_allowed(answer, size, most):
    """Whatever the answer says of its length, in pieces of any size, over several answers."""
    answer([b"x" * size] * 3, **{"Content-Length": "1"})
    with bounded(most):
        if 3 * size <= most:
            assert fetch() == [3 * size]
        else:
            with pytest.raises(HubError, match="longer than it can be"):
                fetch()


def test_an_answer_without_end_is_not_read_to_its_end(answer):
    seen = []

    def pieces():
        while True:
            seen.append(1)
            yield b"x" * 1_000

    answer(pieces())
    with bounded(10_000), pytest.raises(HubError, match="longer than it can be"):
        fetch()
    assert len(seen) == 11


def test_all_answers_count_together_and_each_bound_for_itself(answer):
    answer([b"x" * 600])
    with bounded(1_000):
        assert fetch() == [600]
        with bounded(700):
            assert fetch() == [600]
        with pytest.raises(HubError, match="longer than it can be"):
            fetch()
    assert fetch(5) == [600] * 5  # outside, nothing is bounded
    hooks = get_session().event_hooks
    assert [len(hooks[kind]) for kind in ("request", "response")] == [1, 1]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "gzip, gzip", "x-unknown"])
def test_packed_answers_are_refused_and_plain_ones_asked_for(answer, coding):
    """Some kilobytes of them can hold gigabytes."""
    asked = answer([gzip.compress(b"0" * 1_000_000)], **{"Content-Encoding": coding})
    with bounded(), pytest.raises(HubError, match="packed"):
        fetch()
    assert asked[0].headers["Accept-Encoding"] == "identity"


def test_who_is_late_is_left():
    begun = time.monotonic()
    with pytest.raises(HubError, match="too late"):
        finish_within(0.05, lambda: time.sleep(4), "too late")
    assert time.monotonic() - begun < 3
    with pytest.raises(KeyError, match="mine"):
        finish_within(5, lambda: {}["mine"], "too late")
    assert finish_within(5, lambda: None, "too late") is None


def make_files(count: int, n_bytes: int) -> dict[str, RemoteFile]:
    return {f"model-{number}.safetensors": RemoteFile(n_bytes, "0" * 40) for number in range(count)}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (make_files(MOST_FILES + 1, 1), "holds 1,001 files of a run; 1,000 are the most"),
        (make_files(1, 1_000_001), "files take 0.001 GB, and 0.001 are allowed. Nothing was fetched"),
        (make_files(1_000, 1_001), "Nothing was fetched"),
        (make_files(2, 2**62), "Nothing was fetched"),
    ],
)
def test_too_many_or_too_large_files_are_refused_before_any_is_fetched(files, says):
    remote = SimpleNamespace(repo_id="ann/x", download=lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(HubError, match=says):
        fetch_files(remote, "0" * 40, files, 0.001)


def test_what_is_allowed_is_fetched():
    remote = SimpleNamespace(repo_id="ann/x", download=lambda name, file, commit: name)
    files = make_files(MOST_FILES, 1_000)
    assert fetch_files(remote, "0" * 40, files, 0.001) == {name: name for name in files}
