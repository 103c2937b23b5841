"""The examples run as they stand."""

import subprocess
import sys

import pytest

from hf_icl.history.history import History
from tests.programs import ROOT, environment
from tests.small_lm import pretrain


def run_example(command, folder, **more):
    done = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_stock_trainer(tmp_path):
    said = run_example([sys.executable, ROOT / "examples/stock_trainer.py"], tmp_path)
    rows = History(tmp_path / "runs/stock/history.jsonl").rows
    assert [row["step"] for row in rows] == [0, 50, 100, 150, 200]
    assert rows[-1]["metrics"]["train/loss"] < rows[0]["metrics"]["train/loss"]
    assert "'icl/accuracy'" in said


@pytest.fixture(scope="module")
def model_id(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pretrain(folder, steps=20)
    return folder


def test_finetune_any_causal_language_model(tmp_path, model_id):
    words = [ROOT / "examples/finetune_causal_lm.py", model_id, "--steps", "20", "--classes", "60"]
    run_example([sys.executable, *words], tmp_path)
    assert_learned(tmp_path / "runs/finetune", steps=20)


def test_the_same_under_accelerate_launch(tmp_path, model_id):
    """Two processes split each batch of 32, and end where one process does."""
    words = [ROOT / "examples/finetune_distributed.py", model_id, "--steps", "8", "--classes", "60", "--cpu"]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        ROOT / "examples/accelerate/cpu.yaml",
    ]
    run_example([*launch, *words, "--output", "two"], tmp_path)
    run_example([sys.executable, *words, "--output", "one"], tmp_path)
    one, two = assert_learned(tmp_path / "one", steps=8), assert_learned(tmp_path / "two", steps=8)
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
