"""The examples run as they stand."""

import subprocess
import sys

import pytest

from hf_icl.history.history import History
from tests.programs import ROOT, environment


@pytest.fixture
def run_example(programs, tmp_path):
    """Return a function that runs a program by its words and expects it to end well."""

    def run(*words, **more):
        ended = programs.start_python(*words, folder=tmp_path, **more).wait()
        assert ended.code == 0, ended.err

    return run


@pytest.mark.integration
def test_stock_trainer(tmp_path):
    """As a person starts it, in a Python of its own."""
    command = [sys.executable, ROOT / "examples/stock_trainer.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = History(tmp_path / "runs/stock/history.jsonl").rows
    assert [row["step"] for row in rows] == [0, 50, 100, 150, 200]
    assert rows[-1]["metrics"]["train/loss"] < rows[0]["metrics"]["train/loss"]
    assert "'icl/accuracy'" in done.stdout


@pytest.mark.integration
def test_finetune_any_causal_language_model(run_example, tmp_path, pretrained):
    run_example(ROOT / "examples/finetune_causal_lm.py", pretrained, "--steps", "2", "--classes", "60")
    assert_learned(tmp_path / "runs/finetune", steps=2)


@pytest.mark.integration
def test_the_same_under_accelerate_launch(programs, run_example, tmp_path, pretrained):
    """Two processes split each batch of 32, and end where one process does."""
    words = [
        ROOT / "examples/finetune_distributed.py",
        pretrained,
        "--steps",
        "2",
        "--classes",
        "60",
        "--cpu",
    ]
    launch = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "examples/accelerate/cpu.yaml"]
    run_example(*launch, *words, "--output", "two", PYTHON_EXEC=programs.python)
    run_example(*words, "--output", "one")
    one, two = assert_learned(tmp_path / "one", steps=2), assert_learned(tmp_path / "two", steps=2)
    assert one == pytest.approx(two, rel=1e-3)


def assert_learned(folder, steps):
    """The loss falls; return the losses, and find model and tokenizer saved."""
    losses = [row["metrics"]["train/loss"] for row in History(folder / "history.jsonl").rows]
    assert losses[-1] < losses[0] - 0.02
    assert {"model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / f"checkpoint-{steps}").iterdir()
    }
    return losses


@pytest.mark.parametrize("name", ["finetune_causal_lm", "finetune_distributed"])
def test_examples_are_short(name):
    assert len((ROOT / f"examples/{name}.py").read_text().splitlines()) < 60


def test_the_stock_example_is_twelve_lines():
    lines = (ROOT / "examples/stock_trainer.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.startswith('"""')]
    assert len(code) <= 12


def test_the_readme_shows_the_example_as_it_is():
    code = (ROOT / "examples/stock_trainer.py").read_text().split('"""\n', 1)[1].strip()
    assert code in (ROOT / "README.md").read_text()
