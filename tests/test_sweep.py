"""Sweeps: which runs come of a file, what is trained with what,
and that killed ones go on to the same numbers."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from hf_icl.cli import main as cli
from hf_icl.errors import ConfigError, RunError
from hf_icl.files import name_draft
from hf_icl.locks import hold
from hf_icl.report import write_report
from hf_icl.report.sweep import draw_sweep, list_sweep
from hf_icl.runs.config import load_config
from hf_icl.runs.extending import extend
from hf_icl.runs.presets import list_presets
from hf_icl.runs.run import Run
from hf_icl.sweeps import Sweep, SweepConfig, list_points, load_sweep, share_out, train_sweep
from hf_icl.sweeps.engines import Work
from hf_icl.sweeps.jobs import MAX_STACKED, Job, count_workers, tell_alone
from hf_icl.sweeps.progress import SweepProgress
from hf_icl.sweeps.sweep import read_last_step
from hf_icl.sweeps.worker import train_job
from hf_icl.task.evaluators import ICL
from tests.programs import TINY, environment
from tests.report_histories import make_run

STRENGTH = "training.regularization.strength"
TINY_SET = dict(word.split("=") for word in TINY) | {"evaluate": 20, "training.checkpoint_every": 50}
TINY_SET = {key: int(value) for key, value in TINY_SET.items()} | {"training.regularization.kind": "l2"}


def make_sweep(**fields) -> SweepConfig:
    settings = TINY_SET | {"training.steps": 100} | fields.pop("set", {})
    return SweepConfig(**{"set": settings, "labels": {STRENGTH: "L2"}} | fields)


# Points


def test_a_grid_is_every_combination_in_order():
    points = list_points(make_sweep(grid={STRENGTH: [0, 1e-5, 3e-4], "seed": [0, 1]}))
    assert [point.name for point in points] == [
        "L2=0,seed=0", "L2=0,seed=1", "L2=1e-5,seed=0", "L2=1e-5,seed=1", "L2=3e-4,seed=0", "L2=3e-4,seed=1",
    ]  # fmt: skip
    words = [*(f"{key}={value}" for key, value in TINY_SET.items()), "training.steps=100", "seed=1"]
    assert points[3].config == load_config("default", [*words, f"{STRENGTH}=1e-5"])
    assert points[3].values == {STRENGTH: 1e-5, "seed": 1}


def test_points_stand_beside_the_grid_and_may_be_nested():
    sweep = make_sweep(
        grid={"seed": [0, 1]},
        points=[{"model": {"n_layers": 3, "positions": "rotary"}}],
        set={STRENGTH: 0.1},
        labels={},
    )
    points = list_points(sweep)
    assert [point.config.model.n_layers for point in points] == [1, 1, 3]
    assert [point.name for point in points][2] == "n_layers=3,positions=rotary,seed=0"


def test_names_read_well_and_end_with_the_seed():
    groups = "training.regularization.groups"
    grid = {"seed": [0, 1], groups: [["mlp"], ["mlp", "head"], None]}
    points = list_points(make_sweep(grid=grid, set={STRENGTH: 0.1}, labels={groups: "L2 on"}))
    assert [point.name for point in points][:4] == [
        "L2-on=mlp,seed=0", "L2-on=mlp+head,seed=0", "L2-on=null,seed=0", "L2-on=mlp,seed=1",
    ]  # fmt: skip


def test_steps_of_a_sweep_replace_the_every_of_its_base():
    sweep = SweepConfig(grid={"seed": [0, 1]}, set={"evaluate": {"steps": [5, 10]}})
    assert {point.config.evaluate.steps for point in list_points(sweep)} == {(5, 10)}
    sweep = SweepConfig(base="gpt2-2x64", grid={"seed": [0, 1]}, set={"model.pretrained": "somewhere"})
    assert [point.config.model.backbone for point in list_points(sweep)] == [None, None]


def test_of_other_kinds_the_settings_in_common_are_compared():
    kinds = [{"kind": "none"}, {"kind": "l2", "strength": 0.1}, {"kind": "decay", "strength": 0.1}]
    points = list_points(SweepConfig(grid={"training.regularization": kinds}))
    names = [point.name for point in points]
    assert names == ["kind=none,strength=0", "kind=l2,strength=0.1", "kind=decay,strength=0.1"]


def test_names_are_safe_unique_and_short():
    texts = ["a/b", "a b", "../x", "y" * 300]
    points = list_points(SweepConfig(points=[{"training.arguments": {"run_name": text}} for text in texts]))
    names = [point.name for point in points]
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[\w.+=,-]+", name) and len(name) < 140 for name in names)
    assert names == [
        point.name
        for point in list_points(SweepConfig(points=[{"training.arguments": {"run_name": t}} for t in texts]))
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "something that varies"),
        ({"grdi": {"seed": [0]}}, "grdi = .*unknown key. Did you mean grid"),
        ({"grid": {"seed": []}}, "grid.seed = .*needs values"),
        ({"grid": {"seed": 3}}, "grid.seed = 3: .*list"),
        ({"grid": {"sede": [0, 1]}}, "sede = 0: unknown key. Did you mean seed"),
        ({"grid": {"training.stepz": [3, 4]}}, "training.stepz = .*Did you mean steps"),
        ({"grid": {"seed": [0, -1]}}, "seed = -1: .*In the run with {'seed': -1}"),
        ({"grid": {"seed": [0, 0.0]}}, "same run as"),
        ({"grid": {"seed": [0, 1]}, "set": {"seed": 3}}, "set.seed = 3: stands under grid too"),
        ({"grid": {"seed": [0, 1]}, "labels": {"sed": "x"}}, "labels.sed = .*Did you mean seed"),
        ({"grid": {"seed": [0, 1]}, "base": "defualt"}, "Did you mean default"),
        ({"grid": {"seed": [0, 1]}, "workers": 0}, "workers = 0"),
    ],
)
def test_mistakes_in_a_sweep_name_field_rule_and_way_out(fields, text):
    with pytest.raises(ConfigError, match=text):
        list_points(SweepConfig(**fields))


@pytest.mark.parametrize("text", ["[1, 2]", "grid: {", "\xff"])
def test_files_that_are_no_sweeps(tmp_path, text):
    (tmp_path / "x.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="sweep file"):
        load_sweep(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_sweep(tmp_path / "nowhere.yaml")


def test_the_example_is_24_replicas_of_the_default():
    points = list_points(load_sweep("l2"))
    strengths = [point.values[STRENGTH] for point in points]
    assert len(points) == 24 and min(strengths) == 0 and max(strengths) == 1e-3
    assert {(len(set(strengths)), len({point.config.seed for point in points}))} == {(6, 4)}
    assert all(point.config.training.steps == 30_000 for point in points)
    assert points[0].config.task == load_config("default").task and "default" in list_presets()
    jobs = share_out({point.name: point.config for point in points}, 2)
    assert [len(job.names) for job in jobs] == [12, 12]


# Plans


def configs_of(*words_of_runs) -> dict:
    return {f"{n}": load_config("default", [*TINY, *words]) for n, words in enumerate(words_of_runs)}


@pytest.mark.parametrize(("n_runs", "n_workers"), [(1, 4), (5, 2), (7, 3), (3, 8), (200, 2)])
def test_stacks_are_even_and_every_run_is_in_one(n_runs, n_workers):
    configs = configs_of(*([f"seed={seed}"] for seed in range(n_runs)))
    jobs = share_out(configs, n_workers)
    sizes = [len(job.names) for job in jobs]
    assert sorted(name for job in jobs for name in job.names) == sorted(configs)
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= MAX_STACKED
    assert len(jobs) == max(min(n_runs, n_workers), -(-n_runs // MAX_STACKED))


def test_what_cannot_be_stacked_is_a_job_of_its_own():
    gpt2 = "model.backbone={model_type: gpt2, n_layer: 1, n_embd: 16, n_head: 2}"
    configs = configs_of(
        [], ["model.n_layers=2"], ["seed=1"], [gpt2], [gpt2, "seed=1"], ["model.n_layers=2", "seed=1"]
    )
    assert {job.names for job in share_out(configs, 1)} == {("0", "2"), ("1", "5"), ("3",), ("4",)}


def test_runs_go_on_with_those_that_are_as_far_and_the_longest_job_comes_first():
    configs = configs_of(*(["training.steps=1000", f"seed={seed}"] for seed in range(6)))
    jobs = share_out(configs, 1, {"1": 400, "3": 400, "5": 900})
    assert [(job.names, job.start, job.cost) for job in jobs] == [
        (("0", "2", "4"), 0, 3000), (("1", "3"), 400, 1200), (("5",), 900, 100),
    ]  # fmt: skip


def test_a_stack_is_not_split_for_one_odd_run():
    """Each stack compiles anew: a third of the work is no reason to do so twice."""
    few = [["model.n_layers=2", f"seed={seed}"] for seed in range(3)]
    configs = configs_of(*([f"seed={seed}"] for seed in range(8)), *few)
    jobs = share_out(configs, 2, weigh=lambda config: 1.0)
    assert [len(job.names) for job in jobs] == [8, 3]
    assert [len(job.names) for job in share_out(configs, 2)] == [3, 8]  # two layers cost more than twice one
    assert [len(job.names) for job in share_out(configs_of(*few), 2)] == [2, 1]
    data = [
        ["task.bank.n_classes=30"],
        ["task.bank.n_exemplars=5"],
        ["task.train={n_context: 4, burst: 1, zipf: 1}"],
    ]
    assert len(share_out(configs_of([], *data), 1)) == 1


def test_why_a_run_is_trained_alone_is_told_beforehand():
    configs = configs_of([], ["seed=1"], ["model.n_layers=2", "seed=3"], ["training.keep_best=icl/accuracy"])
    told = {job.names: tell_alone(configs, job) for job in share_out(configs, 1)}
    assert told == {
        ("0", "1"): "", ("2",): "alone: others differ in model.n_layers",
        ("3",): "alone: its steps cannot be stacked",
    }  # fmt: skip


def test_the_time_left_is_told_by_steps_and_not_by_what_came_before_them(monkeypatch):
    clock = iter([0.0, 60.0, 70.0, 80.0])
    monkeypatch.setattr("hf_icl.sweeps.progress.time.monotonic", lambda: next(clock))
    works = [Work(Job(("a", "b"), 0, 1000), "at work")]
    progress = SweepProgress(Console(quiet=True), None)
    assert "? steps/s · ? left" in progress.headline(works, [0])
    assert "? steps/s · ? left" in progress.headline(
        works, [100]
    )  # after a minute: 200 steps, so far in no time
    progress.headline(works, [100])
    assert progress.headline(works, [400]).endswith(
        "800 of 2,000 steps, all runs together · 30 steps/s · 0:40 left"
    )


def test_the_time_left_counts_what_a_step_costs_and_waits_for_the_slowest(monkeypatch):
    """A wide model's steps stand for more; once it works alone, what others did says nothing of it."""
    clock = iter([0.0, 100.0, 200.0])
    monkeypatch.setattr("hf_icl.sweeps.progress.time.monotonic", lambda: next(clock))
    narrow, wide = Job(("a", "b", "c", "d"), 0, 101), Job(("e",), 0, 101, weight=16.0)
    progress = SweepProgress(Console(quiet=True), None)
    works = [Work(narrow, "at work"), Work(wide, "at work")]
    progress.headline(works, [1, 1])
    told = progress.headline(works, [51, 26])  # 200 + 16 * 25 = 600 in 100 s, 50 * 4 + 75 * 16 = 1,400 left
    assert told.endswith("· 5:00 left"), told  # by the wide one: 75 steps at a quarter of a step a second
    works[0].state = "done"
    assert progress.headline(works, [101, 51]).endswith("3:20 left")  # 50 steps; by costs alone it were 2:13


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_jobs_are_as_long_as_they_take(n_workers):
    """Four wide runs cost more than eight narrow ones: they come first, and are the ones that are shared."""
    narrow = [[f"seed={seed}"] for seed in range(8)]
    wide = [["model.d_model=128", f"seed={seed}"] for seed in range(4)]
    configs = configs_of(*narrow, *wide)
    jobs = share_out(configs, n_workers)
    widths = [{configs[name].model.d_model for name in job.names} for job in jobs]
    assert widths == [{128}] * min(n_workers, 4) + [{16}] and [job.weight for job in jobs][-1] == 1
    costs = [job.cost for job in jobs]
    assert costs == sorted(costs, reverse=True) and jobs[0].weight > 8


