"""`hf-icl` commands in processes of their own, started in milliseconds: children of one that has imported everything."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .client import LoopbackHub

SERVE = """
import json, os, sys
import hf_icl.cli.main, hf_icl.runs.run, hf_icl.hub.revisions, hf_icl.report, matplotlib.pyplot

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        try:
            if job["code"]:
                exec(job["code"], {"__name__": "__main__"})
            else:
                sys.argv = ["hf-icl", *job["words"]]
                hf_icl.cli.main.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        else:
            code = 0
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Ended:
    """How a command ended: its exit code (−9: killed), and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """A command that runs; `wait` for its end, or `kill` it."""

    def __init__(self, launcher: "Launcher", child: int, out: str, err: str):
        self.launcher, self.child, self.paths = launcher, child, (Path(out), Path(err))

    def wait(self) -> Ended:
        """Return how it ended."""
        code = int(self.launcher.process.stdout.readline())
        return Ended(code, *(path.read_text() for path in self.paths))

    def kill(self) -> Ended:
        """Kill it with signal 9."""
        os.kill(self.child, signal.SIGKILL)
        return self.wait()


class Launcher:
    """Starts commands against a loopback Hub, one at a time; each has caches of its own only if `HF_HOME` was so."""

    def __init__(self, hub: LoopbackHub, **environment: str):
        self.hub = hub
        self.scratch = tempfile.mkdtemp(dir=hub.folder)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        variables = hub.environment(None, **environment)
        self.process = subprocess.Popen([sys.executable, "-c", SERVE], env=variables, cwd=hub.folder, **pipes)

    def start(
        self, *words: object, folder: Path, user: str | None = "ann/write", code: str = "", **environment: str
    ) -> Command:
        """Start `hf-icl` with these words, or a program, in a folder.

        Args:
            words: The command's arguments.
            folder: Where it runs.
            user: Whose token, as in `LoopbackHub.environment`.
            code: A Python program instead of a command.
            environment: Further variables.
        """
        if user is not None:
            environment["HF_TOKEN"] = self.hub.tokens.get(user, user)
        number = time.monotonic_ns()
        out, err = f"{self.scratch}/{number}.out", f"{self.scratch}/{number}.err"
        job = {"words": [str(word) for word in words], "folder": str(folder), "out": out, "err": err}
        self.process.stdin.write(json.dumps(job | {"environment": environment, "code": code}) + "\n")
        self.process.stdin.flush()
        return Command(self, int(self.process.stdout.readline()), out, err)

    def hf_icl(self, *words: object, folder: Path, **more: str | None) -> Ended:
        """Run `hf-icl` to its end."""
        return self.start(*words, folder=folder, **more).wait()

    def close(self) -> None:
        """End the process that waits."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
