"""Budgets: counted on models without memory, and equal to what real ones take."""

import json
import re

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from transformers import GPT2Config
from typer.testing import CliRunner

from benchmarks.bench_budget import measure_process, measure_tensors, sum_saved
from hf_icl.banks import (
    FeaturesConfig,
    GaussianConfig,
    OmniglotConfig,
    SymbolicConfig,
    load_bank,
    outline_bank,
)
from hf_icl.cli.main import app
from hf_icl.errors import ConfigError
from hf_icl.models.build import build_model
from hf_icl.plan import estimate, measure_step, without_memory
from hf_icl.plan.budget import EVALUATION_BATCH, _recompute_activations
from hf_icl.plan.memory import ModelBytes, replicated, sharded
from hf_icl.plan.meter import MemoryMeter, StepCost
from hf_icl.runs.config import load_config
from hf_icl.runs.presets import list_presets
from hf_icl.runs.run import Run, build_task
from hf_icl.training.callback import TransienceCallback
from hf_icl.training.schedule import Schedule
from tests.programs import ROOT

LADDER = {"gpt2-2x64": (2, 64), "gpt2-4x128": (4, 128), "gpt2-6x256": (6, 256), "gpt2-12x768": (12, 768)} | {
    "gpt2-24x1024": (24, 1024), "gpt2-36x1280": (36, 1280), "gpt2-48x1600": (48, 1600),
}  # fmt: skip
PLACES, DIM, LABELS, POSITIONS = 5, 64, 32, 64
QUICK = ["task.n_eval_sequences=40", "task.bank.n_classes=24", "task.bank.n_holdout_classes=4"]


ON_THE_HUB = {"finetune", "finetune-smollm2", "transience-llama-tokens"}  # tokens of a checkpoint there
LONG = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2-24x1024", "gpt2-36x1280", "gpt2-48x1600")
]


