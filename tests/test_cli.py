"""The `hf-icl` command, as a person types it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import hf_icl
from hf_icl.cli import main as cli
from hf_icl.data.packaged import register
from tests.programs import TINY, environment

QUICK = [*TINY, "training.steps=12", "training.checkpoint_every=4", "evaluate=4"]
pytestmark = pytest.mark.usefixtures("_blank_figures")


def call(*words, code=0):
    """Run a command in this process, errors handled as the entry point handles them."""
    result = CliRunner().invoke(cli.app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The command as a shell starts it, in a Python of its own."""
    register()
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = [sys.executable, "-m", "hf_icl", "run", "default", *QUICK, "--output", folder]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.integration
def test_a_run_shows_progress_verdict_and_where_the_report_is(run_folder):
    folder, done = run_folder
    assert re.search(r"step +12 / 12 .* ICL 0\.\d{3} .* IWL .* flip .* loss", done.stdout)
    assert f"Report: {folder}/report/index.html" in done.stdout and "ICL accuracy, peak" in done.stdout
    assert {"transience.json", "history.parquet", "transience.png", "transience.svg", "index.html"} <= set(
        os.listdir(folder / "report")
    )
    assert "hf-icl run default" in (folder / "README.md").read_text()
    assert done.stderr == ""


@pytest.mark.integration
def test_a_live_view_is_drawn_where_there_is_a_terminal(programs, tmp_path):
    """A real terminal: `script` gives the process a pseudo-terminal."""
    if not os.path.exists("/usr/bin/script"):
        pytest.skip("util-linux `script` is not on this machine")
    command = f"{programs.python} -m hf_icl run default {' '.join(QUICK)} --output {tmp_path / 'run'}"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        env=environment(TERM="xterm"),
        capture_output=True,
        text=True,
    )
    assert "steps/s" in done.stdout and "left" in done.stdout and "▁" in done.stdout and "━" in done.stdout
    assert (tmp_path / "run/report/index.html").exists()


@pytest.mark.integration
def test_reports_of_several_runs(run_folder, tmp_path):
    folder, _ = run_folder
    second = tmp_path / "second"
    call("run", "default", *QUICK, "seed=1", "--output", second)
    output = call("report", folder, second, "--output", tmp_path / "both")
    assert re.search(r"ICL emerged in \d of 2 replicas", output)
    document = json.loads((tmp_path / "both/transience.json").read_text())
    assert [run["name"] for run in document["runs"]] == ["run", "second"]


@pytest.mark.integration
@pytest.mark.parametrize("count", [1, 5])
def test_a_report_ends_with_what_is_to_be_read(run_folder, tmp_path, count):
    """A terminal of 80 × 24 shows the verdict, and no line runs over."""
    folders = [tmp_path / f"copy-{number}" for number in range(count)]
    for folder in folders:
        shutil.copytree(run_folder[0], folder)
    lines = call("report", *folders, "--output", tmp_path / "all").splitlines()
    shown = "\n".join(lines[-24:])
    assert all(len(line) <= 80 for line in lines if line.startswith(" "))
    assert lines[-1].startswith("Report: ") and re.search(
        "never emerged|still rising|transient|persist", shown
    )
    assert ("copy-4" if count == 5 else "copy-0: ") in shown


@pytest.mark.integration
def test_evaluate_agrees_with_the_history(run_folder):
    folder, _ = run_folder
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    measured = json.loads(call("evaluate", folder, "--json"))
    assert {name: entry["value"] for name, entry in measured.items()} == last["metrics"]
    assert measured["icl/accuracy"]["chance"] == 0.25
    assert "icl/accuracy" in call("evaluate", folder, "--checkpoint", "checkpoint-8")


@pytest.mark.integration
def test_evaluate_takes_a_saved_model_and_a_task(run_folder, tmp_path):
    from hf_icl.runs.run import Run

    folder, _ = run_folder
    Run.open(folder).load_model().save_pretrained(tmp_path / "model")
    mine = tmp_path / "mine.yaml"
    mine.write_text((folder / "config.yaml").read_text())
    assert json.loads(call("evaluate", tmp_path / "model", "--task", mine, "--json")) == json.loads(
        call("evaluate", folder, "--json")
    )


def test_presets_are_listed_and_printed_in_full():
    listed = call("presets")
    for name in ("default", "omniglot-cpu", "transience-omniglot-12l", "coopetition-2l"):
        assert name in listed
        assert "training:" in call("presets", name)


def test_example_sweeps_are_listed_printed_and_taken_by_name(tmp_path):
    from hf_icl.sweeps import list_examples, load_sweep

    assert list_examples().keys() == {"l2", "l2_transient", "smollm2"} and "l2_transient" in call("presets")
    (tmp_path / "mine.yaml").write_text(call("presets", "l2"))
    assert load_sweep(tmp_path / "mine.yaml") == load_sweep("l2")
    told = call("sweep", "l2_transient", "--dry-run", "--output", tmp_path / "runs")
    assert "12 runs, 0 finished" in told and not (tmp_path / "runs").exists()


