"""`CompiledTrainer`: a `TransienceTrainer` whose steps are compiled whole;
and the loop that trains one or many."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_icl.errors import ConfigError
from hf_icl.models import CausalTransformerModel, ICLModel
from hf_icl.training.compiled.compiling import can_compile
from hf_icl.training.compiled.stack import Stack
from hf_icl.training.divergence import LossWatch
from hf_icl.training.trainer import TransienceTrainer

# Of TrainingArguments: what the loop here leaves out.
ONLY = {
    "world_size": 1, "gradient_accumulation_steps": 1, "bf16": False, "fp16": False,
    "gradient_checkpointing": False, "label_smoothing_factor": 0.0, "torch_compile": False,
    "eval_strategy": "no", "eval_on_start": False, "auto_find_batch_size": False,
}  # fmt: skip


class CompiledTrainer(TransienceTrainer):
    """A `TransienceTrainer` of the native network, to the same numbers up to rounding, about twice as fast.

    Forward and backward are one compiled function instead of a hundred calls, and the loop around them does
    what a callback can see and no more. Everything else is `Trainer`'s: optimizer, schedule, callbacks, log,
    checkpoints. Training and resuming can change between the two classes at any checkpoint.

    For one device. Half a minute goes into compiling, so that runs of a few thousand steps are done sooner
    without. Where torch cannot compile, a warning says why, and `train` is that of `TransienceTrainer`.

    Args:
        model: An `ICLModel` around a `CausalTransformerModel`, with a linear encoder or one of ids.
        args: As for `TransienceTrainer`; precision, accumulation, checkpointing of activations, label
            smoothing and evaluations beside the schedule's stay as they are by default.
        options: As for `TransienceTrainer`: task, schedule, regularization, callbacks.

    Raises:
        ConfigError: If the model or an argument asks for what compiled steps do not do.
    """

    def __init__(self, model: torch.nn.Module, args: TrainingArguments, *rest, **options) -> None:
        _check(model, args)
        super().__init__(model, args, *rest, **options)

    def train(
        self, resume_from_checkpoint: str | None = None, trial=None, ignore_keys_for_eval=None
    ) -> TrainOutput:
        """Train to the last step.

        Args:
            resume_from_checkpoint: Folder of a checkpoint to go on from.
            trial: Must be None: hyper-parameter searches need the stock loop.
            ignore_keys_for_eval: Of no use here: `evaluate` measures the task's evaluators.
        """
        if trial is not None:
            rule = "hyper-parameter searches need the stock loop"
            raise ConfigError("trial", trial, rule, "Use TransienceTrainer, or hf-icl sweep.")
        folders = None if resume_from_checkpoint is None else [Path(resume_from_checkpoint)]
        if not can_compile():
            return super().train(resume_from_checkpoint)
        return train_together([self], folders, compiled=True)[0]


def find_misfit(model: torch.nn.Module) -> str | None:
    """Return why a model's steps cannot be compiled whole; None if they can."""
    native = isinstance(model, ICLModel) and isinstance(model.backbone, CausalTransformerModel)
    if native and model.config.encoder in ("linear", "embedding"):
        return None
    return (
        "only an ICLModel around the native network, with a linear encoder or one of ids, can be compiled "
        "whole"
    )


def _check(model: torch.nn.Module, args: TrainingArguments) -> None:
    """Refuse what the stock loop would do and `train_together` would not."""
    if (misfit := find_misfit(model)) is not None:
        raise ConfigError("model", type(model).__name__, misfit, "Use TransienceTrainer.")
    for field, wanted in ONLY.items():
        value = getattr(args, field)
        if value != wanted:
            rule = f"compiled steps take {wanted!r} only"
            raise ConfigError(field, value, rule, "Use TransienceTrainer.")


def train_together(
    trainers: Sequence[TransienceTrainer], folders: Sequence[Path] | None = None, *, compiled: bool
) -> list[TrainOutput]:
    """Train the models of several trainers at once, each with its own callbacks, log and checkpoints.

    Args:
        trainers: As `Stack` takes them, with the same number of steps and of steps between checkpoints.
        folders: A checkpoint of each to go on from, all of one step; None begins anew.
        compiled: Whether to compile the step.

    Returns:
        Each one's last step and mean loss from the first step taken here.
    """
    stack = Stack(trainers, compiled=compiled)
    if folders is not None:
        stack.load(folders)
    for trainer in trainers:
        _begin(trainer)
    first, last = trainers[0].state.global_step, trainers[0].args.max_steps
    total = torch.zeros(len(trainers), device=stack.device)
    losses = torch.zeros_like(total)  # of the steps not yet logged
    n_unlogged = 0
    watch = LossWatch(len(trainers), stack.device)
    for number, trainer in enumerate(trainers):
        trainer.transience.find_divergence = functools.partial(watch.find, number)
    going = list(trainers)
    for step in range(first + 1, last + 1):
        for trainer in going:
            _begin_step(trainer)
        now = stack.step()
        watch.note(now, step)
        losses += now
        n_unlogged += 1
        going = [trainer for trainer in trainers if not trainer.has_stopped]
        for trainer in going:
            trainer.transience.counter.add(trainer.args.train_batch_size)  # no model's forward is called
        controls = [_end_step(trainer) for trainer in going]
        if any(control.should_log for control in controls):
            for trainer, loss in zip(trainers, (losses / n_unlogged).tolist(), strict=True):
                if trainer in going:
                    rate = trainer.optimizer.param_groups[0]["lr"]
                    trainer.log({"loss": loss, "learning_rate": rate})
            total, losses, n_unlogged = total + losses, torch.zeros_like(losses), 0
        saved = [trainer for trainer in going if trainer.control.should_save]
        stack.save(saved)
        for trainer in saved:
            trainer.control = trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
        if _is_over(trainers):
            break
    for trainer in going:
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
    for trainer in trainers:
        trainer.control = trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    means = ((total + losses) / max(trainers[0].state.global_step - first, 1)).tolist()
    return [
        TrainOutput(trainer.state.global_step, mean, {})
        for trainer, mean in zip(trainers, means, strict=True)
    ]


def _is_over(trainers: Sequence[TransienceTrainer]) -> bool:
    """Return whether something asks all to stop, or all have stopped by themselves; one that has leaves the
    others be."""
    asked = [trainer for trainer in trainers if trainer.control.should_training_stop]
    return len(asked) == len(trainers) or any(not trainer.has_stopped for trainer in asked)


def _begin(trainer: TransienceTrainer) -> None:
    """Set what callbacks read, and call them."""
    args, state = trainer.args, trainer.state
    state.max_steps, state.train_batch_size = args.max_steps, args.train_batch_size
    state.compute_steps(args, args.max_steps)
    handler = trainer.callback_handler
    handler.model, handler.optimizer = trainer.model, trainer.optimizer
    handler.lr_scheduler = trainer.lr_scheduler
    trainer.control = handler.on_train_begin(args, state, trainer.control)


def _begin_step(trainer: TransienceTrainer) -> None:
    if trainer.interventions.interventions:
        trainer.control = trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)


def _end_step(trainer: TransienceTrainer):
    state = trainer.state
    state.epoch = state.global_step / state.max_steps  # as for any stream without an end
    trainer.control = trainer.callback_handler.on_step_end(trainer.args, state, trainer.control)
    return trainer.control
