"""Run folders: killed anywhere and resumed, they end in the same bytes."""

import functools
import json
import os
import shutil
import signal
import subprocess
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import yaml

from hf_icl import files
from hf_icl.config import _models_in
from hf_icl.errors import ConfigError, RunError
from hf_icl.history.history import History
from hf_icl.history.lines import decode_row
from hf_icl.locks import LOCK_FILE
from hf_icl.runs.config import RunConfig, load_config
from hf_icl.runs.extending import extend
from hf_icl.runs.run import Run
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.training.checkpoints import find_checkpoint, is_whole, tidy_checkpoints
from tests.programs import TINY

SETTINGS = [*TINY, "training.steps=30", "training.checkpoint_every=6", "evaluate=4"]
CONTENTS = ("history.jsonl", "model.safetensors", "config.json")


def small_config(*more: str) -> RunConfig:
    return load_config("default", [*SETTINGS, *more])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = Run.create(small_config(), tmp_path_factory.mktemp("runs") / "run")
    run.train()
    return run.folder


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_history_row(row: int) -> None:
    """Write the first half of a row, then die."""
    write = History._write

    def half(self, line):
        if len(self.rows) == row:
            with open(self.path, "ab") as file:
                file.write(line[: len(line) // 2])
            die()
        write(self, line)

    History._write = half


def die_in_weights(save: int) -> None:
    """Write half of a weight file, then die: `save` counts from 1."""
    saved = []
    whole = safetensors.torch.save_file

    def half(tensors, filename, *args, **kwargs):
        whole(tensors, filename, *args, **kwargs)
        saved.append(filename)
        if len(saved) == save:
            os.truncate(filename, os.path.getsize(filename) // 2)
            die()

    import transformers.modeling_utils

    transformers.modeling_utils.safe_save_file = half


def die_in_optimizer(save: int) -> None:
    saved, whole = [], torch.save

    def half(value, path, *args, **kwargs):
        whole(value, path, *args, **kwargs)
        if str(path).endswith("optimizer.pt"):
            saved.append(path)
            if len(saved) == save:
                os.truncate(path, os.path.getsize(path) // 2)
                die()

    torch.save = half


def die_in_copy(number: int) -> None:
    """Copy half of the final model, then die."""
    whole, seen = shutil.copyfile, []

    def half(source, target):
        whole(source, target)
        seen.append(target)
        if len(seen) == number:
            os.truncate(target, os.path.getsize(target) // 2)
            die()

    shutil.copyfile = half


def die_before_manifest(number: int) -> None:
    """Leave the manifest's temporary file behind, and the checkpoint without a mark."""
    replace, seen = os.replace, []

    def stop(source, target):
        if str(target).endswith("complete.json"):
            seen.append(target)
            if len(seen) == number:
                die()
        replace(source, target)

    files.os.replace = stop


def die_in_rotation(number: int) -> None:
    """Delete some files of an old checkpoint, then die."""
    rmtree, seen = shutil.rmtree, []

    def partly(path, *args, **kwargs):
        if "checkpoint-" in str(path):
            seen.append(path)
            if len(seen) == number:
                os.unlink(Path(path) / "optimizer.pt")
                die()
        rmtree(path, *args, **kwargs)

    shutil.rmtree = partly


def die_in_mid_deletion(number: int, n_files: int) -> None:
    """Delete so many files of an old checkpoint, then die."""
    from transformers import trainer_utils

    rmtree, seen = shutil.rmtree, []

    def partly(path, *args, **kwargs):
        seen.append(path)
        if len(seen) == number:
            time.sleep(1.1)  # the host goes by times of folders, if they are a second apart
            for file in sorted(Path(path).iterdir(), reverse=True)[:n_files]:
                file.unlink()
            die()
        rmtree(path, *args, **kwargs)

    trainer_utils.shutil = SimpleNamespace(**vars(shutil) | {"rmtree": partly})


PARTS = {
    name: functools.partial(die_in_mid_deletion, n_files=count)
    for name, count in {"none": 0, "some": 2, "most": 5}.items()
}


def die_at_step(step: int) -> None:
    from hf_icl.training.display import LiveDisplay

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            die()

    LiveDisplay.on_step_end = stop


def in_a_process(work) -> int:
    """Run a function in a fork of this process; return its exit code, −9 if it was killed.

    Not for what trains: autograd may have threads here, which the fork would lack.
    """
    child = get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    return child.exitcode


def train_until_killed(folder: Path, trap, when: int) -> None:
    torch.set_num_threads(1)
    trap(when)
    Run.open(folder).train()


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    for name in CONTENTS:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert is_whole(folder) and not list(folder.rglob(".*.tmp"))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("trap", "when"),
    [
        (die_in_history_row, 0),
        (die_in_history_row, 4),
        (die_in_history_row, 8),
        (die_in_weights, 1),
        (die_in_weights, 3),
        (die_in_copy, 1),
        (die_in_copy, 2),
        (die_in_optimizer, 2),
        (die_before_manifest, 1),
        (die_before_manifest, 4),
        (die_before_manifest, 6),
        (die_in_rotation, 1),
        (die_in_rotation, 2),
        (die_at_step, 1),
        (die_at_step, 17),
        (die_at_step, 30),
    ],
)
def test_killed_anywhere_a_run_resumes_to_the_same_bytes(programs, tmp_path, undisturbed, trap, when):
    run = Run.create(small_config(), tmp_path / "run")
    assert programs.call(train_until_killed, run.folder, trap, when) == -signal.SIGKILL
    assert not run.is_finished
    Run.open(run.folder).train()
    assert_same_run(run.folder, undisturbed)


@pytest.mark.integration
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("part", ["none", "some", "most"])
def test_killed_while_an_old_checkpoint_is_deleted_the_same_ones_are_kept(
    programs, tmp_path, undisturbed, number, part
):
    """What is there in part only is as if it was not, and nothing sound is deleted in its place."""
    run = Run.create(small_config(), tmp_path / "run")
    assert programs.call(train_until_killed, run.folder, PARTS[part], number) == -signal.SIGKILL
    Run.open(run.folder).train()
    assert_same_run(run.folder, undisturbed)
    kept = [{path.name for path in folder.glob("checkpoint-*")} for folder in (run.folder, undisturbed)]
    assert kept[0] == kept[1] and len(kept[0]) == 2


def test_killed_again_and_again(programs, tmp_path, undisturbed):
    run = Run.create(small_config(), tmp_path / "run")
    traps = [(die_in_weights, 2), (die_in_history_row, 5), (die_before_manifest, 2), (die_at_step, 25)]
    for trap, when in traps:
        assert programs.call(train_until_killed, run.folder, trap, when) == -signal.SIGKILL
    Run.open(run.folder).train()
    assert_same_run(run.folder, undisturbed)


def test_killed_while_the_folder_is_made_there_is_none(tmp_path):
    def make():
        os.replace = lambda source, target: (
            die() if Path(target) == tmp_path / "run" else real(source, target)
        )
        Run.create(small_config(), tmp_path / "run")

    real = os.replace
    assert in_a_process(make) == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    Run.create(small_config(), tmp_path / "run")


def test_another_seed_gives_another_run(tmp_path, undisturbed):
    run = Run.create(small_config("seed=1"), tmp_path / "run")
    run.train()
    assert (run.folder / "history.jsonl").read_bytes() != (undisturbed / "history.jsonl").read_bytes()


def test_files_of_a_run_have_the_permissions_of_the_umask(undisturbed):
    files = [path for path in undisturbed.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "optimizer.pt", "run.json"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~current_umask()}


def current_umask() -> int:
    os.umask(umask := os.umask(0))
    return umask


def test_a_finished_run_is_left_alone(undisturbed):
    """But for the lock, which it takes while it looks."""

    def look():
        return {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.name != LOCK_FILE}

    before = look()
    Run.open(undisturbed).train()
    assert look() == before


def test_the_folder_holds_config_origin_and_model(undisturbed):
    about = json.loads((undisturbed / "run.json").read_text())
    assert RunConfig(**yaml.safe_load((undisturbed / "config.yaml").read_text())) == small_config()
    assert {"torch", "transformers", "hf-icl"} <= set(about["provenance"]["versions"])
    assert about["n_sequences"]["icl"] == 40 and about["chance"]["icl/context_accuracy"] == 0.5
    run = Run.open(undisturbed)
    model, task = run.load_model(), run.build_task()
    assert task.measure(model)[0] == run.history.rows[-1]["metrics"]
    assert run.load_model("checkpoint-24").config.n_labels == 4


def test_a_record_carries_what_a_report_needs(undisturbed):
    record = Run.open(undisturbed).record()
    assert [row["step"] for row in record.rows] == [0, 4, 8, 12, 16, 20, 24, 28, 30]
    assert record.provenance["seed"] == 0


def test_a_used_folder_is_not_written_over(undisturbed):
    with pytest.raises(RunError, match="hf-icl resume"):
        Run.create(small_config(), undisturbed)


def test_a_config_that_cannot_work_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError):
        Run.create(small_config("task.train.fillers=different", "task.bank.n_classes=2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_config_is_refused_by_name(tmp_path):
    run = Run.create(small_config(), tmp_path / "run")
    text = (run.folder / "config.yaml").read_text()
    now = f"learning_rate: {run.config.training.learning_rate}"
    assert text.count(now) == 1
    (run.folder / "config.yaml").write_text(text.replace(now, "learning_rate: 0.5"))
    with pytest.raises(RunError, match="differs .* in training.learning_rate"):
        Run.open(run.folder)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "run.json").unlink(), "not a run folder"),
        (lambda folder: (folder / "run.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "run.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "config.yaml").write_text("a: ["), "cannot be read"),
        (lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe"), "cannot be read"),
        (
            lambda folder: (folder / "run.json").write_text(
                (folder / "run.json").read_text().replace('"schema": 1', '"schema": 99')
            ),
            "format 99",
        ),
    ],
)
def test_unreadable_folders_say_what_is_wrong(tmp_path, damage, text):
    run = Run.create(small_config(), tmp_path / "run")
    damage(run.folder)
    with pytest.raises(RunError, match=text):
        Run.open(run.folder)


def test_a_run_without_rows_has_no_report(tmp_path):
    run = Run.create(small_config(), tmp_path / "run")
    with pytest.raises(RunError, match="nothing has been measured yet"):
        run.record()
    with pytest.raises(RunError, match="no whole model"):
        run.load_model()


def test_only_whole_checkpoints_are_found(tmp_path, undisturbed):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    assert find_checkpoint(folder).name == "checkpoint-30"
    os.truncate(folder / "checkpoint-30/model.safetensors", 100)
    assert find_checkpoint(folder).name == "checkpoint-24" and (folder / "checkpoint-30").exists()
    (folder / "checkpoint-18").mkdir()  # as a kill leaves it, before it is marked
    assert [path.name for path in tidy_checkpoints(folder, 30)] == ["checkpoint-24"]
    assert {path.name for path in folder.glob("*checkpoint*")} == {"damaged-checkpoint-30", "checkpoint-24"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["training.steps=0"], "training.steps = 0: should be greater than or equal to 1"),
        (["training.stepz=5"], "training.stepz = 5: unknown key. Did you mean steps?"),
        (["training.learning_rate=-1"], "training.learning_rate = -1: should be greater than 0"),
        (["training.schedule=inverse_sqrt"], "training.warmup_steps = 0: schedule inverse_sqrt needs"),
        (["training.warmup_steps=9"], "training.warmup_steps = 9: schedule constant has no warm-up"),
        (["training.arguments.gradient_acumulation_steps=2"], "Did you mean gradient_accumulation_steps?"),
        (["training.arguments.max_steps=2"], "training.arguments.max_steps = 2: the run sets this itself"),
        (
            ["training.keep_checkpoints=1"],
            "training.keep_checkpoints = 1: should be greater than or equal to 2",
        ),
        (["training.keep_best=icl/acuracy"], "training.keep_best"),
        (["model.n_heads=5"], "model.d_model = 64: must be a multiple of n_heads = 5"),
        (["model.backbone={n_layer: 2}"], "a backbone needs its model_type"),
        (["seed=-1"], "seed = -1: should be greater than or equal to 0"),
        (["seed=abc"], "seed = 'abc': must be a number"),
        (["evaluate.every=0"], "evaluate.every = 0"),
        (["nonsense=1"], "nonsense = 1: unknown key"),
    ],
)
def test_bad_settings_are_told_by_name(words, text):
    with pytest.raises(ConfigError) as error:
        load_config("default", words)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("source", "text"), [("defualt", "Did you mean default?"), ("missing.yaml", "cannot be read")]
)
def test_unknown_sources(source, text):
    with pytest.raises(ConfigError, match=text):
        load_config(source)


