"""A Hub that cannot be trusted: the loopback Hub's answers, changed on the way by a seed.

A program for a process of its own that is pointed at the loopback Hub (`tests.launcher`); it prints figures.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import sys
import time
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils._http import default_client_factory, set_client_factory

from hf_icl.errors import HfIclError
from hf_icl.hub.bounds import MOST_ANSWER_BYTES, httpx
from hf_icl.hub.outbox import Outbox
from hf_icl.hub.publisher import list_revisions, make_pusher
from hf_icl.hub.pull import pull_run
from hf_icl.hub.remote import Remote
from hf_icl.hub.target import Target
from hf_icl.runs.run import Run

TEXTS = (
    "", ".", "..", "../../evil", "/etc/evil", "..\\evil", "C:\\evil", "nul\0.json", "model.safetensors",
    "\x1b]0;mine\x07", "\u202egnp", "\ud800", "a" * 5_000, "a/" * 2_000, "0" * 40, "0" * 64, "main",
    "step-00000008", "step-99999999999999999999", "hf_abcdefghijklmnopqrstuvwxyz", "<script>", "null",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), True, None)
BODIES = (
    b"", b"{}", b"null", b"[]", b"[1]", b"7", b'"text"', b"<html>log in</html>", b"\xff\xfe\x00", b"{",
    b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b'{"error": 1}', b"[{}]", b"\0" * 100_000,
)  # fmt: skip
STATUSES = (200, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 409, 410, 413, 416, 418, 429, 500, 503)
HEADERS = ("X-Repo-Commit", "ETag", "X-Linked-Etag", "X-Linked-Size", "Content-Length", "Content-Encoding",
           "Location", "Content-Range", "Link", "Retry-After", "X-Error-Code", "Content-Type")  # fmt: skip


def change(value: object, chance: random.Random) -> object:
    """Return JSON with one thing in it that is not as it was."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key, action = chance.choice([*value]), chance.random()
        if action < 0.15:
            return {name: item for name, item in value.items() if name != key}
        if action < 0.2:
            return value | {chance.choice(TEXTS): value[key]}
        return value | {key: change(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        where, action = chance.randrange(len(value)), chance.random()
        if action < 0.15:
            return value[:where] + value[where + 1 :]
        if action < 0.25:
            return value * chance.choice([2, 1_000])
        return [*value[:where], change(value[where], chance), *value[where + 1 :]]
    return chance.choice([*TEXTS, *NUMBERS, [], {}, [[]], {"a": {}}, value])


class Liar(httpx.BaseTransport):
    """Passes requests on, and changes some of the answers.

    Args:
        seed: What decides which, and how.
    """

    def __init__(self, seed: int):
        self.inner, self.chance = httpx.HTTPTransport(), random.Random(seed)
        self.share = self.chance.choice([0.05, 0.2, 0.6])
        self.n_changed = 0

    def handle_request(self, request):
        answer = self.inner.handle_request(request)
        body = answer.read()
        answer.close()
        headers = {name: text for name, text in answer.headers.items() if name != "transfer-encoding"}
        changed = httpx.Response(answer.status_code, headers=headers, content=body)
        if self.chance.random() >= self.share:
            return changed
        self.n_changed += 1
        return self.chance.choice(
            [self.lie, self.lie, self.lie, self.be_no_json, self.refuse, self.drop, self.cut, self.flip,
             self.flood, self.relabel]
        )(request, answer.status_code, headers, body)  # fmt: skip

    def lie(self, request, status, headers, body):
        try:
            body = json.dumps(change(json.loads(body), self.chance)).encode(errors="surrogatepass")
        except ValueError:
            return self.flip(request, status, headers, body)
        return httpx.Response(status, headers=_without_length(headers), content=body)

    def be_no_json(self, request, status, headers, body):
        return httpx.Response(status, headers=_without_length(headers), content=self.chance.choice(BODIES))

    def refuse(self, request, status, headers, body):
        body = self.chance.choice([body, b'{"error": "no"}', b"<html>"])
        return httpx.Response(self.chance.choice(STATUSES), headers=_without_length(headers), content=body)

    def drop(self, request, status, headers, body):
        kinds = (httpx.ReadTimeout, httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, OSError)
        raise self.chance.choice(kinds)("dropped")

    def cut(self, request, status, headers, body):
        where = self.chance.randint(0, len(body))

        def pieces():
            yield body[:where]
            raise httpx.RemoteProtocolError("peer closed connection")

        return httpx.Response(status, headers=headers, content=pieces())

    def flip(self, request, status, headers, body):
        if not body:
            return httpx.Response(status, headers=headers, content=body)
        where = self.chance.randrange(len(body))
        body = body[:where] + bytes([body[where] ^ self.chance.randint(1, 255)]) + body[where + 1 :]
        return httpx.Response(status, headers=headers, content=body)

    def flood(self, request, status, headers, body):
        """Send much more than was asked for, and drip it."""

        def pieces():
            for _ in range(3 * MOST_ANSWER_BYTES // 65_536):
                yield b" " * 65_536

        return httpx.Response(status, headers=_without_length(headers), content=pieces())

    def relabel(self, request, status, headers, body):
        name = self.chance.choice(HEADERS).lower()
        safe = [text for text in TEXTS if text.isascii() and text.isprintable()]
        text = self.chance.choice([*safe, "gzip", "-5", "99999999999", "nan", "9" * 400, "http://x/"])
        return httpx.Response(status, headers=headers | {name: text}, content=body)


def _without_length(headers: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name != "content-length"}


class Writes:
    """Takes note of files that are opened to be written, made or moved outside of some folders."""

    def __init__(self, *allowed: Path):
        self.allowed = ("/dev/", "/proc/", *(os.path.realpath(path) for path in allowed))
        self.outside: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event, words):
        if event == "open" and isinstance(words[0], str | bytes):
            if words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.look(words[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.look(words[1])
        elif event == "os.mkdir":
            self.look(words[0])

    def look(self, path):
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith(self.allowed):
            self.outside.append(place)


def ask(seed: int, folder: Path, repo: str, run: Path, models: list[str]) -> None:
    """Do one thing with the Hub, as commands do."""
    remote = Remote(repo)
    match seed % 4:
        case 0 | 1:
            chosen = [None, "step-00000016"][seed % 8 // 4]
            pulled = pull_run(repo, folder / "run", revision=chosen, max_gigabytes=0.01, max_seconds=60)
            assert pulled.load_model() is not None
            (model,) = pulled.folder.rglob("model.safetensors")
            assert hashlib.sha256(model.read_bytes()).hexdigest() in models, "another model"
        case 2:
            head = remote.find()
            if head is not None:
                remote.list_files(head.commit), remote.list_refs(), remote.list_commits()
                list_revisions(remote)
        case 3:
            shutil.copytree(run, folder / "mine")
            target = Target(repo_id=f"ann/fuzzed-{folder.name}", selection={"steps": "all"})
            pusher = make_pusher(Run.open(folder / "mine"), target)
            pusher.wait = lambda seconds: None
            before = pusher.outbox.names()
            pusher.push_all()
            assert pusher.trouble or not pusher.outbox.names()
            set_client_factory(default_client_factory)
            left = pusher.outbox.names()
            assert left == before[len(before) - len(left) :]
            again = make_pusher(Run.open(folder / "mine"), target)
            again.push_all()
            assert (
                Outbox(folder / "mine").names() == []
                or "tag" in again.trouble
                or "is there already" in (again.trouble)
            ), again.trouble


def fuzz(first: int, count: int, folder: str, repo: str, run: str, models: list[str]) -> dict[str, object]:
    """Return figures: what was tried, refused in a sentence, accepted, and what went wrong."""
    root = Path(folder)
    cache, writes = Path(constants.HF_HUB_CACHE), Writes(root, Path(constants.HF_HOME))
    time.sleep = lambda seconds: None  # the client waits between its tries
    found = {"tried": 0, "refused": 0, "accepted": 0, "changed": 0, "longest": 0.0}
    wrong: list[str] = []
    for seed in range(first, first + count):
        here = root / str(seed)
        here.mkdir()
        shutil.rmtree(cache, ignore_errors=True)
        liar = Liar(seed)
        set_client_factory(
            lambda liar=liar: httpx.Client(
                transport=liar, follow_redirects=True, event_hooks={"request": [], "response": []}
            )
        )
        begun = time.monotonic()
        try:
            ask(seed, here, repo, Path(run), models)
            found["accepted"] += 1
        except HfIclError as error:
            found["refused"] += 1
            if set(os.listdir(here)) - {"mine"}:
                wrong.append(f"{seed}: left {os.listdir(here)}")
            if not str(error).isprintable() and "\n" not in str(error):
                wrong.append(f"{seed}: says {str(error)!r}")
        except BaseException as error:
            wrong.append(f"{seed}: {type(error).__name__}: {str(error)[:300]}")
        found["longest"] = max(found["longest"], time.monotonic() - begun)
        found["tried"] += 1
        found["changed"] += liar.n_changed
        shutil.rmtree(here)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found | {"wrong": wrong, "outside": writes.outside, "peak_bytes": memory}
