"""The examples run as they stand."""

import subprocess
import sys

import pytest

from hf_icl.history import History
from tests.programs import ROOT, environment


@pytest.mark.parametrize("name", ["stock_trainer"])
def test_example(tmp_path, name):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = History(tmp_path / "runs/stock/history.jsonl").rows
    assert [row["step"] for row in rows] == [0, 50, 100, 150, 200]
    assert rows[-1]["metrics"]["train/loss"] < rows[0]["metrics"]["train/loss"]
    assert "'icl/accuracy'" in done.stdout


def test_the_stock_example_is_twelve_lines():
    lines = (ROOT / "examples/stock_trainer.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.startswith('"""')]
    assert len(code) <= 12


def test_the_readme_shows_the_example_as_it_is():
    code = (ROOT / "examples/stock_trainer.py").read_text().split('"""\n', 1)[1].strip()
    assert code in (ROOT / "README.md").read_text()
