"""Python processes that start in milliseconds: children of one that has imported everything and used nothing.

Each is a real process, with the environment and folder it is given; it can be killed, or told Ctrl-C. Hugging
Face's libraries read variables while they are imported. So one server has imported what reads none, and forks
others that import the rest, each under the variables of one environment; what needs yet others is forked from
the first. Workers of pytest come from there too, see conftest.py.

    python -m tests.launcher SOCKET OWNER MODULE…     import, serve until the process OWNER is gone
"""

import contextlib
import gc
import hashlib
import importlib
import json
import os
import pickle
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from tests.programs import BLANK, ROOT, environment

FIRST = (
    "pandas", "torch", "torch._dynamo", "torch.distributed.run", "sklearn.metrics", "scipy.stats",
    "matplotlib.pyplot", "matplotlib.backends.backend_svg", "PIL.PngImagePlugin", "pydantic", "typer",
    "rich.live", "rich.markdown", "jinja2", "pyarrow.parquet", "pyarrow.dataset", "aiohttp", "dill",
    "multiprocess", "safetensors.torch", "tokenizers", "pytest",
)  # fmt: skip
REST = (
    "transformers.trainer", "datasets", "hf_icl.runs.run", "hf_icl.traces.published", "hf_icl.report.write",
    "hf_icl.traces.tracing", "hf_icl.sweeps.train",
)  # fmt: skip
NUMBER = struct.Struct("i")


# The server


def main(path: str, owner: str, *modules: str) -> None:
    """Import, then serve in a process of its own: when this one ends, the address can be asked."""
    warnings.filterwarnings("error", module="hf_icl")  # while it is imported and ever after
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what collects garbage need not look through all these modules
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    if os.fork() == 0:
        os.setsid()
        for number in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        serve(listener, int(owner))


def serve(listener: socket.socket, owner: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(0.5)
    while Path(f"/proc/{owner}").exists():
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                attend(connection)
            connection.close()
    shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)
    os._exit(0)


