"""One step of the embedded default, recorded: what data, model, loss, gradients and optimizer make together.

Where a number moves, something moved all results: sequences, initial weights, the network, the loss, the
optimizer. If that was meant, say in the changelog what changed and why, and record anew (`python -m
tests.test_golden` prints the numbers). If it was not, `git bisect run python -m pytest -q
tests/test_golden.py` finds the commit.
"""

import pytest
import torch
from transformers import TrainerCallback

from hf_icl.history.history import History
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run

# Recorded with version 0.1.0 at commit ea13087: torch 2.13.0, transformers 5.23.0, one thread, x86-64.
LOSS = 3.5767064
GRADIENT_NORMS = {
    "label_embedding.weight": 0.13168095,
    "exemplar_encoder.weight": 0.4417007,
    "backbone.positions.weight": 0.20874597,
    "backbone.blocks.0.attention.qkv.weight": 0.6266808,
    "backbone.blocks.0.mlp.0.weight": 0.4687283,
    "backbone.blocks.1.attention.out.weight": 0.5086187,
    "backbone.blocks.1.mlp.2.weight": 0.7449922,
    "backbone.final_norm.weight": 0.06399555,
    "head.weight": 0.8332114,
}
UPDATE_SIZE = 0.9885101


class Watch(TrainerCallback):
    """Notes weights before the step, and gradients right before the optimizer takes them."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.norms = {name: weight.grad.norm().item() for name, weight in model.named_parameters()}


def take_step(folder) -> tuple[float, dict[str, float], float]:
    """Return the loss before the step, the norm of each gradient, and the norm of what the step changed."""
    run = Run.create(load_config("default", ["training.steps=1", "task.n_eval_sequences=1"]), folder / "run")
    watch = Watch()
    trainer = run.build_trainer(History(), [watch])
    loss = trainer.train().training_loss
    moved = [weight.detach() - watch.before[name] for name, weight in trainer.model.named_parameters()]
    return loss, watch.norms, torch.cat([change.flatten() for change in moved]).norm().item()


def test_the_first_step_of_the_default_is_the_recorded_one(tmp_path):
    loss, norms, size = take_step(tmp_path)
    assert loss == pytest.approx(LOSS, rel=1e-5)
    assert size == pytest.approx(UPDATE_SIZE, rel=1e-4)
    shown = {name: norms[name] for name in GRADIENT_NORMS}
    assert shown == pytest.approx(GRADIENT_NORMS, rel=1e-3)


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        print(*take_step(Path(scratch)), sep="\n")
