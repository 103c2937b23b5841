"""R trainers as one: their weights stacked, one forward and backward for all, each with its own stock optimizer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_icl.checkpoints import mark_whole
from hf_icl.models import ICLModel
from hf_icl.replicas import network
from hf_icl.replicas.compiling import compile_if_possible
from hf_icl.trainer import TransienceTrainer

OPTIMIZER_FILE, SCHEDULER_FILE, STATE_FILE = "optimizer.pt", "scheduler.pt", "trainer_state.json"


class Stack:
    """The steps of R `TransienceTrainer`s, taken together.

    Every model's parameters become views into tensors of shape (R, *shape), so that a stacked step moves all models,
    while each trainer still evaluates, saves and loads its own model, with its own AdamW and schedule.

    Args:
        trainers: Built as for solo training, on one device; their models have the same shapes.
        compiled: Whether to compile the step, where the machine can.

    Attributes:
        weights: Parameter name to values, shape (R, *shape).
    """

    def __init__(self, trainers: Sequence[TransienceTrainer], *, compiled: bool = True) -> None:
        self.trainers = list(trainers)
        self.models: list[ICLModel] = [trainer.model for trainer in self.trainers]
        self.config, self.device = self.models[0].config, self.trainers[0].args.device
        for model in self.models:
            model.train()
        self.weights = stack_weights(self.models)
        self.scale_R = torch.tensor(
            [model.config.exemplar_scale for model in self.models], device=self.device
        )
        self.l2 = self._stack_l2()
        for trainer in self.trainers:
            trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
            trainer.state.max_steps = trainer.args.max_steps
            trainer.state.train_batch_size = trainer.args.train_batch_size
        self.parameters = [[model.get_parameter(name) for name in self.weights] for model in self.models]
        self._losses = compile_if_possible(self._sum_losses, self.device) if compiled else self._sum_losses
        self._batches = None

    def _stack_l2(self) -> dict[str, Tensor]:
        """Return each replica's L2 strength, (R,), for the parameters on which any replica has some."""
        strengths = {
            name: [
                trainer.regularization.strength
                if trainer.regularization.kind == "l2" and name in trainer.regularized
                else 0.0
                for trainer in self.trainers
            ]
            for name in self.weights
        }
        return {name: torch.tensor(s, device=self.device) for name, s in strengths.items() if any(s)}

    def _sum_losses(
        self, weights: dict[str, Tensor], exemplars: Tensor, context_labels: Tensor, labels: Tensor
    ) -> Tensor:
        logits = network.forward(self.config, weights, exemplars, context_labels, self.scale_R)
        loss = network.sum_losses(logits, labels)
        for name, strength_R in self.l2.items():
            loss = loss + (weights[name].square().flatten(1).sum(1) * strength_R).sum()
        return loss

    def step(self) -> None:
        """Take one optimizer step of every replica."""
        if self._batches is None:
            self._batches = [iter(trainer.get_train_dataloader()) for trainer in self.trainers]
        parts = [next(batches) for batches in self._batches]
        inputs = (
            torch.stack([part[name] for part in parts]) for name in ("exemplars", "context_labels", "labels")
        )
        loss = self._losses(self.weights, *inputs)
        gradients = torch.autograd.grad(loss, list(self.weights.values()))
        by_replica = zip(*(gradient.contiguous().unbind(0) for gradient in gradients), strict=True)
        for trainer, parameters, own in zip(self.trainers, self.parameters, by_replica, strict=True):
            for parameter, gradient in zip(parameters, own, strict=True):
                parameter.grad = gradient
            if trainer.args.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(parameters, trainer.args.max_grad_norm)
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            trainer.state.global_step += 1

    def save(self, n_kept: Sequence[int | None]) -> None:
        """Write a checkpoint of every replica into its own folder, as a solo run's, and drop the oldest."""
        for trainer, limit in zip(self.trainers, n_kept, strict=True):
            folder = Path(trainer.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
            trainer.save_model(str(folder))
            torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER_FILE)
            torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER_FILE)
            trainer.state.save_to_json(str(folder / STATE_FILE))
            mark_whole(folder)
            rotate_checkpoints(trainer.args.output_dir, limit)

    def load(self, folders: Sequence[Path]) -> None:
        """Continue from a checkpoint of every replica, all of one step."""
        for trainer, folder in zip(self.trainers, folders, strict=True):
            saved = ICLModel.from_pretrained(folder).state_dict()
            trainer.model.load_state_dict(saved)
            trainer.optimizer.load_state_dict(torch.load(folder / OPTIMIZER_FILE, weights_only=True))
            trainer.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_FILE, weights_only=True))
            trainer.state = type(trainer.state).load_from_json(str(folder / STATE_FILE))


def stack_weights(models: Sequence[ICLModel]) -> dict[str, Tensor]:
    """Stack the parameters of models of one shape, and turn theirs into views of the stack.

    Returns:
        Name to a leaf tensor of shape (R, *shape); writing to it moves the models, and the other way round.

    >>> from hf_icl.models import ICLConfig
    >>> models = [ICLModel(ICLConfig()), ICLModel(ICLConfig())]
    >>> weights = stack_weights(models)
    >>> with torch.no_grad():
    ...     _ = weights["head.bias"][1].fill_(7.0)
    >>> models[1].head.bias[0].item()
    7.0
    """
    stacked = {}
    for name, parameter in models[0].named_parameters():
        values = torch.stack([model.get_parameter(name).detach() for model in models])
        for model, own in zip(models, values, strict=True):
            model.get_parameter(name).data = own
        stacked[name] = values.requires_grad_(parameter.requires_grad)
    return stacked
