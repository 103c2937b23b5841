"""The loopback Hub's sockets: requests in, answers out, with all that can go wrong in between.

Two addresses are served, as the real Hub has them: the Hub itself, and the storage to which it sends clients
for the bytes of large files. The second knows signed addresses instead of tokens, and refuses a token that
was sent to it.
"""

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Faults, Throttle
from .objects import Refusal
from .store import Store

LARGEST_BODY = 200 * 1024 * 1024  # of what is held in memory: everything but LFS uploads


@dataclass(frozen=True)
class User:
    """Whose token it was, and what that token may do: `read` or `write`."""

    name: str
    role: str
    organizations: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        """Return a token that looks like one and opens nothing but this server."""
        return "hf_" + hashlib.sha256(f"{self.name} {self.role}".encode()).hexdigest()[:34]

    def owns(self, namespace: str) -> bool:
        """Return whether a namespace is the user's own or that of their organization."""
        return namespace in (self.name, *self.organizations)


USERS = [
    User("ann", "write", ("lab",)),
    User("ann", "read", ("lab",)),
    User("bob", "write"),
]


@dataclass
class Seen:
    """A request as the log keeps it: no token, only whose it was. `status` 0: no answer,
    the connection was cut."""

    method: str
    path: str
    user: str | None = None
    status: int | None = None
    received: int = 0
    sent: int = 0
    fault: bool = False


@dataclass
class Answer:
    """What goes back: a status, headers, and bytes or the part [start, stop) of a file."""

    body: bytes | Path = b""
    status: int = 200
    headers: dict[str, str] | None = None
    start: int = 0
    stop: int | None = None

    @property
    def size(self) -> int:
        """Return the bytes that go out."""
        whole = self.body.stat().st_size if isinstance(self.body, Path) else len(self.body)
        return (whole if self.stop is None else self.stop) - self.start


def answer_json(data, status: int = 200, **headers: str) -> Answer:
    """Return an answer in JSON; an underscore in a header's name stands for a hyphen."""
    named = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    return Answer(json.dumps(data).encode(), status, named)


class Cut(Exception):
    """The connection is to be closed without a further word."""


class Hub:
    """The store, the users, the log and the two addresses.

    Args:
        folder: Where repositories lie.
        answer: What answers a request that no fault spoils (`routes.answer`).
        port: Port of the Hub's address, 0 for any that is free.
    """

    def __init__(self, folder: Path, answer: Callable[["Handler"], "Answer"], port: int = 0):
        self.answer = answer
        self.store, self.faults = Store(folder), Faults()
        self.users = {user.token: user for user in USERS}
        self.log: list[Seen] = []
        self.secret = secrets.token_bytes(16)
        self.servers = [self._listen(port, False), self._listen(0, True)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)

    def _listen(self, port: int, storage: bool) -> ThreadingHTTPServer:
        handler = type("HubHandler", (Handler,), {"hub": self, "storage": storage})
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        server.daemon_threads = True
        return server

    def serve(self) -> None:
        """Answer until the process ends."""
        threading.Thread(target=self.servers[1].serve_forever, daemon=True).start()
        self.servers[0].serve_forever()

    def sign(self, path: str) -> str:
        """Return a path of the storage with a signature, which opens it without a token."""
        return f"{path}?signature={hmac.new(self.secret, path.encode(), 'sha256').hexdigest()}"

    def requests(self) -> list[dict]:
        """Return the log; those still being answered have no status."""
        return [asdict(seen) for seen in list(self.log)]