def test_a_file_may_build_on_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: default\ntraining: {steps: 7}\n")
    config = load_config(str(path), ["seed=2"])
    assert config.training.steps == 7 and config.seed == 2 and config.task.bank.n_labels == 32
    path.write_text("[1, 2]")
    with pytest.raises(ConfigError, match="must be a mapping of keys to values"):
        load_config(str(path))


@pytest.mark.integration
@pytest.mark.parametrize("words", [["evaluate=1", "training.checkpoint_every=999"], ["evaluate=30"]])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(small_disk, words):
    """First the history fills the disk, then a checkpoint does."""
    by_history = words[0] == "evaluate=1"
    steps = "training.steps=60" if by_history else "training.steps=30"
    run = Run.create(small_config(*words, steps), small_disk / "run")
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * (270_000 if by_history else 170_000))
    said = "a row could not be written .*hf-icl resume" if by_history else "the disk is full .*hf-icl resume"
    with pytest.raises(RunError, match=said):
        run.train()
    rows = Run.open(run.folder).history.rows
    assert rows and rows == [
        decode_row(line) for line in (run.folder / "history.jsonl").read_text().splitlines()
    ]
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    Run.open(run.folder).train()
    assert run.is_finished and run.history.last_step == run.config.training.steps


def list_bounds(model, path=""):
    """Yield (dotted name, a value just outside) for every bounded number in a config."""
    for name, field in model.model_fields.items():
        for nested in _models_in(model, name):
            if nested not in (model, SequenceSpec) or name == "train":
                yield from list_bounds(nested, f"{path}{name}.")
        for bound in field.metadata:
            for kind, outside in (("ge", -1), ("le", 1), ("gt", 0), ("lt", 0)):
                limit = getattr(bound, kind, None)
                if limit is not None:
                    yield f"{path}{name}", limit + outside * max(1, abs(limit) * 1e-3)


