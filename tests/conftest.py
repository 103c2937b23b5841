"""Shared by all tests: offline, one thread, caches of their own."""

import gc
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault(
    "CUDA_VISIBLE_DEVICES", ""
)  # numbers are a CPU's on any machine; `make test-gpu` lets one be seen
os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="hf_icl_tests_"))

import pytest  # noqa: E402

from .hub.client import LoopbackHub  # noqa: E402
from .launcher import Launcher, Servers  # noqa: E402
from .programs import leave_figures_blank  # noqa: E402
from .publishing import train  # noqa: E402

OMNIGLOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "omniglot"

collect_ignore = ["typed_program.py"]  # for a type checker to read, not to run


def pytest_collection_finish():
    """Each training collects garbage: it need not look through all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread():
    """Two workers on two cores: more threads would only get in each other's way."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def omniglot_folder() -> Path:
    """Return the folder of the real archives."""
    if not OMNIGLOT.is_dir():
        pytest.skip("the Omniglot archives are not beside the project (../shared/data/omniglot)")
    return OMNIGLOT


SERVERS = "HF_ICL_TEST_SERVERS"


def make_servers() -> Servers:
    """Return the servers of this run of pytest, for all its workers."""
    if SERVERS not in os.environ:
        os.environ[SERVERS] = json.dumps([tempfile.mkdtemp(prefix="hf_icl_servers_"), os.getpid()])
    folder, owner = json.loads(os.environ[SERVERS])
    return Servers(Path(folder), owner)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs):
    """Workers are forked as well, with everything imported."""
    servers = make_servers()
    for spec in specs:
        spec.python = Launcher(servers, servers.folder).python


@pytest.fixture(scope="session")
def _servers():
    return make_servers()


@pytest.fixture(scope="session")
def programs(_servers, tmp_path_factory):
    """Return what starts `hf-icl` and other Python programs, offline, within milliseconds."""
    return Launcher(_servers, tmp_path_factory.mktemp("programs"))


@pytest.fixture
def _blank_figures(monkeypatch):
    """Reports are not what a test is about: their figures stay blank."""
    leave_figures_blank(monkeypatch.setattr)


@pytest.fixture(scope="session")
def _hub(_servers, tmp_path_factory):
    hub = LoopbackHub(tmp_path_factory.mktemp("hub"), _servers)
    yield hub
    hub.stop()


@pytest.fixture
def hub(_hub) -> Iterator[LoopbackHub]:
    """Yield the loopback Hub (one process for all tests) without faults, quota and log; see `tests/hub`."""
    _hub.reset()
    yield _hub
    _hub.reset()  # what is made for all tests may come next


@pytest.fixture(scope="session")
def launcher(_hub):
    """Return what starts `hf-icl` and snippets against the loopback Hub at once; use it beside `hub`."""
    return _hub.launcher


@pytest.fixture(scope="session")
def publication(_hub, launcher, tmp_path_factory):
    """Return a run that was published while it trained, and a twin that never heard of the Hub."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = train(launcher, folder, "--push", "ann/undisturbed", "--revisions", "all")
    assert ended.code == 0, ended.err
    twin = train(launcher, folder / "twin")
    assert twin.code == 0, twin.err
    return SimpleNamespace(run=folder / "run", twin=folder / "twin" / "run", ended=ended, folder=folder)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Return the folder of a small language model that has learned a little, with its tokenizer."""
    from .small_lm import pretrain

    folder = tmp_path_factory.mktemp("pretrained")
    losses = pretrain(folder, steps=60)
    assert losses[-1] < losses[0] - 0.5
    return folder


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """What puts a file system of its own, in memory, onto a folder; all are taken away again."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    mounted: list[Path] = []

    def mount_one(folder: Path, *options: str) -> None:
        words = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a file system")
        mounted.append(folder)

    yield mount_one
    for folder in reversed(mounted):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(mount, tmp_path) -> Path:
    """A real file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-o", "size=300k")
    return folder
