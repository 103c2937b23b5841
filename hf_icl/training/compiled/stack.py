"""R trainers as one: their weights stacked, one forward and backward for all,
each with its own AdamW and schedule."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_icl.models import ICLModel
from hf_icl.sequences.spec import count_places
from hf_icl.task.datasets import SequenceStream
from hf_icl.training.compiled import network, replay
from hf_icl.training.compiled.compiling import compile_whole
from hf_icl.training.compiled.flat import FlatAdamW, flatten
from hf_icl.training.trainer import TransienceTrainer

OPTIMIZER_FILE, SCHEDULER_FILE, STATE_FILE = "optimizer.pt", "scheduler.pt", "trainer_state.json"
# Floats of residual stream and logits in one call; more no longer fits a CPU's caches, and is slower.
CACHED_STREAM, CACHED_LOGITS = 81_920, 262_144
INPUTS = ("exemplars", "context_answers", "labels")
Tensors = dict[str, Tensor]


class Part(NamedTuple):
    """The replicas of one call, r of R: views into the stack, each (r, *shape),
    and what differs between them, (r,)."""

    weights: Tensors
    gradients: Tensors
    l2: Tensors
    scale_R: Tensor


class Stack:
    """The steps of R `TransienceTrainer`s, taken together.

    Every model's parameters, and their gradients, become views into tensors of shape (R, *shape), so that a
    stacked step moves all models, while each trainer still evaluates, saves and loads its own model, with its
    own AdamW and schedule.

    Args:
        trainers: Built as for solo training, on one device; their models have the same shapes.
        compiled: Whether to compile forward and backward.

    Attributes:
        weights: Parameter name to values, shape (R, *shape).
        gradients: The same of the last step's gradients.
    """

    def __init__(self, trainers: Sequence[TransienceTrainer], *, compiled: bool) -> None:
        self.trainers = list(trainers)
        self.models: list[ICLModel] = [trainer.model for trainer in self.trainers]
        self.config, self.device = self.models[0].config, self.trainers[0].args.device
        self._flat = flatten(self.models)
        self.weights, self.gradients = self._flat.weights, self._flat.weight_gradients
        self._wholes = [Parameter(row) for row in self._flat.values]
        for whole, gradients in zip(self._wholes, self._flat.gradients, strict=True):
            whole.grad = gradients
        self.parts = self._split()
        for replica in range(len(self.trainers)):
            self._create_optimizer(replica)
        self._differentiate = torch.func.grad(self._sum_losses, has_aux=True)
        self._backward = self._fill_gradients
        if compiled:
            self._backward = compile_whole(self._fill_gradients)
        own = all(type(trainer.optimizer) is FlatAdamW for trainer in self.trainers)
        own &= not any(trainer.interventions.interventions for trainer in self.trainers)
        # what others' optimizers do is not known, and what interventions do changes
        self._replays = own and replay.can_replay(self.device)
        self._move = replay.Replayed(self._move_all) if self._replays else self._move_all
        self._batches = None

    def _create_optimizer(self, replica: int) -> None:
        """Give a trainer its optimizer and schedule, and stand in for its AdamW unless somebody else made
        it."""
        trainer, model = self.trainers[replica], self.models[replica]
        model.train()
        given = trainer.optimizer
        optimizer = trainer.create_optimizer()
        if given is None and type(optimizer) is AdamW:
            trainer.optimizer = FlatAdamW(optimizer, model, self._flat, replica)
        trainer.create_scheduler(trainer.args.max_steps)

    def _split(self) -> list[Part]:
        """Share the replicas out to the calls of one step: all in one on a GPU, few on a CPU,
        whose caches are small."""
        size, l2 = self._choose_size(), self._stack_l2()
        scales = [model.config.exemplar_scale for model in self.models]
        scale_R = torch.tensor(scales, device=self.device)
        parts = [slice(start, start + size) for start in range(0, len(self.models), size)]
        trees = (self.weights, self.gradients, l2)
        cut = ([{name: values[part] for name, values in tree.items()} for tree in trees] for part in parts)
        return [Part(*own, scale_R[part]) for own, part in zip(cut, parts, strict=True)]

    def _choose_size(self) -> int:
        """Return how many replicas to take in one call; it divides their number,
        so that all calls are of one shape."""
        n, trainer = len(self.trainers), self.trainers[0]
        if self.device.type != "cpu":
            return n
        n_places = count_places(trainer.task.n_context, self.config.places)
        n_stream = trainer.args.train_batch_size * n_places * self.config.hidden_size
        n_logits = trainer.args.train_batch_size * self.config.n_labels
        limit = max(1, min(CACHED_STREAM // n_stream, CACHED_LOGITS // n_logits))
        return max(size for size in range(1, min(n, limit) + 1) if n % size == 0)

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
        self, weights: Tensors, l2: Tensors, scale_R: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of some replicas' losses, whose gradients are each one's own, and the losses,
        shape (R,)."""
        exemplars, context_answers, labels = inputs
        logits = network.forward(self.config, weights, exemplars, context_answers, scale_R)
        losses = network.mean_losses(logits, labels)
        for name, strength_R in l2.items():
            losses = losses + weights[name].square().flatten(1).sum(1) * strength_R
        return losses.sum(), losses

    def _fill_gradients(
        self, weights: Tensors, gradients: Tensors, l2: Tensors, scale_R: Tensor, *inputs: Tensor
    ) -> Tensor:
        """Write the gradients of one batch per replica; return the losses, shape (R,)."""
        found, losses = self._differentiate(weights, l2, scale_R, *inputs)
        for name, gradient in gradients.items():
            gradient.copy_(found[name])
        return losses

    @torch.no_grad()
    def step(self) -> Tensor:
        """Take one optimizer step of every replica; return the losses before it, shape (R,)."""
        inputs = self._draw()
        if self._replays:
            for trainer in self.trainers:
                trainer.optimizer.hold_rates()
        losses = self._move(*inputs)
        for trainer in self.trainers:
            trainer.lr_scheduler.step()
            trainer.state.global_step += 1
        return losses

    def _move_all(self, *inputs: Tensor) -> Tensor:
        """Move all models by one batch each; return the losses, shape (R,)."""
        batches = [values.split(len(self.parts[0].scale_R)) for values in inputs]
        losses = [self._backward(*part, *own) for part, *own in zip(self.parts, *batches, strict=True)]
        for trainer, whole in zip(self.trainers, self._wholes, strict=True):
            if trainer.args.max_grad_norm > 0:
                clip_grad_norm_(whole, trainer.args.max_grad_norm)
            if trainer.interventions.interventions:
                _step_between(trainer)
            else:
                trainer.optimizer.step()
        return torch.cat(losses)

    def _draw(self) -> list[Tensor]:
        """Return the next batch of every replica, stacked."""
        if self._batches is None:
            self._batches = [iter(_find_batches(trainer)) for trainer in self.trainers]
        parts = [next(batches) for batches in self._batches]
        if len(parts) == 1:
            return [parts[0][name][None] for name in INPUTS]
        return [torch.stack([part[name] for part in parts]) for name in INPUTS]

    def save(self, trainers: Iterable[TransienceTrainer]) -> None:
        """Write a checkpoint of some replicas, each into its own folder, as a solo run's; drop the oldest."""
        for trainer in trainers:
            folder = Path(trainer.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
            trainer.save_model(str(folder))
            torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER_FILE)
            torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER_FILE)
            trainer.state.save_to_json(str(folder / STATE_FILE))
            rotate_checkpoints(trainer.args.output_dir, trainer.args.save_total_limit)

    def load(self, folders: Sequence[Path]) -> None:
        """Continue from a checkpoint of every replica, all of one step."""
        for trainer, folder in zip(self.trainers, folders, strict=True):
            saved = ICLModel.from_pretrained(folder).state_dict()
            trainer.model.load_state_dict(saved)
            trainer.optimizer.load_state_dict(torch.load(folder / OPTIMIZER_FILE, weights_only=True))
            trainer.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_FILE, weights_only=True))
            trainer.state = type(trainer.state).load_from_json(str(folder / STATE_FILE))


def _step_between(trainer: TransienceTrainer) -> None:
    """Take a trainer's optimizer step, between what interventions do to gradients and to weights."""
    handler, about = trainer.callback_handler, (trainer.args, trainer.state, trainer.control)
    handler.on_pre_optimizer_step(*about)
    trainer.optimizer.step()
    handler.on_optimizer_step(*about)


def _find_batches(trainer: TransienceTrainer) -> Iterable[Tensors]:
    """Return a trainer's batches: its stream, as its loader only passes that on,
    or what another loader makes."""
    loader = trainer.get_train_dataloader()
    return loader.dataset if type(loader.dataset) is SequenceStream else loader
