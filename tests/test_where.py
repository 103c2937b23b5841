"""Where people run it: any folder they have, disks that refuse, terminals that know few signs, pipes that
close."""

import errno
import os
import subprocess
import sys

import datasets
import pytest
from safetensors import SafetensorError
from transformers import TrainerCallback

import hf_icl
from hf_icl import files
from hf_icl.errors import FileError
from hf_icl.files import find_way_out, is_unused
from hf_icl.report.write import write_report
from hf_icl.runs.config import load_config
from hf_icl.runs.folder import read_record
from hf_icl.runs.run import Run
from hf_icl.training import checkpoints
from hf_icl.training.checkpoints import explain_full_disk
from tests.programs import TINY, environment

QUICK = [*TINY, "training.steps=4", "training.checkpoint_every=4", "evaluate=4"]


def make_read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@pytest.fixture
def disks(mount, tmp_path):
    """A disk that can be read only, and in it the mount point of one that can be written."""
    read_only = tmp_path / "disk"
    read_only.mkdir()
    mount(read_only)
    volume = read_only / "volume"
    volume.mkdir()
    mount(volume)
    (volume / "lost+found").mkdir()
    make_read_only(read_only)
    return read_only, volume


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["mounted", "here", "link"])
def test_any_empty_folder_takes_a_run(programs, disks, tmp_path, kind):
    """A mounted volume whose parent cannot be written, the folder one stands in, a symbolic link."""
    folder = disks[1]
    if kind != "mounted":
        folder = tmp_path / "mine"
        folder.mkdir()
    if kind == "link":
        (tmp_path / "link").symlink_to(folder)
    words = {"mounted": folder, "here": ".", "link": tmp_path / "link"}[kind]
    where = folder if kind == "here" else tmp_path
    for command in (["run", "default", *QUICK, "--output"], ["resume"], ["report"]):
        ended = programs.hf_icl(*command, words, folder=where)
        assert ended.code == 0, ended.err
    assert Run.open(folder).is_finished and (folder / "report/index.html").exists()
    assert Run.open(where / words).record().name == folder.name
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


CASES = ["read-only", "too long", "a file in the way", "a folder that is used"]


