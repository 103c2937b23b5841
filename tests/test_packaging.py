"""What `pip install` gets: version ranges, exact pins, and a wheel that works far away from the checkout."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import hf_icl
from hf_icl.cli import main as cli
from tests.floors import read_floors
from tests.programs import ROOT, TINY, environment

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
RUNTIME = SETUP["options"]["install_requires"].split()
EXTRAS = {name: text.split() for name, text in SETUP["options.extras_require"].items()}
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
SHIPPED = ["report/page.html", "report/page.css", "report/page.js", "report/card.md", "presets/default.yaml"]
WHERE = "import hf_icl; print(hf_icl.__file__)"


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("requirement", [*RUNTIME, *EXTRAS["test"], *EXTRAS["lint"]])
def test_every_requirement_has_a_floor_and_no_other_bound(requirement):
    assert re.fullmatch(r"[\w.-]+>=\d+(\.\d+)*", requirement)


def test_the_pins_are_exact_and_inside_the_ranges():
    versions = {}
    for pin in PINS:
        name, version = re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", pin).groups()
        assert canonical(name) not in versions, name
        versions[canonical(name)] = version
    assert versions["torch"] == "2.13.0"
    for requirement in [*RUNTIME, *EXTRAS["test"], *EXTRAS["lint"]]:
        name, floor = requirement.split(">=")
        assert _numbers(versions[canonical(name)]) >= _numbers(floor), requirement


def _numbers(version):
    return [int(number) for number in version.split(".")]


def test_floors_are_read_from_the_runtime_and_the_extras(tmp_path):
    (tmp_path / "setup.cfg").write_text(
        "[options]\n"
        "install_requires =\n    torch>=2.6\n    # why this one\n    huggingface-hub>=1.5\n"
        "[options.extras_require]\n"
        "test =\n    pytest>=8.0\nlint =\n    ruff>=0.9\n"
    )
    expected = ["huggingface-hub==1.5", "pytest==8.0", "ruff==0.9", "torch==2.6"]
    assert read_floors(str(tmp_path / "setup.cfg")) == expected
    command = [sys.executable, ROOT / "tests/floors.py", tmp_path / "setup.cfg"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == expected
    assert len(read_floors(str(ROOT / "setup.cfg"))) == len(RUNTIME) + sum(map(len, EXTRAS.values()))


def test_the_command_and_the_version_are_declared():
    assert SETUP["options.entry_points"]["console_scripts"].split() == ["hf-icl", "=", "hf_icl.cli.main:main"]
    assert callable(cli.main)
    assert SETUP["metadata"]["version"] == hf_icl.__version__
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy, so that no `build/` of earlier days gets in and none is left behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "hf_icl", folder / "hf_icl", ignore=shutil.ignore_patterns("__pycache__"))
    run_pip("wheel", folder, "--no-build-isolation", "--wheel-dir", folder / "dist")
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    run_pip("install", wheel, "--target", folder)
    return folder


def run_pip(command, what, *words):
    """Run pip without dependencies and without an index; setuptools is there, since torch needs it."""
    pip = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", what, *words]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_installed(installed, cwd, *words):
    """Run Python from a folder outside the checkout, with the installed package before everything else."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment(PYTHONPATH=str(installed)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        requires = re.findall(
            r"^Requires-Dist: ([^;\n]+)$",
            archive.read(next(n for n in names if n.endswith("/METADATA"))).decode(),
            flags=re.MULTILINE,
        )
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "hf_icl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {f"hf_icl/{name}" for name in SHIPPED} <= packed
    assert sorted(requires) == sorted(RUNTIME)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_an_installed_package_runs_far_from_the_checkout(installed, tmp_path):
    assert Path(run_installed(installed, tmp_path, "-c", WHERE).strip()).is_relative_to(installed)
    listed = run_installed(installed, tmp_path, "-m", "hf_icl", "presets")
    assert all(path.stem in listed for path in (ROOT / "hf_icl/presets").glob("*.yaml"))
    assert "hf_icl.cli.main" in (installed / "bin/hf-icl").read_text()
    steps = ["training.steps=4", "evaluate=2", "training.checkpoint_every=2"]
    said = run_installed(
        installed, tmp_path, "-m", "hf_icl", "run", "default", *TINY, *steps, "--output", "mine"
    )
    assert "Report: mine/report/index.html" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine/report/index.html").stat().st_size > 10_000
    rows = [json.loads(line) for line in (tmp_path / "mine/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]
    card = yaml.safe_load((tmp_path / "mine/README.md").read_text().split("---")[1])
    assert card["library_name"]


@pytest.mark.slow
def test_the_installed_builder_is_known_by_name(installed, tmp_path):
    program = (
        "import hf_icl, datasets\n"
        "rows = datasets.load_dataset('hf_icl', 'gaussian', split='train', streaming=True, n_classes=40)\n"
        "print(sorted(next(iter(rows))))"
    )
    said = run_installed(installed, tmp_path, "-c", program)
    assert said.strip() == "['class_ids', 'exemplar_ids', 'index', 'labels', 'roles']"
