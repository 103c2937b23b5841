"""What the loopback Hub can be told to do wrong.

A `Fault` names the requests that it spoils (method and path, as regular expressions; which of them, counted
from 1; how many) and what happens to them. Faults are tried in the order in which they were added, and the
first that is due is taken; each counts all requests that it matches, so `first=1` and `first=2` on one path
spoil one request after the other. Over HTTP a fault is a JSON object with the same fields (`POST
/_admin/faults`).
"""

import re
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Spoil some requests.

    Args:
        path: Regular expression searched in path and query, as sent.
        method: Regular expression that the whole method matches.
        first: The first matching request that is spoiled, counted from 1.
        times: How many are spoiled from there on; None: for ever.
        status: Answer this status instead of doing what was asked; the body is read first.
        headers: Sent with that answer, such as `{"Retry-After": "1"}`.
        body: Sent with that answer; what is not JSON is what a proxy in front of the Hub would send.
        cut_received: Close the connection after so many bytes of the request's body.
        cut_sent: Do what was asked, but close the connection after so many bytes of the answer's body; 0
            sends not even the status line: the request has had its effect and the client does not know.
        rate: Bytes per second, received and sent.
        delay: Seconds of silence before anything is done.
        delete_repo: `model ann/name`: delete this repository first, then go on.
        foreign_commit: `{"repo": "model ann/name", "branch": "main", "files": {path: text}}`: somebody else
            commits first, then go on.

    Example:
        >>> faults = Faults()
        >>> faults.add(Fault("/commit/", method="POST", first=2, status=503))
        >>> [bool(faults.match("POST", "/api/models/ann/m/commit/main")) for _ in range(3)]
        [False, True, False]
    """

    path: str
    method: str = ".*"
    first: int = 1
    times: int | None = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error": "told to fail"}'
    cut_received: int | None = None
    cut_sent: int | None = None
    rate: float | None = None
    delay: float = 0.0
    delete_repo: str | None = None
    foreign_commit: dict | None = None
    seen: int = field(default=0, init=False)

    def match(self, method: str, path: str) -> bool:
        """Count a request if it is one of those meant; return whether to spoil it."""
        if not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.seen >= self.first and (self.times is None or self.seen < self.first + self.times)


class Faults:
    """The faults in force."""

    def __init__(self):
        self.lock, self.rules = threading.Lock(), []

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        with self.lock:
            self.rules.append(fault)

    def clear(self) -> None:
        """Behave again."""
        with self.lock:
            self.rules.clear()

    def match(self, method: str, path: str) -> Fault | None:
        """Return the fault that spoils this request, if any; every fault that it matches counts it."""
        with self.lock:
            return next(iter([fault for fault in self.rules if fault.match(method, path)]), None)


class Throttle:
    """Let no more than `rate` bytes per second through, counted from its making; None: all."""

    def __init__(self, rate: float | None):
        self.rate, self.passed, self.start = rate, 0, time.monotonic()

    @property
    def chunk(self) -> int:
        """Return how many bytes to move at a time."""
        return 65_536 if self.rate is None else max(1, min(65_536, int(self.rate / 20)))

    def wait(self, size: int) -> None:
        """Wait until these bytes, moved just now, were due."""
        self.passed += size
        if self.rate is not None:
            time.sleep(max(0.0, self.start + self.passed / self.rate - time.monotonic()))