def test_where_a_step_cannot_be_counted_steps_are():
    def refuse(config):
        raise ConfigError("model", "x", "cannot be counted", "")

    jobs = share_out(configs_of([], ["model.n_layers=2"], ["seed=1"]), 1, weigh=refuse)
    assert [(job.names, job.weight) for job in jobs] == [(("0", "2"), 1.0), (("1",), 1.0)]
    configs = configs_of([], ["model.n_layers=2"])
    for name, at in (("0", "nowhere"), ("1", "nowhere/too")):
        configs[name] = configs[name].replace(model={"pretrained": at})
    assert {job.weight for job in share_out(configs, 1)} == {1.0}
    away = load_config(
        "default", ["task.bank={kind: features, source: nowhere.npz, n_classes: 24, n_labels: 4}"]
    )
    assert {job.weight for job in share_out(configs_of([]) | {"away": away}, 1)} == {1.0}


def test_a_folder_in_which_a_sweep_was_killed_at_once_is_a_new_one(tmp_path):
    """As is one on which a disk is mounted; any other is left alone."""
    name_draft(tmp_path / "sweep.yaml").touch()
    (tmp_path / "lost+found").mkdir()
    assert len(Sweep(make_sweep(grid={STRENGTH: [0, 1]}), tmp_path).points) == 2
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match="is no sweep"):
        Sweep(make_sweep(grid={STRENGTH: [0, 1]}), tmp_path)


