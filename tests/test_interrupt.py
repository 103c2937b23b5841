"""Ctrl-C while everything is still being imported, or hardly anything has been done, ends quietly."""

import random
import signal
import subprocess
import sys

import pytest

from tests.programs import ROOT, TINY, environment

# Sends itself the signal before the n-th import, or at the first moments of what comes then.
PROGRAM = """
import os, signal, sys
number, sys.argv, seen = int(sys.argv[1]), ["hf-icl", *sys.argv[2:]], 0
def hear(event, words):
    global seen
    if event == "import":
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGINT)
from hf_icl.__main__ import main
sys.addaudithook(hear)
try:
    main()
finally:
    sys.stderr.write(f"{seen} imports" * (not number))
"""
RUN = ["run", "default", *TINY, "training.steps=2", "--output", "run"]


def interrupt(number: int, words: list[str], folder) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, str(number), *words]
    return subprocess.run(
        command, cwd=folder, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True
    )


def assert_quiet(ended: subprocess.CompletedProcess) -> None:
    assert ended.returncode == 130 and ended.stderr.strip() == "", (ended.returncode, ended.stderr)
    assert set(ended.stdout.splitlines()) <= {""} or "Stopped. Continue" in ended.stdout, ended.stdout


@pytest.mark.parametrize("number", sorted(random.Random(0).sample(range(2, 60), 3)))
def test_in_the_first_imports(tmp_path, number):
    assert_quiet(interrupt(number, ["presets"], tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_at_any_import(tmp_path):
    counted = interrupt(0, RUN, tmp_path)
    assert counted.returncode == 0
    n_imports = int(counted.stderr.split()[-2])
    chance = random.Random(1)
    for number in sorted(chance.sample(range(1, n_imports), 12)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert_quiet(interrupt(number, RUN, folder))


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As under nohup, or in the background of a shell script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = interrupt(20, ["--version"], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.returncode == 0 and "hf-icl" in ended.stdout, ended