class Handler(BaseHTTPRequestHandler):
    """One connection. `body()` and `save()` read what was sent, `reply()` answers."""

    hub: Hub
    storage: bool
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    user: User | None

    def log_message(self, *words) -> None:
        """Say nothing: the log is in memory."""

    def handle_request(self) -> None:
        """Answer one request, whatever the method."""
        self.url = urlsplit(self.path)
        self.parts = unquote(self.url.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
        self.unread = int(self.headers.get("Content-Length") or 0)
        self.chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.fault = None
        self.user = self.hub.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        name = f"{self.user.name}/{self.user.role}" if self.user else None
        self.seen = Seen(self.command, self.path.partition("?signature=")[0], name)
        try:
            if not self.parts.startswith("/_admin/"):
                self.hub.log.append(self.seen)
                self.fault = self.hub.faults.match(self.command, self.path)
                self.seen.fault = self.fault is not None
            self.throttle = Throttle(self.fault and self.fault.rate)
            spoiled = self.fault and self._spoil()
            try:
                reply = spoiled or self.hub.answer(self)
            except Refusal as no:
                headers = {"X-Error-Message": " ".join(no.message.split())}
                if no.code:
                    headers["X-Error-Code"] = no.code
                reply = answer_json({"error": no.message}, no.status, **headers)
            self.reply(reply)
        except (Cut, ConnectionError, TimeoutError):
            self.seen.status = 0
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _spoil(self) -> Answer | None:
        time.sleep(self.fault.delay)
        if self.fault.delete_repo and (repo := self.hub.store.named(self.fault.delete_repo)):
            self.hub.store.delete(repo)
        if self.fault.foreign_commit:
            self.hub.store.foreign_commit(**self.fault.foreign_commit)
        if self.fault.cut_received == 0:
            raise Cut
        if self.fault.status is None:
            return None
        for _ in self.chunks():
            pass
        return Answer(self.fault.body.encode(), self.fault.status, self.fault.headers)

    # In

    def chunks(self):
        """Yield the request's body piece by piece, as it comes in, and cut it where a fault says so."""
        cut = self.fault.cut_received if self.fault else None
        while True:
            if self.chunked and not self.unread:
                self.unread = int(self.rfile.readline().partition(b";")[0] or b"0", 16)
                if not self.unread:
                    self.rfile.readline()
                    self.chunked = False
            if not self.unread:
                return
            want = min(self.unread, self.throttle.chunk)
            if cut is not None:
                want = min(want, cut - self.seen.received)
            piece = self.rfile.read1(want)
            if not piece:
                raise Cut
            self.unread -= len(piece)
            self.seen.received += len(piece)
            if self.chunked and not self.unread:
                self.rfile.readline()
            if cut is not None and self.seen.received >= cut:
                raise Cut
            self.throttle.wait(len(piece))
            yield piece

    def body(self) -> bytes:
        """Return the whole body."""
        if self.unread > LARGEST_BODY:
            raise Refusal(413, "Payload Too Large")
        return b"".join(self.chunks())

    def json(self) -> dict:
        """Return the body, a JSON object; refuse anything else."""
        try:
            data = json.loads(self.body() or b"{}")
        except ValueError:
            raise Refusal(400, "Invalid JSON in the body") from None
        if not isinstance(data, dict):
            raise Refusal(400, "The body should be a JSON object")
        return data

    # Out

    def reply(self, answer: Answer) -> None:
        """Send an answer, and cut it where a fault says so."""
        cut = self.fault.cut_sent if self.fault else None
        if cut == 0:
            raise Cut
        if self.unread or self.chunked:
            self.close_connection = True  # what was not read would be taken for the next request
        self.send_response(answer.status)
        for name, text in (answer.headers or {}).items():
            self.send_header(name, text.encode("ascii", "replace").decode())
        self.send_header("Content-Length", str(answer.size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send(answer, cut)
        self.seen.status = answer.status

    def _send(self, answer: Answer, cut: int | None) -> None:
        whole = answer.body.open("rb") if isinstance(answer.body, Path) else None
        try:
            while self.seen.sent < answer.size:
                size = min(self.throttle.chunk, answer.size - self.seen.sent)
                if cut is not None:
                    size = min(size, cut - self.seen.sent)
                start = answer.start + self.seen.sent
                if whole:
                    whole.seek(start)
                self.wfile.write(whole.read(size) if whole else answer.body[start : start + size])
                self.seen.sent += size
                if cut is not None and self.seen.sent >= cut:
                    raise Cut
                self.throttle.wait(size)
        finally:
            if whole:
                whole.close()