def test_as_many_workers_as_cores_have_threads_for(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert count_workers(configs_of([])) == 8
    assert count_workers(configs_of([], ["training.threads=3"])) == 2
    assert count_workers(configs_of(["training.threads=99"])) == 1


# Training, with real processes


@pytest.fixture(scope="module")
def trained(programs, tmp_path_factory):
    """A stack of two and a run of its own, done one after the other by a process each."""
    folder = tmp_path_factory.mktemp("sweep") / "made"
    points = [{"model.n_layers": 2, STRENGTH: 0}]
    config = make_sweep(grid={STRENGTH: [0, 3e-3]}, points=points, set={"training.steps": 40})
    sweep, console = Sweep(config, folder), Console(record=True, width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        patch.setenv("HF_ICL_BLANK_FIGURES", "1")
        patch.setattr(sys, "executable", programs.python)
        train_sweep(sweep, console, n_workers=1)
    return sweep, sweep.write_report().document, console.export_text()


@pytest.mark.integration
def test_each_run_is_as_if_alone(trained, tmp_path):
    sweep, _, _ = trained
    assert len(sweep.points) == 3
    for name, point in sweep.points.items():
        solo = Run.create(point.config, tmp_path / name)
        solo.train()
        swept = Run.open(sweep.run_folder(name))
        assert swept.is_finished and [row["step"] for row in swept.history.rows] == [0, 20, 40]
        for row, right in zip(swept.history.rows, solo.history.rows, strict=True):
            for metric in ("train/loss", "icl/loss", "flip/context_probability"):
                assert row["metrics"][metric] == pytest.approx(right["metrics"][metric], abs=1e-4)
        for file in ("report/index.html", "report/transience.json", "README.md", "model.safetensors"):
            assert (swept.folder / file).exists()
        command = swept.about["provenance"]["command"]
        assert (
            command.startswith("hf-icl run default ") and f"{STRENGTH}={point.values[STRENGTH]:g}" in command
        )


@pytest.mark.integration
def test_one_report_over_all(trained):
    sweep, document, _ = trained
    assert [run["name"] for run in document["runs"]] == list(sweep.points)
    rows = document["sweep"]["rows"]
    assert [key["label"] for key in document["sweep"]["keys"]] == ["L2", "n_layers"]
    assert [list(row["values"].values()) for row in rows] == [[0, 1], [0.003, 1], [0, 2]]
    assert rows[0]["measures"]["peak"] == document["runs"][0]["measures"][ICL]["peak"]
    assert {"sweep.png", "sweep.svg", "index.html"} <= set(os.listdir(sweep.folder / "report"))


@pytest.mark.integration
def test_the_work_is_told(trained):
    assert "stack of 2: L2=0,n_layers=1 … L2=0.003,n_layers=1: done" in trained[2]


@pytest.mark.slow
def test_a_finished_sweep_is_left_as_it_is_and_points_can_be_added(trained):
    sweep, _, _ = trained
    before = {path: path.stat().st_mtime_ns for path in sweep.folder.rglob("runs/*/*.safetensors")}
    assert len(before) == 3
    again = Sweep(sweep.config, sweep.folder)
    train_sweep(again)
    assert {path: path.stat().st_mtime_ns for path in before} == before and not again.share_out(2)
    more = sweep.config.replace(grid={STRENGTH: [0, 3e-3], "seed": [0, 4]})
    added = Sweep(more, sweep.folder)
    assert set(sweep.points) < set(added.points) and len(added.points) == 5
    assert {name for job in added.share_out(1) for name in job.names} == set(added.points) - set(sweep.points)


@pytest.mark.slow
def test_a_finished_sweep_is_given_more_steps(tmp_path):
    """To the bytes of one that was made for them, but for the row of the step at which it had ended."""
    grid, settings = {"seed": [0, 1]}, {STRENGTH: 0.01, "training.steps": 50}
    short = make_sweep(grid=grid, set=settings, labels={})
    train_sweep(Sweep(short, tmp_path / "mine"), n_workers=1)
    longer = make_sweep(grid=grid, set=settings | {"training.steps": 100, "evaluate": 25}, labels={})
    sweep = Sweep(longer, tmp_path / "mine")
    assert [(job.names, job.start, job.steps) for job in sweep.share_out(1)] == [
        (("seed=0", "seed=1"), 50, 100)
    ]
    sweep.create_runs()
    with pytest.raises(ConfigError, match="training.steps = 100: the run has 100 steps"):
        extend(Run.open(sweep.run_folder("seed=0")), 100)
    assert not sweep.is_done("seed=0")
    train_sweep(sweep, n_workers=1)
    assert sweep.share_out(1) == [] and not Sweep(longer, tmp_path / "mine").share_out(1)
    whole = Sweep(
        make_sweep(grid=grid, set=settings | {"training.steps": 100}, labels={}), tmp_path / "whole"
    )
    train_sweep(whole, n_workers=1)
    for name in ("seed=0", "seed=1"):
        mine, theirs = (Run.open(each.run_folder(name)) for each in (sweep, whole))
        assert [row for row in mine.history.rows if row["step"] != 50] == list(theirs.history.rows)
        assert (mine.folder / "model.safetensors").read_bytes() == (
            theirs.folder / "model.safetensors"
        ).read_bytes()
        assert mine.about["extended"][0]["steps"] == 50
        assert json.loads((mine.folder / "report/transience.json").read_text())["runs"][0]["last_step"] == 100
    with pytest.raises(RunError, match="not changed or taken away"):
        Sweep(short, tmp_path / "mine")


@pytest.mark.integration
def test_points_cannot_be_changed_or_taken_away(trained, tmp_path):
    sweep, _, _ = trained
    with pytest.raises(RunError, match="does not have: L2=0.003,n_layers=1. Points and steps can be added"):
        Sweep(sweep.config.replace(grid={STRENGTH: [0]}), sweep.folder)
    with pytest.raises(RunError, match="not changed"):
        Sweep(sweep.config.replace(set=dict(sweep.config.set) | {"training.steps": 7}), sweep.folder)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="is no sweep"):
        Sweep(sweep.config, tmp_path)


@pytest.mark.integration
def test_two_commands_do_not_train_the_same_sweep(trained):
    sweep, _, _ = trained
    with (
        hold(sweep.folder),
        pytest.raises(RunError, match=f"process {os.getpid()} on .* is at work here"),
    ):
        train_sweep(sweep, n_workers=1)


def find_workers(folder: Path) -> dict[int, str]:
    """Return the ids of processes that work on a sweep, to their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:  # it has just ended
            continue
        if words[1:3] == ["-m", "hf_icl.sweeps"] and words[3:4] == [str(folder)]:
            found[int(path.parent.name)] = " ".join(words)
    return found


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
def test_a_worker_killed_for_real_is_told_and_its_work_gone_on_with(tmp_path):
    sweep = Sweep(make_sweep(**KILLED), tmp_path / "mine")
    history = tmp_path / "mine/runs/seed=1/history.jsonl"

    def kill_one():
        wait_until(lambda: read_last_step(history) >= 100)
        for number, words in find_workers(sweep.folder).items():
            if "seed=1" in words:
                os.kill(number, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RunError, match="1 of 2 runs are unfinished: seed=1. seed=1: killed by SIGKILL."):
        train_sweep(sweep, n_workers=2)
    killer.join()
    assert sweep.is_done("seed=0") and [job.names for job in sweep.share_out(2)] == [("seed=1",)]
    train_job(sweep.folder, ["seed=1"])
    assert_as_undisturbed(sweep, tmp_path)


@pytest.mark.slow
def test_a_command_killed_for_real_takes_its_workers_with_it(tmp_path):
    config, folder = make_sweep(**KILLED), tmp_path / "mine"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "hf_icl", "sweep", str(tmp_path / "mine.yaml"), "--output", str(folder)]
    child = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: read_last_step(folder / "runs/seed=1/history.jsonl") >= 60)
    assert find_workers(folder)
    child.kill()
    child.wait()
    wait_until(lambda: not find_workers(folder), 10)
    sweep = Sweep(config, folder)
    assert all(50 <= job.start < 400 for job in sweep.share_out(2) if "seed=1" in job.names)
    train_sweep(sweep)
    assert_as_undisturbed(sweep, tmp_path)


KILLED = dict(grid={"seed": [0, 1]}, set={STRENGTH: 1e-3, "training.steps": 400}, labels={})


def assert_as_undisturbed(sweep: Sweep, folder: Path) -> None:
    """The same bytes as runs that nothing happened to."""
    for name, point in sweep.points.items():
        whole = Run.create(point.config, folder / name)
        whole.train()
        for file in ("history.jsonl", "model.safetensors"):
            assert (whole.folder / file).read_bytes() == (sweep.run_folder(name) / file).read_bytes(), file


# Command line


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_sweep(
        grid={"seed": [0, 1, 2]}, points=[{"model.n_layers": 2}], set={STRENGTH: 0}, labels={}
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config.to_dict()))
    done = CliRunner().invoke(cli.app, ["sweep", "mine.yaml", "--dry-run", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "4 runs, 0 finished; 1 at work at a time. Folder: runs/mine" in done.output
    assert "stack of 3: n_layers=1,seed=0 … n_layers=1,seed=2, steps 0 to 100" in done.output
    assert "n_layers=2,seed=0, steps 0 to 100 (alone: others differ in model.n_layers)" in done.output
    assert os.listdir(tmp_path) == ["mine.yaml"]


# Report


@pytest.mark.integration
def test_measures_against_a_setting(tmp_path):
    runs = [make_run(f"{width}-{seed}", seed=seed, width=width, fades=width < 64, n_rows=20, n_sequences=64)
            for width in (0, 1, 64) for seed in (0, 1, 2)]  # fmt: skip
    runs.append(make_run("alone", seed=7, width=1000, n_rows=20, n_sequences=64))
    write_report(runs, tmp_path, varied={"model.d_model": "width"})
    document = json.loads((tmp_path / "transience.json").read_text())
    rows = document["sweep"]["rows"]
    assert [row["values"]["model.d_model"] for row in rows] == [0, 1, 64, 1000]
    for row, group in zip(rows, document["groups"], strict=False):
        assert row["measures"] == group["measures"][ICL] and row["runs"] == group["runs"]
        assert row["verdicts"] == group["verdicts"] and len(row["runs"]) == 3
    head, cells = list_sweep(document["sweep"])
    assert head == [
        "width",
        "runs",
        "ICL emerged",
        "peak",
        "late value",
        "persistence, late",
        "half-decay, step",
        "verdict on ICL",
    ]
    assert [row[:2] for row in cells] == [["0", "3"], ["1", "3"], ["64", "3"], ["1000", "1"]]
    assert [row[2] for row in cells] == ["3 of 3", "3 of 3", "3 of 3", "1 of 1"]
    assert cells[0][-1] == "transient in 3 of 3" and cells[3][-1] == "transient"
    page = (tmp_path / "index.html").read_text()
    assert "What varies" in page and "data:image/png;base64," in page and "img-src data:" in page
    assert cells[2][4] in re.sub("</?span[^>]*>", "", page)  # an interval stands in one piece, in a span

    axes = draw_sweep(document["sweep"], document).axes[2]
    assert axes.get_xscale() == "symlog" and axes.get_xlim()[0] < 0 < 1000 < axes.get_xlim()[1]
    line = axes.containers[0].lines[0]
    assert line.get_xdata().tolist() == [0, 1, 64, 1000]
    assert line.get_ydata().tolist() == [row["measures"]["late_persistence"]["value"] for row in rows]


@pytest.mark.integration
def test_settings_without_order_stand_side_by_side(tmp_path):
    runs = [make_run(kind, width=kind, n_rows=10, n_sequences=64) for kind in ("rotary", "none")]
    write_report(runs, tmp_path, varied={"model.d_model": "positions"})
    document = json.loads((tmp_path / "transience.json").read_text())
    axes = draw_sweep(document["sweep"], document).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["rotary", "none"]


# Ray


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install hf-icl[ray]"
)
def test_of_two_ray_workers_one_is_killed_and_its_work_done_again(tmp_path):
    """A cluster of a head without cores and two nodes of one core; one node dies with all its processes."""
    config = make_sweep(grid={"seed": [0, 1]}, set={STRENGTH: 1e-3, "training.steps": 2000}, labels={})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config.to_dict()))
    (tmp_path / "cluster.py").write_text(RAY_CLUSTER)
    folder = tmp_path / "mine"

    def read_steps():
        return [read_last_step(folder / f"runs/seed={seed}/history.jsonl") for seed in (0, 1)]

    pipes = dict(env=environment(), stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(
        [sys.executable, tmp_path / "cluster.py"], stdin=subprocess.PIPE, **pipes
    ) as cluster:
        address = cluster.stdout.readline().strip()
        words = ["sweep", tmp_path / "mine.yaml", "--output", folder, "--engine", "ray", "--address", address]
        command = [sys.executable, "-m", "hf_icl", *map(str, words)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, **pipes) as sweep:
            wait_until(lambda: sweep.poll() is not None or all(step >= 300 for step in read_steps()))
            before = read_steps()
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            killed = cluster.stdout.readline().strip()
            out, err = sweep.communicate(timeout=240)
        cluster.stdin.close()
    assert sweep.returncode == 0, out + err
    assert killed == "killed" and "2 at work at a time" in out
    assert all(300 <= step < 2000 for step in before)  # both were at work, one of them on the node that died
    for name, point in Sweep(config, folder).points.items():
        whole = Run.create(point.config, tmp_path / name)
        whole.train()
        assert (whole.folder / "history.jsonl").read_bytes() == (
            folder / f"runs/{name}/history.jsonl"
        ).read_bytes()


RAY_CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[1], allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""
