"""One process per folder, and no file of a run that was changed, lost or exchanged goes unseen.

Harm is generated: which file, which byte, which bit. A command then ends in what an undisturbed run ends in,
or in one sentence and exit code 2, never in other numbers.
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from hf_icl.errors import RunError
from hf_icl.locks import HOLDER_FILE, STALE_S, hold
from hf_icl.runs.config import load_config
from hf_icl.runs.replicas import train_replicas
from hf_icl.runs.run import Run
from hf_icl.training.checkpoints import STATE_FILE, find_damage, list_folders, step_of
from tests.programs import TINY

SETTINGS = [*TINY, "training.steps=30", "training.checkpoint_every=6", "evaluate=6"]
ENDED = ("history.jsonl", "model.safetensors", "config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that has ended undisturbed."""
    run = Run.create(load_config("default", SETTINGS), tmp_path_factory.mktemp("whole") / "run")
    run.train()
    return run.folder


@pytest.fixture
def stopped(whole, tmp_path) -> Path:
    """The same run, as a kill after its last checkpoint would have left it."""
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in ("complete.json", "model.safetensors", "config.json"):
        (folder / name).unlink()
    return folder


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def lose(path: Path, rng: random.Random) -> None:
    path.unlink()


def zero(path: Path, rng: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def assert_same(folder: Path, whole: Path) -> None:
    for name in ENDED:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def resume(folder: Path) -> None:
    Run.open(folder).train()


# ---- one process per folder ----


@pytest.mark.integration
def test_a_run_is_trained_by_one_process_at_a_time(launcher, stopped):
    """Both at work at once: one is refused, naming the other, and the run ends as if alone."""
    with hold(stopped):
        for command in ("resume", "resume"):
            ended = launcher.hf_icl(command, stopped.name, folder=stopped.parent)
            assert ended.code == 2 and f"process {os.getpid()} on" in ended.err, ended.err
    resume(stopped)


def test_replicas_hold_the_folders_of_all(stopped):
    with hold(stopped), pytest.raises(RunError, match="at work here"):
        train_replicas([Run.open(stopped)], n_processes=1)


def test_a_dead_holder_is_taken_over(programs, tmp_path):
    """The system gives its lock back, whatever its file says."""
    code = f"""
import os, signal
from pathlib import Path
from hf_icl.locks import hold
with hold(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert programs.start(code=code).wait().code == -9 and (tmp_path / HOLDER_FILE).exists()
    with hold(tmp_path):
        pass
    assert not (tmp_path / HOLDER_FILE).exists()


@pytest.mark.parametrize(("age_s", "is_refused"), [(0, True), (STALE_S - 20, True), (STALE_S + 20, False)])
def test_a_holder_on_another_machine_counts_while_its_heart_beats(tmp_path, age_s, is_refused):
    """On a shared disk whose locks do not reach from machine to machine."""
    told = {"host": "elsewhere", "pid": 7, "since": "noon", "command": "hf-icl resume runs/a"}
    (tmp_path / HOLDER_FILE).write_text(json.dumps(told))
    then = time.time() - age_s
    os.utime(tmp_path / HOLDER_FILE, (then, then))
    if is_refused:
        with pytest.raises(RunError, match=r"process 7 on elsewhere, since noon \(hf-icl resume runs/a\)"):
            with hold(tmp_path):
                pass
    else:
        with hold(tmp_path):
            pass


@pytest.mark.parametrize("content", [b"", b"\x00" * 9, b"[]", b"null", b'{"host": 3}', b"\xff"])
def test_a_broken_holder_file_is_no_obstacle(tmp_path, content):
    (tmp_path / HOLDER_FILE).write_bytes(content)
    with hold(tmp_path):
        pass


# ---- checkpoints ----


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(24))
def test_a_harmed_newest_checkpoint_is_set_aside_and_the_one_before_taken(stopped, whole, caplog, seed):
    rng = random.Random(seed)
    newest = list_folders(stopped)[-1]
    path = rng.choice([path for path in sorted(newest.iterdir()) if path.name != "complete.json"])
    (flip, flip, flip, cut, lose, zero)[seed % 6](path, rng)
    assert find_damage(newest).startswith(path.name)
    resume(stopped)
    assert_same(stopped, whole)
    assert f"{path.name} " in caplog.text and "damaged-checkpoint-30" in caplog.text
    assert (stopped / "damaged-checkpoint-30").is_dir() and find_damage(stopped) is None


def test_where_no_checkpoint_is_sound_nothing_is_trained_or_moved(stopped):
    before = {path.name for path in stopped.glob("[!.]*")}
    for folder in list_folders(stopped):
        flip(folder / "optimizer.pt", random.Random(0))
    with pytest.raises(RunError, match=r"no checkpoint is as it was written \(checkpoint-30: optimizer.pt"):
        resume(stopped)
    assert {path.name for path in stopped.glob("[!.]*")} == before


def test_a_checkpoint_under_another_name_is_not_believed(stopped, whole, caplog):
    """`checkpoint-60` that holds step 24 would end as finished at 60."""
    shutil.rmtree(stopped / "checkpoint-30")
    (stopped / "checkpoint-24").rename(stopped / "checkpoint-30")
    with pytest.raises(RunError, match="holds step 24"):
        resume(stopped)
    (stopped / "checkpoint-30").rename(stopped / "checkpoint-60")
    with pytest.raises(RunError, match="later than training.steps = 30"):
        resume(stopped)


@pytest.mark.parametrize("name", ["step", "sequences", "n_rows", "global_step"])
@pytest.mark.parametrize("value", [7, -1, True, None, "30", 1e3, 10**30])
def test_counts_in_a_checkpoint_agree_with_the_config(stopped, name, value):
    """Whoever edits a state can edit its hash, too."""
    for folder in list_folders(stopped):
        state = json.loads((folder / STATE_FILE).read_text())
        holder = state if name == "global_step" else state["stateful_callbacks"]["hf_icl"]["attributes"]
        holder[name] = value
        (folder / STATE_FILE).write_text(json.dumps(state))
        (folder / "complete.json").unlink()
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        (folder / "complete.json").write_text(json.dumps(sizes))  # as version 0.1.0 wrote it
    with pytest.raises(RunError):
        resume(stopped)


@pytest.mark.integration
def test_a_part_that_is_missing_is_no_smaller_checkpoint(tmp_path, monkeypatch):
    """Something deletes a file while a run saves: the run ends there, and goes on from the one before."""
    from transformers import Trainer

    save = Trainer._save_optimizer_and_scheduler

    def save_and_lose(self, folder):
        save(self, folder)
        if folder.endswith("-12"):
            (Path(folder) / "optimizer.pt").unlink()

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", save_and_lose)
    run = Run.create(load_config("default", SETTINGS), tmp_path / "run")
    with pytest.raises(RunError, match="checkpoint-12: its optimizer is missing"):
        run.train()
    monkeypatch.undo()
    resume(run.folder)
    assert run.is_finished


@pytest.mark.integration
def test_a_harmed_finished_model_is_told_and_made_again(whole, tmp_path, caplog):
    for seed in range(6):
        folder = shutil.copytree(whole, tmp_path / str(seed))
        flip(folder / "model.safetensors", random.Random(seed))
        with pytest.raises(RunError, match="model.safetensors is not as it was written"):
            Run.open(folder).load_model()
        resume(folder)
        assert "It is made again from the last checkpoint" in caplog.text
        assert_same(folder, whole)
        Run.open(folder).load_model()


@pytest.mark.integration
def test_replicas_go_on_from_the_last_step_that_all_have_sound(whole, tmp_path, caplog):
    folders = [tmp_path / "0", tmp_path / "1"]
    runs = [
        Run.create(load_config("default", [*SETTINGS, f"seed={seed}"]), folder)
        for seed, folder in enumerate(folders)
    ]
    train_replicas(runs, n_processes=1)
    ended = {path: path.read_bytes() for folder in folders for path in map(folder.joinpath, ENDED)}
    for folder in folders:
        for name in ("complete.json", "model.safetensors", "config.json"):
            (folder / name).unlink()
    flip(folders[1] / "checkpoint-30/model.safetensors", random.Random(0))
    train_replicas([Run.open(folder) for folder in folders], n_processes=1)
    assert "damaged" in caplog.text
    assert ended == {path: path.read_bytes() for path in ended}


# ---- histories ----


@pytest.mark.integration
@pytest.mark.parametrize("command", ["report", "resume"])
@pytest.mark.parametrize("seed", range(8))
def test_a_harmed_history_is_told_by_line(launcher, stopped, command, seed):
    rng = random.Random(seed)
    path = stopped / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    number = rng.randrange(len(lines) - 1)
    match seed % 4:
        case 0:
            lines[number] = lines[number].replace(b"0.", b"0.1", 1)
        case 1:
            lines[number:number] = lines[number : number + 1]
        case 2:
            del lines[number]
        case 3:
            lines[number : number + 2] = lines[number : number + 2][::-1]
    path.write_bytes(b"".join(lines))
    ended = launcher.hf_icl(command, stopped.name, folder=stopped.parent)
    assert ended.code == 2 and ended.err.startswith("Error ") and "history.jsonl, line" in ended.err


def test_rows_lost_after_the_last_step_come_back_from_the_checkpoints_log(stopped, whole, caplog):
    (stopped / "history.jsonl").unlink()
    resume(stopped)
    rows, known = Run.open(stopped).history.rows, Run.open(whole).history.rows
    assert "rebuilt from the trainer's log" in caplog.text
    assert [(row["step"], row["metrics"]) for row in rows] == [(row["step"], row["metrics"]) for row in known]


@pytest.mark.integration
def test_rows_of_another_run_are_refused(stopped, tmp_path):
    """Whole, with checksums, and of other counts."""
    other = Run.create(load_config("default", [*SETTINGS, "training.batch_size=16"]), tmp_path / "other")
    other.train()
    shutil.copyfile(other.folder / "history.jsonl", stopped / "history.jsonl")
    with pytest.raises(RunError, match="holds another run's files"):
        Run.open(stopped).record()


def test_steps_in_names_are_plain_numbers():
    for name in (
        "checkpoint-",
        "checkpoint-0",
        "checkpoint-060",
        "checkpoint-²",
        "checkpoint-٣",
        "checkpoint--6",
    ):
        assert step_of(Path(name)) is None, name
    assert step_of(Path("checkpoint-" + "9" * 40)) is None
