"""What fine-tuning of a pretrained model will cost: counted without its weights, timed with them."""

import pytest
import torch

from hf_icl.models.build import build_model, count_saved_bytes
from hf_icl.plan import Pace, estimate, measure_pace, render_budget
from hf_icl.plan.meter import leave_meta, without_memory
from hf_icl.runs.config import load_config
from hf_icl.runs.run import build_task

# peft 0.21 still asks for what transformers renames in v6.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
WORDS = [
    "task.form=tokens", "task.bank={kind: symbolic, n_classes: 24, n_holdout_classes: 4, n_labels: 4}",
    "task.n_eval_sequences=8", "training.batch_size=4", "training.steps=10", "evaluate=5",
    "training.checkpoint_every=10", "training.threads=1",
]  # fmt: skip
LORA = "model.lora={rank: 2}"


@pytest.mark.parametrize("more", [(), (LORA,)], ids=["full", "lora"])
def test_what_is_counted_is_the_model_that_is_trained(pretrained, more):
    config = load_config("default", [*WORDS, f"model.pretrained={pretrained}", *more])
    budget = estimate(config)
    model = build_model(config.model, build_task(config), seed=0)
    trained = [weight.numel() for weight in model.parameters() if weight.requires_grad]
    assert budget.parameters == sum(weight.numel() for weight in model.parameters())
    assert budget.trainable == sum(trained)
    assert budget.gradients == 4 * sum(trained)
    assert budget.saved == count_saved_bytes(model)
    memory = budget.memory["single"]
    assert memory.optimizer == 8 * sum(trained) + 4 * len(trained)  # two moments and a count of steps
    stored = budget.saved if more else memory.parameters
    assert budget.checkpoint == stored + memory.optimizer
    assert budget.disk == budget.checkpoint + budget.saved


def test_adapters_need_less_than_everything(pretrained):
    words = [*WORDS, f"model.pretrained={pretrained}"]
    full, lora = (estimate(load_config("default", [*words, *more])) for more in ((), (LORA,)))
    assert lora.parameters > full.parameters and lora.trainable < full.trainable / 5
    assert lora.flops_per_sequence < full.flops_per_sequence
    assert lora.memory["single"].total < full.memory["single"].total


def test_leaving_the_meta_device_keeps_what_is_tied():
    with torch.device("meta"):
        model = torch.nn.ModuleDict({"a": torch.nn.Embedding(5, 3), "b": torch.nn.Linear(3, 5, bias=False)})
    model["b"].weight = model["a"].weight
    model["a"].weight.requires_grad_(False)
    with without_memory():
        leave_meta(model)
        assert model["b"].weight is model["a"].weight and not model["a"].weight.requires_grad
        assert model["a"].weight.device.type == "cpu" and model["a"].weight.shape == (5, 3)


@pytest.mark.parametrize("more", [(), (LORA,)], ids=["full", "lora"])
def test_time_is_measured_on_the_run_itself(pretrained, more, monkeypatch):
    """A clock that counts its readings: each thing timed takes one tick."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("hf_icl.plan.pace.time.perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr("hf_icl.plan.pace.N_ASKED", 4)
    config = load_config("default", [*WORDS, f"model.pretrained={pretrained}", *more])
    task = build_task(config)
    assert measure_pace(config) == Pace(1.0, 2.0 * len(task.evaluators))


def test_the_table_says_how_long_it_takes_here(pretrained):
    from rich.console import Console

    budget = estimate(load_config("default", [*WORDS, f"model.pretrained={pretrained}"]))
    console = Console(width=100, record=True)
    console.print(render_budget(budget, "mine", pace=Pace(2.0, 30.0)))
    text = console.export_text()
    assert budget.evaluations == 3 and "1:50 on one device of this machine: 2 s a step" in text
