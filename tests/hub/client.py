"""The loopback Hub as a test holds it: a process of its own, and client processes that are pointed at it."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.launcher import Launcher, Servers
from tests.programs import QUIET, ROOT


@dataclass
class State:
    """A repository at a revision, as the server has it."""

    branches: dict[str, str]
    tags: dict[str, str]
    commits: list[dict]
    files: dict[str, bytes]
    large: list[str]
    folder: Path

    @property
    def messages(self) -> list[str]:
        """Return the messages of the commits, newest first."""
        return [commit["message"] for commit in self.commits]


class LoopbackHub:
    """A running loopback Hub.

    Args:
        folder: Where it keeps its state (`store`) and client processes their caches (`home`).
        servers: What forks client processes.

    Attributes:
        launcher: Starts `hf-icl` and snippets that are pointed at this server.
    """

    def __init__(self, folder: Path, servers: Servers | None = None):
        self.folder, self.process, self.port = Path(folder), None, 0
        self.start()
        self.launcher = servers and Launcher(servers, self.folder, self.environment)

    def start(self) -> None:
        """Start the server, after `stop` at the address that it had."""
        command = [sys.executable, "-m", "tests.hub", str(self.folder / "store"), str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        said = json.loads(self.process.stdout.readline())
        self.endpoint, self.storage, self.tokens = said["endpoint"], said["storage"], said["tokens"]
        self.port = int(self.endpoint.rpartition(":")[2])

    def stop(self) -> None:
        """End the server as kill -9 would: connections to its address are refused from now on."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    # What a client process sees

    def environment(self, user: str | None = "ann/write", **more: str) -> dict[str, str]:
        """Return the environment that points a client at this server.

        Args:
            user: Whose token: `ann/write`, `ann/read`, `bob/write`, None for no token, or a token as it is.
            more: Further variables; `HF_HOME` for a cache that other processes do not share.
        """
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        kept |= {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        } | QUIET
        if user is not None:
            kept["HF_TOKEN"] = self.tokens.get(user, user)
        return kept | more

    @property
    def run(self):
        """Run a Python snippet to its end and return what it left in `result`:
        see `tests.launcher.Launcher.run`."""
        return self.launcher.run

    # What the test sees and does

    def admin(self, method: str, path: str, /, **data):
        """Ask the server itself."""
        body = json.dumps(data).encode() if data else None
        request = urllib.request.Request(f"{self.endpoint}/_admin/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def fault(self, path: str, **fields) -> None:
        """Put a fault in force: see `tests.hub.faults.Fault`."""
        self.admin("POST", "faults", path=path, **fields)

    def reset(self) -> None:
        """Clear faults, quota and log; repositories stay."""
        self.admin("DELETE", "faults")
        self.admin("DELETE", "requests")
        self.quota(None)

    def quota(self, size: int | None) -> None:
        """Bound the LFS bytes of a namespace."""
        self.admin("POST", "quota", bytes=size)

    def foreign_commit(self, repo: str, **files: str) -> str:
        """Let somebody else commit small files to `model ann/name`, return the commit."""
        return self.admin("POST", "foreign_commit", repo=repo, files=files)["oid"]

    def requests(self, method: str | None = None, part: str = "") -> list[dict]:
        """Return what the server was asked, in order, by method and part of the path."""
        found = self.admin("GET", "requests")
        return [
            seen for seen in found if seen["method"] == (method or seen["method"]) and part in seen["path"]
        ]

    def repo(self, name: str, revision: str = "main") -> State | None:
        """Return the repository `model ann/name` at a revision, if it is there."""
        found = self.admin("GET", f"repo?{urllib.parse.urlencode({'name': name, 'revision': revision})}")
        if found is None:
            return None
        files = {path: base64.b64decode(text) for path, text in found.pop("files").items()}
        return State(files=files, folder=Path(found.pop("folder")), **found)

    def wait_for(self, true: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"not within {seconds} s; seen: {self.requests()}"
            time.sleep(0.02)


@contextmanager
def nowhere() -> Iterator[str]:
    """Yield an endpoint where nobody listens: no network from start to end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
