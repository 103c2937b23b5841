"""`InterventionCallback`: interventions on a model in anybody's `Trainer`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_icl.circuits.attention import visit
from hf_icl.config import name_part
from hf_icl.errors import ConfigError
from hf_icl.task.task import Task
from hf_icl.training.interventions.base import Action, Intervention, Log, Watch, check_trigger
from hf_icl.training.interventions.stop import Stop

logger = logging.getLogger(__name__)


class InterventionCallback(TrainerCallback):
    """Changes a model while any `Trainer` trains it: heads, weights, penalties; see the classes beside.

    What is measured after a step is the model as it was in that step, under what was in force. Interventions
    follow from the step and the trainer's log alone, both of which a checkpoint holds: a resumed training
    goes on to the same numbers. A checkpoint holds weights; a model that is loaded from it has no heads
    clamped. Put it after the `TransienceCallback`: before it, a `Stop` comes a step late.

    Args:
        task: Whose sequences the model is given.
        interventions: What is done; of several in force the first comes first.

    Example::

        rescue = Regularize(by="l2", strength=3e-4, when=Trigger(metric="icl/accuracy", falls_by=0.1))
        trainer.add_callback(TransienceCallback(task, log=trainer.log))
        trainer.add_callback(InterventionCallback(task, [rescue]))
    """

    def __init__(self, task: Task, interventions: Sequence[Intervention]) -> None:
        self.task, self.interventions = task, tuple(interventions)
        self._actions: list[Action] = []
        self._watches: list[Watch] = []
        self._stops: list[Watch] = []
        self._in_force: list[bool] = []
        self._open = contextlib.ExitStack()  # visits to the model's attention
        self.stopped_step: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        """Find the parts that are meant.

        Raises:
            ConfigError: If one cannot be done to this model.
        """
        if args.fp16 and any(one.reads_gradients for one in self.interventions):
            raise ConfigError(
                "fp16", True, "scales the gradients that a penalty is added to", "Train in bf16 or float32."
            )
        self._open.close()
        self._actions = bind(self.interventions, self.task, model)
        self._watches = [one.watch() for one in self.interventions]
        self._stops = watch_stops(self.interventions)
        self._in_force = [False] * len(self._actions)
        self.stopped_step = None

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model=None,
        optimizer=None,
        **kwargs,
    ) -> None:
        """Begin and end what begins and ends after the step before."""
        self._go_on(state, model, optimizer)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer=None, **kwargs
    ) -> None:
        """Let interventions change gradients and weights before the optimizer's step."""
        for action in self._acting():
            action.before_update(optimizer)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Let interventions change weights after the optimizer's step, and before they are measured."""
        for action in self._acting():
            action.after_update()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """End the training, with a checkpoint, once a `Stop` says so."""
        if self.stopped_step is None:
            self.stopped_step = find_first(self._stops, state.log_history)
        if self.stopped_step is not None:
            if not control.should_training_stop:  # else it ends anyhow, and what is saved then is settled
                control.should_save = args.save_strategy != "no"
            control.should_training_stop = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """As `on_step_end`, for what the trainer itself has evaluated."""
        self.on_step_end(args, state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Let go of the model."""
        self._open.close()

    def _acting(self) -> list[Action]:
        return [action for action, acts in zip(self._actions, self._in_force, strict=True) if acts]

    def _go_on(self, state: TrainerState, model: nn.Module, optimizer) -> None:
        """Put into force, or out of it, what the number of steps taken says."""
        step, before = state.global_step, list(self._in_force)
        for number, one in enumerate(self.interventions):
            first = self._watches[number].find(state.log_history)
            acts = first is not None and first <= step and (one.stop is None or step < one.stop)
            if acts and not before[number] and first == step:  # not when it goes on after a resume
                self._tell(one, step, state)
            if before[number] and not acts:
                self._actions[number].end()
            self._in_force[number] = acts
            if acts:
                self._actions[number].begin_step(step - first, step, optimizer)
        if before != self._in_force:
            self._visit(model)

    def _visit(self, model: nn.Module) -> None:
        """Enter the model's attention anew, for the interventions that change it now."""
        self._open.close()
        visitors = [action.visitor for action in self._acting() if action.visitor is not None]
        if visitors:
            self._open.enter_context(_note_labels(self.task, model))
        for visitor in visitors:
            self._open.enter_context(visit(model, visitor))

    def _tell(self, one: Intervention, step: int, state: TrainerState) -> None:
        if one.when is not None and state.is_world_process_zero:
            logger.warning(
                "Step %d: %s has fallen by %g from its peak: %s begins",
                step, one.when.metric, one.when.falls_by, type(one).__name__,
            )  # fmt: skip


def bind(interventions: Sequence[Intervention], task: Task, model: nn.Module) -> list[Action]:
    """Return what interventions do to a model.

    Raises:
        ConfigError: If one cannot be done to it, named by its number.
    """
    found = []
    for number, one in enumerate(interventions):
        with name_part(f"interventions.{number}"):
            check_trigger(one, task)
            found.append(one.bind(task, model))
    return found


def find_stop(interventions: Sequence[Intervention], log: Log) -> int | None:
    """Return the step after which a `Stop` among some interventions ends the training, by its log."""
    return find_first(watch_stops(interventions), log)


def watch_stops(interventions: Sequence[Intervention]) -> list[Watch]:
    """Return what finds the steps after which each `Stop` ends the training."""
    return [one.watch() for one in interventions if isinstance(one, Stop)]


def find_first(watches: Sequence[Watch], log: Log) -> int | None:
    """Return the first step that any of some watches finds, None as long as there is none."""
    found = [watch.find(log) for watch in watches]
    return min((step for step in found if step is not None), default=None)


@contextlib.contextmanager
def _note_labels(task: Task, model: nn.Module) -> Iterator[None]:
    """Let a task know the labels of the sequences that a model is given in training."""
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: task.note(kwargs), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