BOUNDS = [
    (name, value)
    for name, value in list_bounds(RunConfig)
    if not name.startswith(("task.bank.", "task.extra_evaluators.", "training.interventions."))
]


NEEDED = {"evaluate.text": ["evaluate.text.source=FILE.txt"]}
"""What a part must be told besides, by its name."""


@pytest.mark.parametrize(("name", "value"), BOUNDS, ids=[f"{name}={value}" for name, value in BOUNDS])
def test_every_bounded_setting_is_refused_by_name_just_outside(name, value):
    with pytest.raises(ConfigError) as error:
        load_config("default", [*NEEDED.get(name.rpartition(".")[0], []), f"{name}={value}"])
    assert name in str(error.value) and "should be" in str(error.value)


def test_a_kill_while_a_run_is_given_more_steps_leaves_one_that_opens(tmp_path):
    """The record is written first; the config, which a kill left as it was, follows from it."""
    run = Run.create(load_config("default", [*TINY, "training.steps=4", "evaluate=2"]), tmp_path / "run")
    before = (run.folder / "config.yaml").read_bytes()
    extend(run, 6)
    (run.folder / "config.yaml").write_bytes(before)
    assert Run.open(run.folder).config.training.steps == 6
    (run.folder / "config.yaml").write_bytes(before.replace(b"steps: 4", b"steps: 5"))
    with pytest.raises(RunError, match="differs from the config"):
        Run.open(run.folder)
