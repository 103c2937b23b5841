"""The loss of fine-tuning: logits at the answer's places alone, and L2 towards the pretrained weights."""

import functools

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
    set_seed,
)

from hf_icl.errors import ConfigError
from hf_icl.runs.config import load_config
from hf_icl.runs.stackable import is_compiled
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.regularization import Regularization
from hf_icl.training.trainer import TransienceTrainer, keep_answers

SIZES = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, **SIZES)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=1, hidden_size=16, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=16, **SIZES,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16, **SIZES
        )
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def task():
    bank = {"kind": "symbolic", "n_classes": 24, "n_holdout_classes": 4, "n_labels": 4}
    return Task(TaskConfig(bank=bank, form="tokens", n_eval_sequences=8, evaluators=["icl"]))


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_answer", [1, 3])
def test_fewer_logits_give_the_same_loss_and_gradients(family, n_answer):
    set_seed(0)
    model = FAMILIES[family]().eval()
    input_ids = torch.randint(0, 40, (5, 11))
    labels = torch.full_like(input_ids, -100)
    labels[:, -n_answer:] = input_ids[:, -n_answer:]
    whole = {"input_ids": input_ids, "labels": labels}
    kept = keep_answers(model, whole)
    assert kept["logits_to_keep"] == n_answer + 1 and model(**kept).logits.shape[1] == n_answer + 1
    for one, other in zip(loss_and_gradients(model, whole), loss_and_gradients(model, kept), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_what_cannot_be_shortened_stays():
    model = FAMILIES["gpt2"]()
    every = {"input_ids": torch.zeros(2, 4, dtype=torch.long), "labels": torch.zeros(2, 4, dtype=torch.long)}
    assert keep_answers(model, every)["logits_to_keep"] == 4
    none = every | {"labels": torch.full((2, 4), -100)}
    assert keep_answers(model, none)["logits_to_keep"] == 1
    vectors = {"exemplars": torch.zeros(2, 3, 5), "labels": torch.zeros(2, dtype=torch.long)}
    assert keep_answers(model, vectors) is vectors
    assert "logits_to_keep" not in keep_answers(torch.nn.Linear(1, 1), every)


def make_trainer(task, folder, regularization, **more):
    set_seed(0)
    model = FAMILIES["gpt2"]()
    arguments = dict(max_steps=3, per_device_train_batch_size=4, use_cpu=True, report_to="none", seed=0)
    args = TrainingArguments(str(folder), **arguments | more, learning_rate=1e-2, save_strategy="no")
    return TransienceTrainer(model, args, task, schedule=3, regularization=regularization)


def test_training_uses_it_and_comes_to_the_same(task, tmp_path, monkeypatch):
    one = make_trainer(task, tmp_path / "a", None)
    seen = []
    forward = one.model.forward

    @functools.wraps(forward)
    def watch(*args, **inputs):
        seen.append(inputs)
        return forward(*args, **inputs)

    monkeypatch.setattr(one.model, "forward", watch)
    one.train()
    assert seen and any(inputs.get("logits_to_keep") == 2 for inputs in seen)
    other = make_trainer(task, tmp_path / "b", None)
    monkeypatch.setattr("hf_icl.training.trainer.keep_answers", lambda model, inputs: inputs)
    other.train()
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_l2_towards_the_start_adds_the_squares_of_the_way(task, tmp_path):
    trainer = make_trainer(task, tmp_path, Regularization(kind="l2", strength=0.5, towards="start"))
    plain = make_trainer(task, tmp_path, None)
    inputs = task.encode(task.sampler().draw(0, 4))
    for model in (trainer.model, plain.model):
        model.eval()  # no dropout
    same = trainer.compute_loss(trainer.model, inputs), plain.compute_loss(plain.model, inputs)
    assert same[0] == same[1]  # no way yet
    with torch.no_grad():
        for model in (trainer.model, plain.model):
            model.transformer.h[0].mlp.c_fc.bias += 2.0  # 64 of them
    added = trainer.compute_loss(trainer.model, inputs) - plain.compute_loss(plain.model, inputs)
    assert added.item() == pytest.approx(0.5 * 64 * 4, rel=1e-5)


@pytest.mark.integration
def test_a_strong_pull_keeps_the_weights_where_they_were(task, tmp_path):
    ways = {}
    for towards in ("zero", "start"):
        pull = Regularization(kind="l2", strength=10.0, towards=towards)
        trainer = make_trainer(task, tmp_path, pull, max_steps=40)
        start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        named = dict(trainer.model.named_parameters())
        ways[towards] = sum((named[name] - weight).square().sum().item() for name, weight in start.items())
    assert ways["start"] < ways["zero"] / 2


def test_what_only_l2_can_and_compiled_steps_cannot():
    with pytest.raises(ConfigError, match="only kind l2 pulls anywhere else than to zero"):
        Regularization(kind="decay", strength=0.1, towards="start")
    towards = "training.regularization={kind: l2, strength: 1e-4, towards: start}"
    assert not is_compiled(load_config("default", [towards]))
    with pytest.raises(ConfigError, match="steps pull to zero alone where they are compiled"):
        is_compiled(load_config("default", [towards, "training.compile=true"]))
