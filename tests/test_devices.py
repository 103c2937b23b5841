"""One, two and four processes: the same sequences, losses and counts; one of them killed, the run goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_multi_gpu_env
from packaging.version import Version
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

from hf_icl.errors import ConfigError
from hf_icl.history.lines import decode_row
from hf_icl.models import ICLModel
from hf_icl.plan.memory import size_model
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.task.config import TaskConfig
from hf_icl.task.forms import count_tokens
from hf_icl.task.task import Task
from hf_icl.training.checkpoints import find_checkpoint, is_whole
from hf_icl.training.trainer import TransienceTrainer
from tests import device_program
from tests.device_program import BANK, BATCH, STEPS, TRAININGS
from tests.programs import ROOT, TINY, environment

has_fsdp2 = pytest.mark.skipif(
    Version(accelerate.__version__) < Version("1.7"),
    reason="accelerate has FSDP2 with full state dicts from 1.7 on",
)


def torchrun(n_processes):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(n_processes),
        "--standalone",
    ]


def launch(n_processes, *words, **options):
    """Run a program by torchrun to its end."""
    env = environment(PYTHONPATH=str(ROOT))
    options = dict(env=env, capture_output=True, text=True, timeout=300) | options
    return subprocess.run([*torchrun(n_processes), *map(str, words)], **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return device_program.train_all(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request, programs, tmp_path_factory):
    """Folder and results of every process of a training on several; four are each a Python of their own."""
    folder = tmp_path_factory.mktemp("together")
    env = environment(PYTHONPATH=str(ROOT))
    if request.param == 2:
        env["PYTHON_EXEC"] = programs.python
    done = launch(request.param, ROOT / "tests/device_program.py", folder, env=env)
    assert done.returncode == 0, done.stderr
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.integration
@pytest.mark.parametrize("name", TRAININGS)
def test_every_sequence_is_seen_once_and_in_the_same_order(alone, together, name):
    """The parts of all processes, put side by side, are the whole batches of one process."""
    _, results = together
    parts = [result[name]["seen"] for result in results]
    in_order = [number for step in zip(*parts, strict=True) for part in step for number in part]
    assert in_order == list(range(BATCH * STEPS))
    assert [number for part in alone[name]["seen"] for number in part] == in_order


@pytest.mark.integration
@pytest.mark.parametrize("name", TRAININGS)
def test_losses_weights_and_counts_agree(alone, together, name):
    _, results = together
    one = alone[name]
    for result in results:
        many = result[name]
        assert len(many["losses"]) == STEPS and many["losses"] == pytest.approx(one["losses"], abs=2e-6)
        assert many["weights"] == pytest.approx(one["weights"], abs=1e-6)
        assert [row["sequences"] for row in many["rows"]] == [row["sequences"] for row in one["rows"]]
        assert many["rows"][0] == one["rows"][0]  # before the first step the weights are the same bits
        for left, right in zip(many["rows"], one["rows"], strict=True):
            assert left["metrics"] == pytest.approx(right["metrics"], abs=1e-4)


@pytest.mark.integration
def test_what_every_process_has_really_seen_is_counted(alone, together):
    """Epochs of 62 in batches of 16: their last part is 14, which one of the processes has less of."""
    _, results = together
    for one in ([alone], results):
        assert sum(result["epochs"]["seen"] for result in one) == 124
        assert all(result["epochs"]["counts"] == [0, 48, 48 + 14 + 32, 124] for result in one)


@pytest.mark.integration
def test_accumulation_and_kind_of_trainer_change_no_loss(alone):
    for name in ("own_tokens", "stock", "stock_each_reads"):
        assert alone[name]["losses"] == pytest.approx(alone["thin"]["losses"], abs=2e-6)
    assert alone["l2"]["losses"][0] > alone["thin"]["losses"][0] + 0.1


@pytest.mark.integration
def test_all_processes_hold_the_same_rows_and_one_writes(together):
    folder, results = together
    for name in TRAININGS:
        assert all(result[name]["rows"] == results[0][name]["rows"] for result in results)
        assert [result[name]["wrote"] for result in results] == [True] + [False] * (len(results) - 1)
        lines = (folder / name / "history.jsonl").read_text().splitlines()
        assert [decode_row(line) for line in lines] == results[0][name]["rows"]
        assert not list((folder / name).glob("history.*.jsonl"))


@pytest.mark.integration
def test_the_best_checkpoint_is_the_same(alone, together):
    _, results = together
    for name in ("thin", "stock"):
        rows = {row["step"]: row["metrics"]["icl/accuracy"] for row in alone[name]["rows"]}
        assert all(result[name]["best"] == alone[name]["best"] for result in results)
        assert alone[name]["best"] == max(rows[step] for step in (2, 4, 6))


@pytest.mark.integration
def test_evaluators_dealt_out_give_the_same_bits(alone, together):
    for result in [alone, *together[1]]:
        assert result["spread_equals_alone"]
        assert result["spread"] == [[0], [0, 10], [0, 10, 20, 30, 40]]


@pytest.mark.integration
def test_processes_that_know_nothing_of_each_other_are_refused(together):
    said = [result["refused"] for result in together[1]]
    if None in said:
        pytest.skip("with a GPU, or this transformers, processes find each other")
    assert all("each would train alone" in text for text in said)


@pytest.mark.integration
def test_weights_dealt_out_to_the_processes_train_the_same(alone, together):
    """FSDP2 with L2: losses and rows of one process, and a checkpoint that one process opens."""
    folder, results = together
    if missing := results[0]["fsdp"].get("missing"):
        pytest.skip(missing)
    for result in results:
        assert "DTensor" in result["fsdp"]["kinds"]
        assert result["fsdp"]["losses"] == pytest.approx(alone["l2"]["losses"], abs=2e-6)
        assert result["fsdp"]["rows"] == results[0]["fsdp"]["rows"]
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40))
    checkpoint = folder / f"fsdp/checkpoint-{STEPS}"
    assert is_whole(checkpoint)
    model = ICLModel.from_pretrained(checkpoint)
    assert torch.cat([p.detach().flatten() for p in model.parameters()]).tolist() == pytest.approx(
        alone["l2"]["weights"], abs=1e-6
    )
    assert task.measure(model)[0] == pytest.approx(results[0]["fsdp"]["rows"][-1]["metrics"], abs=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("form", ["vectors", "tokens"])
def test_bf16_trains_nearly_the_same(tmp_path, form):
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40, form=form))
    rows = {}
    for bf16 in (False, True):
        set_seed(0)
        if form == "vectors":
            model = device_program.build_model(task)
        else:
            size = dict(n_layer=1, n_embd=16, n_head=2, n_positions=16, vocab_size=count_tokens(task.bank))
            model = GPT2LMHeadModel(GPT2Config(**size, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
        args = TrainingArguments(
            str(tmp_path / str(bf16)), max_steps=40, learning_rate=3e-3, per_device_train_batch_size=BATCH,
            report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True, bf16=bf16,
        )  # fmt: skip
        trainer = TransienceTrainer(model, args, task, schedule=20)
        trainer.train()
        rows[bf16] = [row["metrics"]["train/loss"] for row in trainer.transience.history.rows]
    assert rows[True] != rows[False] and rows[True] == pytest.approx(rows[False], abs=0.02)
    assert rows[True][-1] < rows[True][0]


def run_words(folder, n_steps):
    settings = [
        "training.checkpoint_every=5",
        "evaluate=5",
        f"training.steps={n_steps}",
        "training.batch_size=16",
    ]
    return ["-m", "hf_icl", "run", "default", *TINY, *settings, "--output", folder]


def start_run(folder, n_processes, n_steps=2000):
    """Start a long run on several processes in the background; return it once it has two checkpoints."""
    launched = subprocess.Popen(
        [*torchrun(n_processes), *map(str, run_words(folder, n_steps))],
        env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint-10/complete.json").exists():
        assert launched.poll() is None and time.monotonic() < deadline, launched.communicate()
        time.sleep(0.02)
    return launched


def pids_by_rank(launcher):
    """Return the process ids of a launcher's workers, found by their parent and what they were told to be."""
    ranks = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            told = dict(
                entry.split("=", 1) for entry in (path / "environ").read_text().split("\0") if "=" in entry
            )
        except (OSError, UnicodeDecodeError):
            continue  # it has ended
        if parent == launcher.pid and "RANK" in told:
            ranks[int(told["RANK"])] = int(path.name)
    return ranks


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_killed_the_others_end_and_the_run_goes_on_on_any_number(tmp_path, killed):
    folder = tmp_path / "run"
    launched = start_run(folder, 2, n_steps=150)
    workers = pids_by_rank(launched)
    assert sorted(workers) == [0, 1]
    os.kill(workers[killed], signal.SIGKILL)
    at = time.monotonic()
    _, errors = launched.communicate(timeout=60)
    assert launched.returncode != 0 and time.monotonic() - at < 60
    assert "has ended, or the launcher has stopped it. Continue the run" in errors, errors
    assert f"hf-icl resume {folder}" in errors.replace("\n", "")
    assert not Run.open(folder).is_finished and find_checkpoint(folder) is not None
    rows = {}
    for n_processes in (1, 2, 4):
        copy = shutil.copytree(folder, tmp_path / f"on{n_processes}")
        done = launch(n_processes, "-m", "hf_icl", "resume", copy)
        assert done.returncode == 0, done.stderr
        rows[n_processes] = Run.open(copy).history.rows
    whole = tmp_path / "undisturbed"
    done = launch(2, *run_words(whole, 150))
    assert done.returncode == 0, done.stderr
    expected = Run.open(whole).history.rows
    assert (tmp_path / "on2/history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    for n_processes in (1, 4):
        assert [row["sequences"] for row in rows[n_processes]] == [row["sequences"] for row in expected]
        differences = [
            abs(row["metrics"]["train/loss"] - other["metrics"]["train/loss"])
            for row, other in zip(rows[n_processes], expected, strict=True)
        ]
        assert max(differences) < 1e-3, differences


CONFIGS = [
    pytest.param(path, id=path.stem, marks=has_fsdp2 if path.stem == "fsdp" else ())
    for path in sorted((ROOT / "examples/accelerate").glob("*.yaml"))
]


@pytest.mark.parametrize("path", CONFIGS)
def test_the_accelerate_files_are_what_accelerate_reads(path):
    """Read as `accelerate launch` reads it, up to the point where processes start."""
    config = load_config_from_file(str(path))
    several = path.stem != "one_gpu"
    assert (config.num_processes > 1) == several and config.use_cpu == (path.stem == "cpu")
    words = ["--config_file", str(path), "-m", "hf_icl", "run"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert (args.multi_gpu or args.use_fsdp) == several and args.num_processes == config.num_processes
    if path.stem == "fsdp":
        assert (
            args.use_fsdp and int(args.fsdp_version) == 2 and args.fsdp_state_dict_type == "FULL_STATE_DICT"
        )


def sharding(kind):
    """Return what `accelerate launch` tells the processes of examples/accelerate/fsdp.yaml about FSDP."""
    words = ["--config_file", str(ROOT / "examples/accelerate/fsdp.yaml"), "--fsdp_state_dict_type", kind]
    words += ["--main_process_port", "0", "hf_icl"]  # another test may hold the usual one
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    env = prepare_multi_gpu_env(args)
    return {name: value for name, value in env.items() if "FSDP" in name}


@has_fsdp2
@pytest.mark.parametrize(
    "settings",
    [
        {"by": "accelerate"},
        {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}},
    ],
    ids=["accelerate", "arguments"],
)
def test_a_run_refuses_checkpoints_in_parts_before_it_writes(tmp_path, monkeypatch, settings):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # TrainingArguments sets it
    for name, value in sharding("SHARDED_STATE_DICT").items():
        if "by" in settings:
            monkeypatch.setenv(name, value)
    config = load_config("default", TINY)
    if "fsdp" in settings:
        config = config.replace(training=config.training.replace(arguments=settings))
    with pytest.raises(ConfigError, match=r"fsdp_state_dict_type = 'SHARDED_STATE_DICT': .*FULL_STATE_DICT"):
        Run.create(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for name, value in sharding("FULL_STATE_DICT").items():
        monkeypatch.setenv(name, value)
    load_config("default", TINY).training.to_arguments(tmp_path, 0)  # the file as it is


@has_fsdp2
@pytest.mark.parametrize("backbone", [None, GPT2Config(n_layer=2, n_embd=16, n_head=2)])
def test_fsdp_finds_the_blocks(backbone):
    """By accelerate's own policy, for the native backbone and for one of transformers."""
    model = ICLModel.from_backbone(backbone, n_labels=3, n_context=2, exemplar_shape=(5,))
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP", state_dict_type="FULL_STATE_DICT"
    )
    plugin.set_auto_wrap_policy(model)
    units = tuple(plugin.auto_wrap_policy.keywords["transformer_layer_cls"])
    found = [path for path, part in model.named_modules() if isinstance(part, units)]
    assert [path.rpartition(".")[2] for path in found] == ["0", "1"]
    assert all(path.startswith(("backbone.blocks.", "backbone.h.")) for path in found)
    assert size_model(model, 0).n_blocks == 2


LIST_THREADS = """
import atexit, pathlib, sys
atexit.register(lambda: print([path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]))
from hf_icl.cli.main import main
main()
"""


@pytest.mark.slow
def test_no_thread_of_gloo_outlives_a_run(tmp_path):
    """One that does may abort Python's end, and the launcher then stops the process that writes the
    report."""
    (tmp_path / "program.py").write_text(LIST_THREADS)
    done = launch(2, tmp_path / "program.py", *run_words(tmp_path / "run", 10)[2:])
    assert done.returncode == 0, done.stderr
    threads = [line for line in done.stdout.splitlines() if line.startswith("['")]
    assert len(threads) == 2 and not [line for line in threads if "gloo" in line]
    assert (tmp_path / "run/report/index.html").exists()


@pytest.mark.slow
def test_accelerate_launches_two_processes_on_the_cpu(tmp_path):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        ROOT / "examples/accelerate/cpu.yaml",
    ]
    words = [*command, *run_words(tmp_path / "run", 10)]
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert "processes × threads: 2 × 1" in run.about["provenance"]["machine"] and run.is_finished
    assert [row["sequences"] for row in run.history.rows] == [0, 80, 160]