def attend(connection: socket.socket) -> None:
    """Do a job in a child, tell its process id and how it ended; kill it when nobody waits for that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.setblocking(True)
    text, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)
    child = os.fork()
    if child == 0:
        connection.close()
        be_python(files=files, **json.loads(text))
    for file in files:
        os.close(file)
    connection.sendall(NUMBER.pack(child))

    def watch() -> None:
        if not connection.recv(1):
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(NUMBER.pack(code))
    os._exit(0)


def be_python(words: list[str], variables: dict[str, str], folder: str, files: list[int]) -> None:
    """Do what `python WORDS…` does, and end."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    try:
        run(*[word for word in words if word != "-u"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(what: str, *words: str) -> None:
    first = os.path.dirname(os.path.abspath(what)) if what[0] != "-" else os.getcwd()
    sys.path[:0] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if BLANK in os.environ:
        from tests.programs import leave_figures_blank

        leave_figures_blank(setattr)
    if what == "-m":
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *words[1:]]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.argv = [what, *words]
        runpy.run_path(what, run_name="__main__")


# What tests hold

# Stands for `python` where other code than the tests' own starts one. Without site-packages it starts soon.
STUB = """#!{python} -IS
import json, os, signal, socket, struct, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
job = {{"words": sys.argv[1:], "variables": dict(os.environ), "folder": os.getcwd()}}
socket.send_fds(connection, [json.dumps(job).encode() + b"\\n"], [0, 1, 2])
read = lambda: struct.unpack("i", connection.recv(4, socket.MSG_WAITALL))[0]
child = read()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
code = read()
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass
class Ended:
    """How a process ended: its exit code (−9: killed), and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """A process that runs; `wait` for its end, or `kill` it.

    Args:
        address: Of the server.
        words: What would come after `python`.
        variables: Its environment.
        folder: Where it runs.
        paths: Files for what it writes to standard output and error.
    """

    def __init__(
        self, address: str, words: list[str], variables: Mapping[str, str], folder: Path, paths: list[Path]
    ):
        self.paths = paths
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(address)
        job = {"words": words, "variables": dict(variables), "folder": str(folder)}
        with open(os.devnull) as nothing, open(paths[0], "wb") as out, open(paths[1], "wb") as err:
            files = [file.fileno() for file in (nothing, out, err)]
            socket.send_fds(self.connection, [json.dumps(job).encode() + b"\n"], files)
            self.pid = self._read()

    def _read(self) -> int:
        return NUMBER.unpack(self.connection.recv(NUMBER.size, socket.MSG_WAITALL))[0]

    def is_over(self) -> bool:
        return bool(select.select([self.connection], [], [], 0)[0])

    def wait(self, timeout: float = 300) -> Ended:
        """Return how it ended."""
        with self.connection:
            self.connection.settimeout(timeout)
            code = self._read()
        return Ended(code, *(path.read_text() for path in self.paths))

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> Ended:
        """Kill it with signal 9."""
        self.send_signal(signal.SIGKILL)
        return self.wait()


class Servers:
    """The servers of one run of the tests, each started when it is first asked for.

    Args:
        folder: Where their sockets lie: one folder for all workers of pytest.
        owner: The process with which they end.
    """

    def __init__(self, folder: Path, owner: int):
        self.folder, self.owner = folder, owner
        folder.mkdir(exist_ok=True)

    @property
    def first(self) -> str:
        """Address of the server that has read no variables."""

        def start(*words: str) -> Ended:
            done = subprocess.run(
                [sys.executable, *words], env=environment(), cwd=ROOT, capture_output=True, text=True
            )
            return Ended(done.returncode, done.stdout, done.stderr)

        return self._find("first", FIRST, start)

    def find(self, variables: Mapping[str, str]) -> str:
        """Return the address of the server that has imported everything under these variables."""
        variables = {name: text for name, text in variables.items() if name != BLANK}
        name = hashlib.sha1(repr(read_at_import(variables)).encode()).hexdigest()[:8]
        paths = [self.folder / f"{name}.out", self.folder / f"{name}.err"]
        return self._find(
            name, REST, lambda *words: Command(self.first, [*words], variables, ROOT, paths).wait()
        )

    def _find(self, name: str, modules: tuple[str, ...], start: Callable[..., Ended]) -> str:
        path = self.folder / name
        with FileLock(f"{path}.lock"):
            if not path.exists():
                ended = start("-m", "tests.launcher", str(path), str(self.owner), *modules)
                assert ended.code == 0, ended.err
        return str(path)


def read_at_import(variables: Mapping[str, str]) -> list[tuple[str, str]]:
    late = ("HF_TOKEN", "HF_ICL_CACHE", BLANK)
    return sorted(item for item in variables.items() if item[0].startswith("HF_") and item[0] not in late)


class Launcher:
    """Starts processes under an environment.

    Args:
        servers: Where they are forked.
        folder: Where they run unless told otherwise, and where what they write is kept.
        environment: Returns the environment, changed as its arguments say.
    """

    def __init__(
        self, servers: Servers, folder: Path, environment: Callable[..., dict[str, str]] = environment
    ):
        self.servers, self.folder, self.environment = servers, folder, environment
        self.scratch = folder / "said"
        self.scratch.mkdir(exist_ok=True)

    def start_python(self, *words: object, folder: Path | None = None, **more: str | None) -> Command:
        """Start what `python` would with these words, in a folder, with further variables."""
        variables = self.environment(**more)
        known = read_at_import(variables) == read_at_import(self.environment())
        server = self.servers.find(variables) if known else self.servers.first
        number = time.monotonic_ns()
        paths = [self.scratch / f"{number}.out", self.scratch / f"{number}.err"]
        return Command(server, [str(word) for word in words], variables, folder or self.folder, paths)

    def start(self, *words: object, code: str = "", **more) -> Command:
        """Start `hf-icl` with these words, or a program."""
        return self.start_python(*(["-c", code] if code else ["-m", "hf_icl", *words]), **more)

    def hf_icl(self, *words: object, **more) -> Ended:
        """Run `hf-icl` to its end."""
        return self.start(*words, **more).wait()

    def run(self, code: str, **more):
        """Run a program to its end and return what it left in `result` (JSON); fail with its traceback."""
        code = f"{textwrap.dedent(code)}\nimport json as _json; print(_json.dumps(globals().get('result')))\n"
        ended = self.start(code=code, **more).wait()
        assert ended.code == 0, f"{ended.out}\n{ended.err}"
        return json.loads(ended.out.splitlines()[-1])

    def call(self, function: Callable, *arguments: object) -> int:
        """Call a function of a module, return the exit code."""
        code = "import pickle, sys; call, words = pickle.loads(bytes.fromhex(sys.argv[1])); call(*words)"
        called = pickle.dumps((function, arguments)).hex()
        return self.start_python("-c", code, called, folder=ROOT).wait().code

    @property
    def python(self) -> str:
        """Path of what stands for `python` where other code starts one."""
        path = self.folder / "python"
        if not path.exists():
            path.write_text(STUB.format(python=sys.executable, address=self.servers.find(self.environment())))
            path.chmod(0o755)
        return str(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
