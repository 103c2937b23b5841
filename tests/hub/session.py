"""A client process that stays: it runs one `hf-icl` command or snippet after another, without importing everything anew."""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

from .client import LoopbackHub

SERVE = """
import contextlib, io, json, os, sys, traceback
from hf_icl.cli.main import main

answers = sys.stdout
for line in sys.stdin:
    job = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if job["token"]:
        os.environ["HF_TOKEN"] = job["token"]
    out, err, code, names = io.StringIO(), io.StringIO(), 0, {}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if "words" in job:
                sys.argv = ["hf-icl", *job["words"]]
                main()
            else:
                exec(job["code"], names)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    said = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "result": names.get("result")}
    print(json.dumps(said), file=answers, flush=True)
"""


class Session:
    """A client of the loopback Hub, one process for many commands; its endpoint and caches are those of `hub`."""

    def __init__(self, hub: LoopbackHub):
        self.hub = hub
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", SERVE]
        self.process = subprocess.Popen(command, env=hub.environment(None), cwd=hub.folder, **pipes)

    def hf_icl(self, *words: str, user: str | None = "ann/write") -> SimpleNamespace:
        """Run an `hf-icl` command; return its exit `code` and what it wrote, `out` and `err`."""
        return self._ask(user, words=[str(word) for word in words])

    def run(self, code: str, user: str | None = "ann/write"):
        """Run a snippet and return what it left in `result`; fail with its traceback."""
        said = self._ask(user, code=textwrap.dedent(code))
        assert said.code == 0, f"{said.out}\n{said.err}"
        return said.result

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, user: str | None, **job) -> SimpleNamespace:
        job["token"] = user and self.hub.tokens.get(user, user)
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return SimpleNamespace(**json.loads(self.process.stdout.readline()))