@pytest.mark.parametrize(
    ("command", "case"),  # a report replaces an earlier one, and leaves other files alone
    [*(("run", case) for case in CASES), *(("report", case) for case in CASES[:-1])],
)
def test_where_nothing_can_be_written_a_sentence_says_why_and_what_to_do(
    programs, disks, tmp_path, run_folder, command, case
):
    (tmp_path / "file").write_text("mine")
    target = {
        "read-only": disks[0] / "new",
        "too long": tmp_path / ("n" * 300),
        "a file in the way": tmp_path / "file" / "new",
        "a folder that is used": tmp_path,
    }[case]
    if command == "report":
        ended = programs.hf_icl("report", run_folder, "--output", target)
    else:
        ended = programs.hf_icl("run", "default", *QUICK, "--output", target)
    assert ended.code == 2 and "Traceback" not in ended.err
    assert ended.err.startswith("Error") and ended.err.count("\n") == 1
    assert str(target)[:200] in ended.err and ended.err.rstrip().endswith(".")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def run_folder(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("where") / "run"
    assert programs.hf_icl("run", "default", *QUICK, "--output", folder).code == 0
    return folder


@pytest.mark.integration
def test_a_run_on_a_disk_that_became_read_only_is_told(programs, disks):
    folder = disks[1] / "run"
    assert programs.hf_icl("run", "default", *QUICK, "training.steps=4", "--output", folder).code == 0
    make_read_only(disks[1])
    for command in ("resume", "report"):
        ended = programs.hf_icl(command, folder)
        assert ended.code == 2 and "Read-only file system" in ended.err and ended.err.count("\n") == 1
        assert str(folder) in ended.err


@pytest.mark.parametrize("raised", [SafetensorError("I/O error"), RuntimeError("failed writing")])
def test_what_libraries_say_of_a_disk_becomes_what_the_disk_says(disks, tmp_path, raised):
    with pytest.raises(FileError, match="Read-only file system.*Choose a place"), explain_full_disk(disks[0]):
        raise raised
    with pytest.raises(type(raised)), explain_full_disk(tmp_path):  # another fault is not the disk's
        raise raised


@pytest.mark.parametrize("number", sorted(files._WAYS_OUT))
@pytest.mark.parametrize("way_on", [None, "do the same again"])
def test_what_the_system_refused_is_told_with_what_is_whole_and_the_way_on(
    tmp_path, monkeypatch, number, way_on
):
    """What torch raises where a quota is exceeded, say: the reason is the system's, the folder named."""
    monkeypatch.setattr(checkpoints, "_find_obstacle", lambda _: OSError(number, os.strerror(number)))
    with pytest.raises(FileError) as told, explain_full_disk(tmp_path, way_on):
        raise RuntimeError("PytorchStreamWriter failed")
    said = str(told.value)
    head = (
        f"{tmp_path}: cannot be written ({os.strerror(number)}). History and earlier checkpoints are whole. "
    )
    assert said.startswith(head) and "RUN" not in said and "{" not in said
    if number in (errno.ENOSPC, errno.EDQUOT):
        assert said == head + f"Free some space, then {way_on or f'continue with: hf-icl resume {tmp_path}'}"


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_has_a_way_out(number):
    text = str(FileError("runs/a", OSError(number, os.strerror(number)), find_way_out(OSError(number, ""))))
    assert text.startswith("runs/a: cannot be written (") and len(text) < 200


@pytest.mark.integration
@pytest.mark.usefixtures("_blank_figures")
def test_a_report_made_while_a_run_works_harms_neither(tmp_path):
    """At every step one report is written from what is there; the run ends in the bytes of one left alone."""
    runs = [Run.create(load_config("default", QUICK), tmp_path / name) for name in ("watched", "alone")]

    class Watcher(TrainerCallback):
        steps = []

        def on_step_end(self, args, state, control, **kwargs):
            record = read_record(runs[0].folder)
            write_report([record], runs[0].folder / "report", card=runs[0].folder / "README.md")
            self.steps.append(record.columns.steps[-1])

    runs[0].train(callbacks=[Watcher()])
    runs[1].train()
    assert Watcher.steps == [0, 0, 0, 4]
    for name in ("history.jsonl", "model.safetensors"):
        assert (runs[0].folder / name).read_bytes() == (runs[1].folder / name).read_bytes()
    assert runs[0].is_finished


def test_a_link_that_leads_nowhere_is_not_unused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert not is_unused(tmp_path / "link") and is_unused(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_no_training_and_few_signs_are_enough(tmp_path):
    """ASCII alone, twenty columns, a locale of no language; after a line nobody reads on."""
    command = [sys.executable, "-m", "hf_icl", "run", "default", *QUICK, "--output", tmp_path / "run"]
    plain = dict(PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", COLUMNS="20")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=environment(**plain), **pipes) as process:
        assert process.stdout.readline().startswith("Run folder")
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and errors == ""
    assert Run.open(tmp_path / "run").is_finished and (tmp_path / "run/report/index.html").exists()


def test_streaming_needs_no_folder_to_write_to(disks, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", disks[0] / "home/.cache/huggingface/datasets")
    sizes = dict(n_classes=16, n_sequences=8)
    for load in (datasets.load_dataset, hf_icl.load_dataset):
        rows = load("hf_icl", "gaussian", split="train", streaming=True, **sizes)
        assert len(list(rows)) == 8
    assert "kept for this process only" in caplog.text
    assert len(hf_icl.load_dataset(split="train", **sizes)) == 8
    with pytest.raises(FileError, match=r"disk/cache: cannot be written .* Name another cache_dir"):
        hf_icl.load_dataset(split="train", cache_dir=str(disks[0] / "cache"), **sizes)