@pytest.mark.integration
@pytest.mark.parametrize(
    "preset", [*sorted(list_presets().keys() - ON_THE_HUB - {case.values[0] for case in LONG}), *LONG]
)
def test_every_preset_can_be_planned_with_nothing_at_hand(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = load_config(preset, ["task.n_eval_sequences=20"])
    budget = estimate(config, 4)
    json.dumps(budget.to_dict())
    assert budget.batch_per_device * 4 == budget.batch_size == config.training.batch_size
    assert budget.memory["fsdp"].parameters < budget.memory["ddp"].parameters / 3
    assert not any(tmp_path.iterdir())
    if preset in LADDER:
        check_by_hand(budget, *LADDER[preset])


def check_by_hand(budget, n, d):
    """GPT-2's block holds 12 d² weights in products and 13 d others; products cost 2 FLOPs forward,
    4 backward."""
    outside = POSITIONS * d + LABELS * d + (DIM + 1) * d + (d + 1) * LABELS + 2 * d
    assert budget.parameters == budget.trainable == n * (12 * d * d + 13 * d) + outside
    blocks = 6 * n * 12 * d * d * PLACES
    attention = (2 + 5) * n * 2 * PLACES * PLACES * d  # 2 products forward, 5 backward
    encoder, head = (
        4 * DIM * d * PLACES,
        6 * d * LABELS,
    )  # exemplars need no gradient; the head sees one place
    assert budget.flops_per_sequence == blocks + attention + encoder + head
    assert budget.flops_per_step == 128 * budget.flops_per_sequence
    if n >= 12:  # the usual rule of thumb
        rule = 6 * budget.parameters * budget.tokens_per_sequence
        assert budget.flops_per_sequence == pytest.approx(rule, rel=0.01)


@pytest.mark.integration
@pytest.mark.parametrize("preset", ["gpt2-2x64", "gpt2-4x128", "gpt2-6x256", "default"])
def test_estimates_equal_a_real_step(preset):
    config = load_config(preset, ["training.batch_size=32", "task.n_eval_sequences=100"])
    budget, real = estimate(config), measure_tensors(config)
    memory = budget.memory["single"]
    assert (budget.parameters, budget.flops_per_step) == (real["parameters"], real["flops_per_step"])
    assert (memory.parameters, memory.optimizer) == (real["weights"], real["optimizer"])
    assert budget.gradients == real["weights"]
    assert memory.buckets == memory.gathered == 0
    # transformers writes a causal mask out where it cannot look at positions: some kB more than in earnest
    assert budget.activations == pytest.approx(real["activations"], rel=0.01)
    assert memory.step == pytest.approx(real["step"], rel=0.01)
    assert budget.evaluation == pytest.approx(real["evaluation"], rel=0.01)


@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments, accumulation, dtype",
    [
        ({"bf16": True}, 1, torch.bfloat16),
        ({"gradient_accumulation_steps": 4}, 4, None),
        ({"gradient_checkpointing": True}, 1, None),
    ],
)
def test_mixed_precision_accumulation_and_checkpointing_are_those_of_a_real_step(
    arguments, accumulation, dtype
):
    words = [f"training.arguments.{name}={json.dumps(value)}" for name, value in arguments.items()]
    config = load_config("gpt2-4x128", [*words, *QUICK])
    budget = estimate(config)
    task = build_task(config)
    model = build_model(config.model, task, seed=config.seed)
    if budget.checkpointing:
        _recompute_activations(model)
    batch = task.train_sampler.draw(0, 128 // accumulation)
    real = measure_step(model, lambda: task.encode(batch), accumulation=accumulation, dtype=dtype)
    assert budget.flops_per_step == real.flops * accumulation
    assert budget.activations == pytest.approx(real.activations, rel=0.01)
    assert budget.memory["single"].step == pytest.approx(real.peak, rel=0.01)


@pytest.mark.integration
def test_each_of_them_saves_what_it_is_for():
    def plan(*words):
        return estimate(load_config("gpt2-4x128", [*words, *QUICK]), 2)

    plain = plan()
    assert plan("training.arguments.bf16=true").activations < 0.75 * plain.activations
    anew = plan("training.arguments.gradient_checkpointing=true")
    assert anew.activations < 0.25 * plain.activations
    # torch stops computing anew at the last activation needed: 8 of a block's 12 d² weights, 2 FLOPs each
    assert anew.flops_per_sequence == pytest.approx((6 + 2 * 8 / 12) / 6 * plain.flops_per_sequence, rel=0.01)
    assert anew.memory["ddp"].step < 0.5 * plain.memory["ddp"].step
    parts = plan("training.arguments.gradient_accumulation_steps=4")
    assert parts.flops_per_step == plain.flops_per_step and parts.batch_per_device == 16
    assert parts.activations == pytest.approx(plain.activations / 4, rel=0.02)
    alone = plan("training.batch_size=32")  # as many sequences at a time, and no gradients of earlier parts
    both = parts.activations + parts.gradients
    assert alone.memory["ddp"].step < both <= parts.memory["ddp"].step


def test_checkpointed_activations_give_the_same_gradients():
    config = load_config("gpt2-2x64", QUICK)
    task = build_task(config)
    inputs = task.encode(task.train_sampler.draw(0, 16))
    gradients, saved = [], []
    for anew in (False, True):
        model = build_model(config.model, task, seed=config.seed)
        if anew:
            _recompute_activations(model)
        saved.append(sum_saved(model, inputs))
        model(**inputs).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert saved[1] < saved[0] / 2
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_meter_follows_storages_from_first_byte_to_last():
    weight = nn.Linear(8, 4, bias=False)
    with MemoryMeter(weight) as meter:
        inputs = torch.ones(16, 8)  # 512 bytes, kept for the weight's gradient
        outputs = weight(inputs)  # 256 bytes
        view = outputs[1:]  # no bytes of its own
        assert (meter.live["activations"], meter.peak) == (768, 768)
        loss = view.sum()
        assert meter.live["activations"] == 772
        loss.backward()
        assert meter.live["gradients"] == weight.weight.nbytes == 128
        del inputs, outputs, view, loss
        assert meter.live["activations"] == 0 and meter.live["gradients"] == 128
    assert meter.peak >= 772 + 128


@pytest.mark.integration
@pytest.mark.parametrize(
    ("preset", "n_bytes", "texts"),
    [
        (
            "gpt2-12x768",
            120e6,
            [
                "gpt2, 12 layers × 768, 85.2 M",
                r"parameters +341 MB +42\.6 MB",
                r"moments +682 MB +85\.2 MB",
                "1.02 GB per",
            ],
        ),
        pytest.param(
            "gpt2-48x1600",
            300e6,
            [
                "gpt2, 48 layers × 1,600, 1.48 B",
                r"parameters +5\.90 GB +738 MB",
                r"moments +11\.8 GB +1\.48 GB",
                "17.7 GB per",
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_planning_allocates_no_model_and_prints_what_a_person_asks_first(programs, preset, n_bytes, texts):
    """A third of 1 GB of weights, or 6 GB; the process grows by what Python and torch write down about
    them."""
    program = f"""
import time
from benchmarks.bench_budget import read_memory
from hf_icl.plan import estimate
from hf_icl.cli.main import app
from hf_icl.runs.config import load_config
estimate(load_config("gpt2-2x64", ["training.batch_size=8"]))
peak = lambda: read_memory("VmHWM")
before, start = peak(), time.process_time()
app(["plan", "{preset}", "training.arguments.bf16=true", "--tflops", "100"], standalone_mode=False)
print(peak() - before, time.process_time() - start)
"""
    ended = programs.start(code=program, folder=ROOT, COLUMNS="80").wait()
    assert ended.code == 0 and ended.err == "", ended.err
    text, _, measured = ended.out.rstrip().rpartition("\n")
    grown, seconds = map(float, measured.split())
    assert grown < n_bytes and seconds < 60
    for expected in texts:
        assert re.search(expected, text), (expected, text)
    assert (
        "18,000 steps × 128 sequences × 5 tokens" in text and "2,304,000 sequences, 11,520,000 tokens" in text
    )
    assert re.search(r"each of 8 devices, 16 sequences at a time, bf16 +DDP +FSDP", text)
    assert "checkpoint; 2 kept" in text and "arithmetic alone" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_presets_form_a_ladder():
    shapes = {}
    for name in LADDER:
        config = load_config(name)
        backbone = config.model.backbone
        shapes[name] = (backbone["n_layer"], backbone["n_embd"])
        assert backbone["n_embd"] % backbone["n_head"] == 0
        if backbone["n_layer"] >= 12:
            assert backbone["n_embd"] // backbone["n_head"] == 64
        assert config.task == load_config("default").task
    assert shapes == LADDER
    rates = [load_config(name).training.learning_rate for name in LADDER]
    assert rates == sorted(rates, reverse=True)


def test_memory_of_devices_worked_by_hand():
    sizes = ModelBytes(weights=1000, gradients=1000, optimizer=2000, root=200, block=100, n_blocks=8)
    cost = StepCost(flops=0, activations=500, peak=1200, peak_activations=600)
    alone = replicated(sizes, cost, 50, 7, buckets=False)
    assert alone.total == 1000 + 2000 + 1200 + 7
    assert replicated(sizes, cost, 50, 7, buckets=True).total == alone.total + 1000
    split = sharded(sizes, cost, 50, 7, n_devices=4, accumulation=1, half=False)
    assert (split.parameters, split.optimizer, split.step) == (250, 500, 600 + 250)
    assert split.gathered == 2 * 200 + 3 * 100
    assert sharded(sizes, cost, 50, 7, n_devices=4, accumulation=2, half=False).gathered == 700 + 1000
    assert sharded(sizes, cost, 50, 7, n_devices=4, accumulation=1, half=True).gathered == 350
    assert replicated(sizes, cost, 5000, 7, buckets=False).step == 5000


@pytest.mark.integration
def test_buckets_are_those_of_ddp(tmp_path):
    """A communication hook sees every bucket that is sent; how many processes there are does not change
    them."""
    config = load_config("gpt2-4x128", QUICK)
    task = build_task(config)
    seen = []

    def note(state, bucket):
        seen.append(bucket.buffer().nbytes)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(build_model(config.model, task, seed=config.seed))
        model.register_comm_hook(None, note)
        model(**task.encode(task.train_sampler.draw(0, 8))).loss.backward()
    finally:
        dist.destroy_process_group()
    assert sum(seen) == estimate(config, 2).memory["ddp"].buckets


@pytest.mark.integration
def test_a_checkpoint_is_as_large_as_said(tmp_path):
    config = load_config(
        "gpt2-4x128", [*QUICK, "training.steps=5", "training.checkpoint_every=2", "training.batch_size=8"]
    )
    budget = estimate(config)
    run = Run.create(config, tmp_path / "run")
    run.train()
    kept = sorted(run.folder.glob("checkpoint-*"))
    assert len(kept) == budget.n_checkpoints == 2
    for checkpoint in kept:
        size = sum((checkpoint / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
        assert size == pytest.approx(budget.checkpoint, rel=0.01)
    assert run.history.rows[-1]["sequences"] == budget.sequences == 40
    assert len(run.history.rows) == budget.evaluations


@pytest.mark.parametrize(
    "schedule",
    [{"every": 7}, {"every": 500}, {"per_decade": 3}, {"per_decade": 40}, {"steps": (0, 3, 9, 40, 900)}],
)
def test_evaluations_are_counted_as_they_fall_due(schedule):
    schedule = Schedule(**schedule)
    for last in (1, 2, 3, 9, 10, 11, 99, 100, 101, 140, 1000):
        due = [step for step in range(last + 1) if schedule.is_due(step) or step == last]
        assert schedule.count(last) == len(due)


def test_steps_that_cannot_be_shared_are_refused_with_a_size_that_can():
    with pytest.raises(ConfigError, match=r"batch_size = 128: 3 devices × 1 .* Take 126"):
        estimate(load_config("default"), 3)
    with pytest.raises(ConfigError, match="optim = 'sgd'"):
        estimate(load_config("default", ["training.arguments.optim=sgd"]))
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        estimate(load_config("default", ["training.arguments.gradient_checkpointing=true"]))


def test_a_run_that_could_not_be_made_cannot_be_planned():
    with pytest.raises(ConfigError, match="train"):
        estimate(load_config("default", ["task.bank.n_classes=1"]))


@pytest.mark.integration
def test_evaluations_are_planned_in_the_batches_that_the_callback_asks():
    config = load_config("default", QUICK)
    assert TransienceCallback(build_task(config)).batch_size == EVALUATION_BATCH
    few, many = (estimate(load_config("default", [f"task.n_eval_sequences={n}"])) for n in (256, 5120))
    assert many.flops_per_evaluation == 20 * few.flops_per_evaluation
    assert many.evaluation > 1.9 * few.evaluation and many.evaluation_sequences == 6 * 5120


OMNIGLOT = {"kind": "omniglot", "size": 8, "n_classes": 16, "n_holdout_classes": 8}
VARIED = OMNIGLOT | {"feature_map": {"n_components": 4}, "n_exemplars": 3, "augment": True}


@pytest.mark.parametrize(
    "config",
    [
        GaussianConfig(n_classes=16, n_holdout_classes=4, dim=8, n_labels=4),
        SymbolicConfig(n_classes=16, n_holdout_classes=4, n_exemplars=2),
        pytest.param(OmniglotConfig(**OMNIGLOT), marks=pytest.mark.slow),
        pytest.param(OmniglotConfig(**VARIED), marks=pytest.mark.slow),
    ],
)
def test_an_outline_is_as_large_as_its_bank(config, tmp_path, request, monkeypatch):
    if config.kind == "omniglot":
        monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path))
        config = config.replace(source=str(request.getfixturevalue("omniglot_folder")))
    bank, outline = load_bank(config, seed=1), outline_bank(config, seed=1)
    for field in ("kind", "shape", "n_labels", "n_exemplars", "n_ids", "exemplar_pools"):
        assert getattr(outline, field) == getattr(bank, field)
    assert outline.labels.equal(bank.labels) and outline.rows.is_meta
    if bank.data is not None:
        assert (outline.data.shape, outline.data.dtype) == (bank.data.shape, bank.data.dtype)
    turns = 0 if bank.variants is None else bank.variants.nbytes
    assert outline.nbytes == bank.nbytes - turns


def test_a_file_of_features_tells_its_size_itself(tmp_path):
    np.save(tmp_path / "features.npy", np.ones((12, 3, 7), np.float32))
    config = FeaturesConfig(source=str(tmp_path / "features.npy"), n_classes=12)
    assert outline_bank(config).shape == (7,)
    words = [f"task.bank={{kind: features, source: {tmp_path / 'features.npy'}, n_classes: 12, n_labels: 4}}"]
    budget = estimate(load_config("default", [*words, "task.n_eval_sequences=20"]))
    assert budget.groups["encoder"] == 7 * 64 + 64


def test_a_table_of_ids_and_drawings_are_counted_too():
    budget = estimate(
        load_config("default", ["task.bank={kind: symbolic, n_classes: 100, n_labels: 8}", *QUICK[:1]])
    )
    assert budget.groups["encoder"] == (100 + 128) * 64


def test_the_command_prints_json_and_one_device():
    words = ["plan", "default", "seed=1", "--devices", "1", "--json"]
    result = CliRunner().invoke(app, words)
    document = json.loads(result.stdout)
    assert document["parameters"] == 108_704 and document["sequences"] == 2_304_000
    assert set(document["memory"]) == {"single"}
    parts = document["memory"]["single"]
    assert parts.pop("total") == sum(parts.values())


@pytest.mark.integration
def test_preset_may_be_left_out_and_one_device_has_a_table_of_its_own():
    output = CliRunner().invoke(app, ["plan", "seed=1", "--devices", "1"]).stdout
    assert "default: hf_icl_transformer, 2 layers × 64" in output
    assert "Memory of one device" in output and "FSDP" not in output and "buckets" not in output
    assert "Evaluations ask 512 sequences at a time and take more: 9.91 MB" in output
    larger = CliRunner().invoke(app, ["plan", "gpt2-6x256", "--devices", "1"]).stdout
    assert "activations, then gradients" in larger and "Evaluations ask" not in larger


def test_without_memory_nothing_is_kept_of_the_context():
    with without_memory():
        assert torch.empty(10**8, 10**8).sum().shape == ()
    assert torch.ones(2).sum() == 2


@pytest.mark.slow
def test_a_real_process_takes_what_was_said():
    """Three steps of `TransienceTrainer`, evaluations and all;
    benchmarks/bench_budget.py does it for larger ones."""
    budget = estimate(load_config("gpt2-6x256"))
    assert measure_process("gpt2-6x256", []) == pytest.approx(budget.memory["single"].total, rel=0.1)


@pytest.mark.integration
def test_a_run_in_tokens_form_is_counted_on_its_language_model():
    backbone = "model.backbone={model_type: gpt2, n_layer: 2, n_embd: 32, n_head: 2, n_positions: 16}"
    config = load_config("default", ["task.form=tokens", backbone, "task.bank={kind: symbolic, n_labels: 8}"])
    budget, task = estimate(config), build_task(config)
    model = build_model(config.model, task, seed=config.seed)
    assert budget.parameters == sum(weight.numel() for weight in model.parameters())
    assert budget.tokens_per_sequence == task.encode(task.sampler().draw(0, 1))["input_ids"].shape[1] == 10


def test_of_a_pretrained_checkpoint_only_the_config_is_read(tmp_path):
    """The folder holds no weights at all."""
    GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=16, vocab_size=1000).save_pretrained(tmp_path)
    words = ["task.form=tokens", "task.bank={kind: symbolic, n_labels: 8}", f"model.pretrained={tmp_path}"]
    full = estimate(load_config("default", words))
    assert full.trainable == full.parameters > 1000 * 32
