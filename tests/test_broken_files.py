"""Whatever lies in a run folder may be broken: it is opened, reported and trained, or refused by name."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from hf_icl.errors import HfIclError
from hf_icl.report.analysis import analyse
from hf_icl.report.card import render_card
from hf_icl.report.page import render_page
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.wording import MOST_CHARACTERS
from tests.programs import TINY

SETTINGS = [*TINY, "training.steps=12", "training.checkpoint_every=4", "evaluate=4"]
TEXTS = [b"", b"\0" * 64, b"null", b"[]", b"{}", b"0", b'"x"', b"\xff\xfe", b"[" * 100_000,
         b'{"a": 1, "a": 2}', b"1" * 5000, b"a: &a [*a]", b"&a [1]\n" + b"- *a\n" * 9]  # fmt: skip
VALUES = [None, [], {}, 0, -1, 2**70, 1e308, float("nan"), True, "x", "\x1b]0;x\x07", "../..", [[]], {"": {}}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken") / "run"
    Run.create(load_config("default", SETTINGS), folder).train()
    return folder


def use(folder: Path) -> None:
    """Open a run folder, look at all it holds, and train it to its end."""
    run = Run.open(folder)
    analysis = analyse([run.record()])
    render_card(analysis), render_page(analysis)
    with torch.no_grad():
        run.load_model(None)
    run.train()


def try_use(folder: Path, what: object) -> bool:
    """Return whether it worked; anything but one sentence fails the test."""
    try:
        use(folder)
    except HfIclError as error:
        said = str(error)
        assert len(said) <= MOST_CHARACTERS + 9 and "\x1b" not in said, what
        return False
    assert Run.open(folder).is_finished, what
    return True


def list_files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def break_file(path: Path, rng: random.Random) -> str:
    """Put something else in a file's place."""
    way = rng.choice(["text", "text", "dangling", "folder", "gone", "loop"])
    path.unlink()
    if way == "text":
        path.write_bytes(rng.choice(TEXTS))
    elif way == "dangling":
        path.symlink_to("nowhere")
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "folder":
        path.mkdir()
    return way


def break_value(path: Path, rng: random.Random) -> str:
    """Change one value, or lose one key, somewhere in a JSON file or in a line of one."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = rng.randrange(len(lines))
    tree = json.loads(lines[number])
    node = tree
    while True:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            break
        node = node[key]
    if rng.random() < 0.2:
        del node[key]
        way = f"without {key}"
    else:
        node[key] = rng.choice(VALUES)
        way = f"{key} = {node[key]!r}"
    lines[number] = json.dumps(tree)
    path.write_text("\n".join(lines) + "\n")
    return way


def is_json(path: Path) -> bool:
    return path.suffix in (".json", ".jsonl") and path.parts[0] != "report"


def harm(whole: Path, folder: Path, seed: int) -> str:
    """Copy a run folder and break one of its files; every other time, one in mid-training."""
    rng = random.Random(seed)
    shutil.copytree(whole, folder)
    if rng.random() < 0.5:
        (folder / "complete.json").unlink()  # as if stopped after the last step
        for path in folder.glob("model*"):
            path.unlink()
    files = list_files(folder)
    ways = [break_value] if rng.random() < 0.5 else [break_file]
    path = folder / rng.choice([path for path in files if ways == [break_file] or is_json(path)])
    return f"seed {seed}: {path.relative_to(folder)}: {ways[0](path, rng)}"


def try_seeds(whole: Path, folder: Path, seeds) -> int:
    n_worked = 0
    for seed in seeds:
        copy = folder / str(seed)
        what = harm(whole, copy, seed)
        try:
            n_worked += try_use(copy, what)
        except Exception as error:
            error.add_note(what)
            raise
        if copy.exists():
            shutil.rmtree(copy)
    return n_worked


@pytest.mark.integration
def test_a_folder_with_something_broken_works_or_is_refused(whole, tmp_path):
    assert 0 < try_seeds(whole, tmp_path, range(20)) < 20


@pytest.mark.slow
def test_many_folders_with_something_broken_work_or_are_refused(whole, tmp_path):
    n_worked = try_seeds(whole, tmp_path, range(1000, 1600))
    assert 0 < n_worked < 600
    print(f"tried 600, worked {n_worked}, refused {600 - n_worked}, tracebacks 0")
