"""Tasks: from config to model inputs, and configs that a bank cannot serve."""

import pytest
import torch
from transformers import GPT2Config

from hf_icl.errors import ConfigError
from hf_icl.models import ICLModel
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.task import datasets as streams
from hf_icl.task.config import TaskConfig
from hf_icl.task.datasets import SequenceStream
from hf_icl.task.task import Task

BANK = {
    "kind": "gaussian",
    "n_classes": 32,
    "n_holdout_classes": 4,
    "n_exemplars": 4,
    "dim": 8,
    "n_labels": 8,
}


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=50))


def test_encoded_exemplars_are_those_of_the_bank(task):
    batch = task.sampler().draw(0, 5)
    inputs = task.encode(batch)
    features = task.bank.lookup(torch.arange(36)[:, None], torch.arange(4)[None])
    assert torch.equal(inputs["exemplars"][3, 2], features[batch.class_ids[3, 2], batch.exemplar_ids[3, 2]])
    assert torch.equal(inputs["context_answers"], batch.labels[:, :-1])
    assert torch.equal(inputs["labels"], batch.labels[:, -1])


def test_dataset_stream_and_sampler_give_the_same_sequences(task):
    whole = task.encode(task.sampler().draw(0, 32))
    rows = [task.dataset(32)[i] for i in range(32)]
    fetched = task.dataset(32).__getitems__(list(range(32)))
    stream = iter(SequenceStream(task, 8, first=lambda: 8, n_ahead=2))
    for name, values in whole.items():
        assert torch.equal(task.collate(rows)[name], values)
        assert torch.equal(task.collate(fetched)[name], values)
    for i in (1, 2, 3):
        drawn = next(stream)
        assert all(torch.equal(drawn[name], values[8 * i : 8 * i + 8]) for name, values in whole.items())
        # batches 1, 2 come from one draw, 3 from the next


@pytest.mark.parametrize("cached", [1, 2 * 8 * 5 * 8, 10**6])
def test_how_many_batches_are_looked_up_at_once_changes_none(task, monkeypatch, cached):
    monkeypatch.setattr(streams, "CACHED_VALUES", cached)
    whole = task.encode(task.sampler().draw(0, 64))
    stream = iter(SequenceStream(task, 8, n_ahead=4))
    for i, drawn in zip(range(8), stream, strict=False):
        assert all(torch.equal(drawn[name], values[8 * i : 8 * i + 8]) for name, values in whole.items())


@pytest.mark.parametrize(
    ("device", "batch_size", "expected"), [("cpu", 32, 64), ("cuda", 32, 1024), ("cuda", 4096, 64)]
)
def test_a_device_draws_further_ahead_but_large_batches_no_further(device, batch_size, expected):
    assert SequenceStream(Task(), batch_size, device).n_ahead == expected


def test_a_dataset_ends(task):
    with pytest.raises(IndexError):
        task.dataset(3)[3]


def test_evaluators_draw_from_streams_of_their_own(task):
    assert not torch.equal(task.evaluators["train"].batch.class_ids, task.sampler().draw(0, 50).class_ids)
    again = Task(TaskConfig(bank=BANK, n_eval_sequences=50, evaluators=("iwl", "icl")))
    assert list(again.evaluators) == ["iwl", "icl"]
    assert torch.equal(again.evaluators["icl"].batch.class_ids, task.evaluators["icl"].batch.class_ids)


def test_noise_has_the_asked_size_and_belongs_to_the_sequence():
    quiet = Task(TaskConfig(bank=BANK | {"dim": 64}))
    noisy = Task(TaskConfig(bank=BANK | {"dim": 64}, train=SequenceSpec(n_context=4, burst=1, noise=0.5)))
    batch = noisy.sampler().draw(0, 200)
    x, clean = noisy.features(batch), quiet.features(quiet.sampler().draw(0, 200))
    added = x * (1 + 0.5**2) ** 0.5 - clean
    assert abs(added.std().item() / (0.5 * noisy.bank.scale) - 1) < 0.02 and abs(added.mean().item()) < 1e-3
    assert torch.equal(noisy.features(noisy.sampler().draw(100, 3)), x[100:103])


def test_a_mixture_is_drawn_in_its_proportions():
    specs = (SequenceSpec(n_context=4, burst=1, weight=3), SequenceSpec(n_context=4, burst=0))
    batch = Task(TaskConfig(bank=BANK, train=specs)).sampler().draw(0, 4000)
    bursty = (batch.roles == 0).any(1).float().mean().item()
    assert abs(bursty - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5


def test_own_evaluators_stand_beside_the_standard_ones():
    own = {"one_shot": SequenceSpec(n_context=2, burst=1, labels="remapped", n_remap=2)}
    task = Task(TaskConfig(bank=BANK, extra_evaluators=own, n_eval_sequences=10))
    assert "one_shot/accuracy" in task.chance and task.chance["one_shot/context_accuracy"] == 0.5


def test_holdout_is_asked_only_where_the_bank_has_it():
    assert "icl_holdout" not in Task(TaskConfig(bank=BANK | {"n_holdout_classes": 0})).specs


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"evaluators": ("icl", "iwll")}, "Did you mean iwl?"),
        ({"extra_evaluators": {"icl": {"n_context": 4, "burst": 1}}}, "these names are taken"),
        ({"extra_evaluators": {"long": {"n_context": 8}}}, "no evaluator may be longer"),
        ({"n_eval_sequences": 0}, "n_eval_sequences = 0: should be greater than or equal to 1"),
        ({"train": {"n_context": 4, "burst": 3}}, "must fit into n_context = 4"),
        ({"bank": BANK | {"n_classes": -1}}, "bank.n_classes = -1: should be greater"),
        ({"bank": BANK | {"n_clases": 4}}, "Did you mean n_classes?"),
        ({"train": {"n_context": 4, "brust": 1}}, "Did you mean burst?"),
    ],
)
def test_bad_tasks_are_refused_with_the_way_out(change, text):
    with pytest.raises(ConfigError) as error:
        TaskConfig(**({"bank": BANK} | change))
    assert text in str(error.value), str(error.value)


def test_a_bank_that_cannot_serve_the_task_is_told_before_training():
    with pytest.raises(ConfigError, match="fewer than 2 holdout classes"):
        task = Task(TaskConfig(bank=BANK | {"n_holdout_classes": 0}, evaluators=("icl_holdout",)))
        _ = task.evaluators
    with pytest.raises(ConfigError):
        Task(TaskConfig(bank=BANK | {"n_classes": 1}))


@pytest.mark.parametrize("training", [True, False])
def test_measuring_switches_dropout_off_and_leaves_the_mode_as_it_was(task, training):
    torch.manual_seed(0)
    backbone = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=16, embd_pdrop=0.5)
    model = ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context).train(training)
    assert task.measure(model)[0] == task.measure(model)[0] and model.training is training