def test_a_batch_that_cannot_be_split_is_refused_by_name(tmp_path):
    config = load_config(
        "default", ["training.batch_size=15", "training.arguments.gradient_accumulation_steps=2"]
    )
    with pytest.raises(ConfigError, match=r"training.batch_size = 15: .* 1 devices × 2 accumulated parts"):
        config.training.to_arguments(tmp_path, 0)
    config = load_config(
        "default", ["training.batch_size=16", "training.arguments.gradient_accumulation_steps=2"]
    )
    assert config.training.to_arguments(tmp_path, 0).per_device_train_batch_size == 8


def test_a_resumed_training_counts_sequences_whatever_the_batch_was(tmp_path):
    """6 steps of 16, then 6 of 8: no sequence twice, none left out; the file knows where it is."""
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=10))
    settings = dict(save_strategy="steps", save_steps=4)
    device_program.build_trainer(tmp_path, task, "thin", **settings).train()
    more = dict(max_steps=12, per_device_train_batch_size=8)
    second = device_program.build_trainer(tmp_path, task, "thin", **settings | more)
    second.train(resume_from_checkpoint=str(tmp_path / "thin/checkpoint-4"))
    seen = [number for part in second.seen for number in part]
    assert seen == list(range(4 * 16, 4 * 16 + 8 * 8))
    rows = [(row["step"], row["sequences"]) for row in second.transience.history.rows]
    assert rows == [(0, 0), (3, 48), (6, 80), (9, 104), (12, 128)]


def test_rows_of_the_stream_are_refused_to_workers():
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=10))
    loader = torch.utils.data.DataLoader(task.stream(), batch_size=4, num_workers=2)
    with pytest.raises(RuntimeError, match="dataloader_num_workers = 2: each worker would give all"):
        next(iter(loader))  # torch wraps what a worker raises


@pytest.mark.parametrize("form", ["vectors", "tokens"])
def test_rows_of_the_stream_are_the_sequences(form):
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=10, form=form))
    expected = task.encode(task.sampler().draw(5, 12))
    batch = next(iter(torch.utils.data.DataLoader(task.stream(5), batch_size=12)))
    own = next(iter(torch.utils.data.DataLoader(task.stream(5), batch_size=12, collate_fn=task.collate)))
    for name, values in expected.items():
        assert torch.equal(batch[name], values) and torch.equal(own[name], values)
