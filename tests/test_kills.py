"""Killed at any moment by signal 9, and again on the way back, a command ends in the bytes that it would."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.programs import ROOT, TINY
from tests.publishing import SETTINGS, comparable, published

OWN = (".lock",)  # stays behind
UNLIKE = ("rng_state.pth", "scheduler.pt", "optimizer.pt", "training_args.bin")  # pickled: bytes vary
SWEEP = {
    "base": "default",
    "set": {key: int(value) for key, value in (word.split("=") for word in TINY)}
    | {"training.steps": 24, "training.checkpoint_every": 8, "evaluate": 8, "task.n_eval_sequences": 16},
    "grid": {"seed": [0, 1]},
    "workers": 2,
}


class Case:
    """A command that is killed.

    Args:
        programs: What starts it.
        folder: Where trials lie.
    """

    def __init__(self, programs, folder: Path, **more):
        self.programs, self.folder, self.more = programs, folder, more
        folder.mkdir()

    def prepare(self, here: Path) -> None:
        """Put what the command needs into an empty folder."""

    def words(self, here: Path) -> list[str]:
        """Return the command, or what goes on with what it has begun."""
        raise NotImplementedError

    def look(self, here: Path) -> dict[str, object]:
        """Return what shall be there in the end, by name."""
        return read_tree(here)

    def start(self, number: int, here: Path):
        words = [number, here, *self.words(here)]
        return self.programs.start_python(
            "-m", "tests.killing", *words, folder=here, PYTHONPATH=str(ROOT), **self.more
        )

    def finish(self, here: Path) -> None:
        """Let the command come to its end, once the processes of a killed one are gone."""
        for _ in range(200):
            ended = self.start(0, here).wait()
            if "is at work here" not in ended.err:
                break
            time.sleep(0.05)
        assert ended.code == 0 and "Traceback" not in ended.err, ended

    def count(self) -> tuple[int, dict[str, object]]:
        """Return how many events the undisturbed command has, and what it leaves."""
        here = self.folder / "undisturbed"
        here.mkdir()
        self.prepare(here)
        ended = self.start(0, here).wait()
        assert ended.code == 0, ended
        return int(ended.err.splitlines()[-1]), self.look(here)

    def try_at(self, number: int, second: int) -> tuple[bool, dict[str, object]]:
        """Kill at one event, and going on at another; return whether it was killed, and what is there."""
        here = self.folder / f"at-{number}-{second}"
        here.mkdir()
        self.prepare(here)
        killed = self.start(number, here).wait().code == -signal.SIGKILL
        if second:
            self.start(second, here).wait()
        self.finish(here)
        found = self.look(here)
        shutil.rmtree(here)
        return killed, found


def read_tree(folder: Path) -> dict[str, object]:
    """Return the content of every file, as far as it does not tell of time and place."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in OWN:
            found[name] = strip(path)
    return found


def strip(path: Path) -> object:
    if path.name == "complete.json":
        return list(json.loads(path.read_bytes()))
    if path.name in UNLIKE:
        return None
    if path.name == "trainer_state.json":
        return comparable("training_state/trainer_state.json", path.read_bytes())
    return comparable("README.md", path.read_bytes()) if path.name == "README.md" else path.read_bytes()


class Running(Case):
    settings: tuple[str, ...] = ()

    def words(self, here):
        if (here / "run" / "run.json").exists():
            return ["resume", "run"]
        return ["run", "default", *SETTINGS, *self.settings, "--output", "run"]


class Compiled(Running):
    settings = ("training.compile=true",)


class Reporting(Case):
    def prepare(self, here):
        shutil.copytree(self.trained, here / "run")

    def words(self, here):
        return ["report", "run", "--output", "said"]


class ReportingAgain(Reporting):
    def words(self, here):
        return ["report", "run"]


class Sweeping(Case):
    def prepare(self, here):
        (here / "mine.yaml").write_text(yaml.safe_dump(SWEEP))

    def words(self, here):
        return ["sweep", "mine.yaml", "--output", "swept"]


class Pushing(Case):
    def prepare(self, here):
        shutil.copytree(self.trained, here / "run")

    def words(self, here):
        words = ["push", "run", f"ann/kill-{self.folder.name}-{here.name}", "--revisions", "all"]
        return words + ["--wait", "60"]

    def look(self, here):
        there = published(self.hub, f"ann/kill-{self.folder.name}-{here.name}")
        files = {
            f"{revision}/{name}": comparable(name, content)
            for revision, files in there.files.items()
            for name, content in files.items()
        }
        tree = {name: content for name, content in read_tree(here).items() if not name.endswith(".hub.json")}
        return files | tree | {"commits": there.messages, "tags": there.tags}


class Pulling(Case):
    def prepare(self, here):
        for path in (self.hub.folder / "home").rglob("models--ann--undisturbed"):
            shutil.rmtree(path)

    def words(self, here):
        return ["pull", "ann/undisturbed", "runs/mine"] if not (here / "runs/mine").exists() else ["presets"]


CASES = {  # moments of the bounded part, and of the whole
    "run": (Running, 2, 40),
    "compiled": (Compiled, 0, 12),
    "report": (Reporting, 1, 15),
    "report again": (ReportingAgain, 1, 10),
    "sweep": (Sweeping, 1, 15),
    "push": (Pushing, 2, 30),
    "pull": (Pulling, 2, 25),
}


@pytest.fixture
def make_case(request, tmp_path):
    def make(kind: type[Case]) -> Case:
        if kind in (Pushing, Pulling):
            hub, programs = request.getfixturevalue("hub"), request.getfixturevalue("launcher")
            case = kind(programs, tmp_path / f"c{time.monotonic_ns()}")
            case.hub = hub
        else:
            programs = request.getfixturevalue("programs")
            case = kind(programs, tmp_path / "case", HF_ICL_TEST_PYTHON=programs.python)
        if kind in (Reporting, ReportingAgain, Pushing, Pulling):
            case.trained = request.getfixturevalue("publication").twin
        return case

    return make


def try_moments(case: Case, name: str, n_moments: int) -> None:
    """Kill at so many moments of those that there are, drawn by a seed; compare each end with the
    undisturbed one."""
    n_events, whole = case.count()
    chance = random.Random(name)
    first = n_events // 3 if name == "compiled" else 1  # after it has compiled, and its first rows
    moments = sorted(chance.sample(range(first, n_events), min(n_moments, n_events - first)))
    unequal, n_killed = {}, 0
    for number in moments:
        second = chance.choice([0, chance.randint(1, n_events)])
        killed, found = case.try_at(number, second)
        n_killed += killed
        if found != whole:
            names = {each for each in found.keys() | whole.keys() if found.get(each) != whole.get(each)}
            unequal[number, second] = sorted(names)
    print(f"{name}: {n_events} events, {len(moments)} tried, {n_killed} killed, {len(unequal)} not equal")
    assert not unequal
    assert n_killed >= 0.8 * len(moments)  # a sweep may be over a little sooner


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name, (_, few, _) in CASES.items() if few])
def test_a_few_kills(make_case, name):
    kind, few, _ = CASES[name]
    try_moments(make_case(kind), name, few)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_kills(make_case, name):
    kind, _, many = CASES[name]
    try_moments(make_case(kind), f"{name}, all" if name != "compiled" else name, many)