def test_the_help_of_a_sweep_tells_every_key_of_its_file():
    from hf_icl.sweeps import SweepConfig

    told = call("sweep", "--help")
    assert [key for key in SweepConfig.model_fields if not re.search(rf"\b{key}\b", told)] == []


def test_the_version_is_told():
    assert call("--version") == f"hf-icl {hf_icl.__version__}\n"


def test_shells_complete_commands_and_presets():
    """As a shell asks for completions: bash names the words so far, and the number of the one begun."""

    def complete(words):
        asked = {
            "_HF_ICL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        return CliRunner().invoke(cli.app, [], prog_name="hf-icl", env=asked).output.split()

    assert complete("hf-icl re") == ["resume", "report", "reproduce"]
    assert complete("hf-icl run omni") == ["omniglot-cpu"]
    assert complete("hf-icl sweep l2_") == ["l2_transient"]
    assert "--show-completion" in call("--help")


def test_a_printed_preset_is_a_config_file(tmp_path):
    from hf_icl.runs.config import load_config

    (tmp_path / "mine.yaml").write_text(call("presets", "coopetition-2l"))
    assert load_config(str(tmp_path / "mine.yaml")) == load_config("coopetition-2l")


def test_show_draws_sequences():
    output = call("data", "show", "default", *TINY, "--evaluator", "icl", "-n", "2")
    assert "query" in output.lower() and "burst" in output.lower()


def test_export_writes_parquet(tmp_path):
    call("data", "export", *TINY, "--output", tmp_path / "data", "--count", "50")
    assert list((tmp_path / "data").rglob("train*.parquet")) and (tmp_path / "data/README.md").exists()


@pytest.mark.parametrize(
    "command", ["run", "resume", "report", "evaluate", "plan", "sweep", "presets", "data show", "data export"]
)
def test_every_command_has_help_with_an_example(command):
    output = call(*command.split(), "--help")
    assert "Example: hf-icl" in re.sub(r"[\s`]+", " ", output)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run", "defualt"], "Did you mean default?"),
        (["run", "default", "task.train.burts=2"], "Did you mean burst?"),
        (
            ["run", "default", "task.bank.n_classes=1"],
            "task.train.classes = 'train (1 in the pool)': too few classes",
        ),
        (["run", "default", "task.bank.n_labels=2", "task.bank.labels_per_class=3"], "labels_per_class"),
        (["run", "default", "task.train={labels: remapped, n_remap: 99}"], "n_remap"),
        (["resume", "nowhere"], "not a run folder"),
        (["report", "nowhere"], "not a run folder"),
        (["evaluate", "nowhere", "--task", "default"], "neither a run nor a saved model"),
        (["data", "show", "--evaluator", "iclx"], "Did you mean icl?"),
    ],
)
def test_errors_fit_on_a_screen_and_exit_with_2(tmp_path, monkeypatch, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hf-icl", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and text in error and "Traceback" not in error and error.count("\n") < 20
    assert os.listdir(tmp_path) == []


def test_ctrl_c_says_how_to_go_on(programs, tmp_path):
    words = [*TINY, "training.steps=100000", "training.compile=false", "evaluate=10"]
    command = programs.start("run", "default", *words, "--output", tmp_path / "run")
    while not command.is_over() and not (tmp_path / "run/history.jsonl").exists():
        time.sleep(0.01)
    command.send_signal(signal.SIGINT)
    ended = command.wait(60)
    assert ended.code == 130 and f"hf-icl resume {tmp_path / 'run'}" in ended.out
    assert "Traceback" not in ended.err


@pytest.mark.integration
def test_a_model_needs_its_task_named(run_folder):
    from hf_icl.errors import ConfigError

    with pytest.raises(ConfigError, match="does not know its task"):
        call("evaluate", run_folder[0] / "checkpoint-8")


@pytest.mark.integration
def test_killed_for_real_and_resumed_for_real(programs, tmp_path):
    """Two processes killed from outside at whatever they are doing;
    the third finishes with an undisturbed run's bytes."""
    words = [*TINY, "training.steps=120", "training.checkpoint_every=20", "evaluate=10"]
    call("run", "default", *words, "--output", tmp_path / "whole")
    command = ["run", "default", *words, "--output", str(tmp_path / "parts")]
    for n_rows in (3, 7):
        child = programs.start(*command)
        history = tmp_path / "parts/history.jsonl"
        while not child.is_over() and not (history.exists() and history.read_bytes().count(b"\n") >= n_rows):
            time.sleep(0.002)
        assert child.kill().code == -signal.SIGKILL
        command = ["resume", str(tmp_path / "parts")]
    ended = programs.hf_icl(*command)
    assert ended.code == 0, ended.err
    assert (tmp_path / "parts/report/index.html").exists()
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
