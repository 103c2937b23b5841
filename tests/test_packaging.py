"""What `pip install` gets: version ranges, exact pins, and a wheel that works far away from the checkout."""

import ast
import configparser
import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import hf_icl
from hf_icl import __main__ as start
from tests.floors import read_floors
from tests.programs import ROOT, TINY, environment

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
RUNTIME = SETUP["options"]["install_requires"].split()
EXTRAS = {name: text.split() for name, text in SETUP["options.extras_require"].items()}
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
SHIPPED = """
__init__.pyi py.typed report/page.html report/page.css report/page.js report/card.md runs/presets/default.yaml
sweeps/examples/l2.yaml
""".split()
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
    assert SETUP["options.entry_points"]["console_scripts"].split() == ["hf-icl", "=", "hf_icl.__main__:main"]
    assert callable(start.main)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


def test_the_version_stands_in_one_place():
    assert SETUP["metadata"]["version"] == "attr: hf_icl.__version__"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hf_icl.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest[1] == hf_icl.__version__


@pytest.mark.parametrize("package", [path.parent for path in (ROOT / "hf_icl").rglob("__init__.pyi")])
def test_packages_hand_on_what_their_stubs_say(package):
    """Type checkers read the stub, Python the package: both know the same names, and each is there."""
    module = importlib.import_module(".".join(package.relative_to(ROOT).parts))
    stub = ast.parse((package / "__init__.pyi").read_text())
    names = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(module.__all__) - {"__version__"} == names == set(dir(module)) - {"__version__"}
    assert all(getattr(module, name) is not None for name in names)


def test_links_in_documents_lead_somewhere():
    """Files that a checkout holds, and headings of them."""
    broken = []
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("dataset_scripts/**/*.md")):
        for link in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        ):
            if not re.match(r"[a-z]+:|#", link) and not (path.parent / link.partition("#")[0]).exists():
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert broken == []


@functools.cache
def list_tracked():
    """Return the files of the checkout that are under version control."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no checkout of git, so nothing says which files belong to it")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Build from a copy of what is under version control, so that nothing of a checkout gets in by chance."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in list_tracked():
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "src" / name)
    build = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", build, folder]
    done = subprocess.run(command, cwd=folder / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "out", filter="data")
    (unpacked,) = (folder / "out").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Build from the sdist, as pip does where it finds no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    run_pip("wheel", sdist, "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.iterdir()
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
def test_the_sdist_holds_everything_but_what_serves_this_checkout(sdist):
    packed = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    made = {"PKG-INFO", *(name for name in packed if ".egg-info/" in name)}
    left_out = {name for name in list_tracked() if name.startswith(".")}
    assert packed - made == set(list_tracked()) - left_out
    about = (sdist / "PKG-INFO").read_text()
    assert f"\nVersion: {hf_icl.__version__}\n" in about and "\nAuthor: " in about
    assert "\nProject-URL: Paper, https://arxiv.org/abs/2311.08360\n" in about
    assert "\nClassifier: Typing :: Typed\n" in about and "\nLicense-Expression: Apache-2.0\n" in about


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
    assert all(path.stem in listed for path in (ROOT / "hf_icl/runs/presets").rglob("*.yaml"))
    assert "hf_icl.__main__" in (installed / "bin/hf-icl").read_text()
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
