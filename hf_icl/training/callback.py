"""`TransienceCallback`: measures in-context against in-weights learning throughout anyone's training."""

from __future__ import annotations

import logging
import math
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_icl.banks.facts import describe_bank
from hf_icl.circuits.instrument import find_instruments
from hf_icl.config import suggest
from hf_icl.distributed import check_joined, from_main, is_main
from hf_icl.errors import ConfigError, RunError
from hf_icl.history.history import HISTORY_FILE, History, Row, make_row
from hf_icl.history.origin import describe_origin
from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import analyse
from hf_icl.report.figures import Figure, draw_figure
from hf_icl.report.write import Report, write_report
from hf_icl.summary.summary import Summary, summarize_history
from hf_icl.task.evaluators import TRAIN_LOSS
from hf_icl.task.measuring import EVALUATION_BATCH, Reading
from hf_icl.task.sample import N_ANSWERS, describe_sample
from hf_icl.task.task import Instrument, Task
from hf_icl.training.counting import SequenceCounter
from hf_icl.training.divergence import agree
from hf_icl.training.notebook import NotebookTable
from hf_icl.training.progress import SEQUENCES, find_prefix, name_in_log, note
from hf_icl.training.restoring import count_before, restore_history, set_aside
from hf_icl.training.schedule import Schedule

logger = logging.getLogger(__name__)

OnDivergence = Literal["stop", "go_on"]
_ALL: weakref.WeakSet[TransienceCallback] = weakref.WeakSet()


class TransienceCallback(TrainerCallback):
    """Measure all evaluators of a task while any `Trainer` trains any model that takes the task's inputs.

    Rows go to `history.jsonl` in the output folder. To the trainer's log, and so to its reporters, go each
    evaluator's primary metric, such as `icl/accuracy`, and `train_eval/loss`, the loss on fresh training
    sequences; `state.log_history` holds all. `metric_for_best_model="icl/accuracy"` works wherever the
    trainer evaluates, early stopping included. It does not matter where the callback stands among others.
    A resumed run cuts its history back to the checkpoint's step and measures on from there, to the same
    numbers.

    Args:
        task: Bank, training sequences and evaluators.
        schedule: When to measure; a number means every so many steps. The first and last step always count.
        log: Usually `trainer.log`, so that values reach TensorBoard and other reporters. Transformers hands
            callbacks no trainer, and calls reporters before them; without `log`, values still reach
            `state.log_history`.
        history: A `History` to write instead of `history.jsonl` in the output folder.
        instruments: What else to measure, beside the task's evaluators: names, as in ["heads"], or see
            `hf_icl.task.Instrument`.
        batch_size: Sequences per forward pass.
        on_divergence: What to do once a loss is not a number: go_on, or stop without a further checkpoint.
            Either way a warning says so, and the history's rows say since which step.
        answers: How many sequences of each evaluator have their answers kept, evaluation by evaluation: the
            history's rows hold them, a report shows some and writes all as `answers.parquet`.
        pretrained: Whether the model comes trained, so that what it can do already may be lost, kept or
            grown: summary and report then count from the row of step 0.
        name: Tells several callbacks of one trainer apart: the file is then `history-NAME.jsonl`, and what is
            logged is called `NAME/icl/accuracy`.

    Raises:
        ConfigError: When training begins, if the model cannot be asked, processes do not know each other,
            two callbacks of one trainer have one name, or `metric_for_best_model` names a measure that an
            evaluator does not have.

    Example (a whole program is `examples/stock_trainer.py`)::

        trainer = Trainer(model, args, train_dataset=task.dataset(64_000), data_collator=task.collate)
        trainer.add_callback(TransienceCallback(task, schedule=100, log=trainer.log))
        trainer.train()
    """

    def __init__(
        self,
        task: Task,
        *,
        schedule: Schedule | int = 500,
        log: Callable[[dict[str, float]], None] | None = None,
        history: History | None = None,
        instruments: Sequence[Instrument | str] = (),
        batch_size: int = EVALUATION_BATCH,
        on_divergence: OnDivergence = "go_on",
        answers: int = N_ANSWERS,
        pretrained: bool = False,
        name: str = "",
    ) -> None:
        if not re.fullmatch("[A-Za-z0-9_-]*", name):
            raise ConfigError("name", name, "is part of a file's name", "Use letters, digits, - and _.")
        self.task = task
        self.schedule = Schedule(every=schedule) if isinstance(schedule, int) else schedule
        self.log = log
        self.history = history
        self.instruments, self.batch_size = find_instruments(instruments), batch_size
        self.on_divergence, self.answers = on_divergence, answers
        self.pretrained = pretrained
        self.diverged_step: int | None = None
        self.find_divergence: Callable[[], int | None] | None = None  # asks a trainer that watches its loss
        self.name = name
        self.counter = SequenceCounter()
        self._opened = False  # whether this callback opened the history itself
        self._state: TrainerState | None = None  # of the training that is going on
        self._table: NotebookTable | None = None
        _ALL.add(self)

    @property
    def sequences(self) -> int:
        """Training sequences seen, over all devices."""
        return self.counter.total

    @property
    def _prefix(self) -> str:
        return find_prefix(self.name)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        """Open the history, fresh or cut back to the checkpoint, and measure the untrained model."""
        check_joined(args.world_size)
        self._take_place(state)
        self.task.check_model(model)
        self.counter.forget()
        if state.is_world_process_zero:
            self._open(args, state)
        last = from_main(self.history.rows[-1:] if state.is_world_process_zero else None)
        if not state.is_world_process_zero:
            self.history = History()  # in memory alone, and no more than the last row: one process writes
            self.history.restore(last)
        self.counter = SequenceCounter(count_before(args, state, self.name))
        self.counter.watch(model)
        self._table = NotebookTable(args) if state.is_world_process_zero else None
        self.diverged_step = last[0].get("diverged") if last else None
        if self.history.last_step < state.global_step and self.schedule.is_due(state.global_step):
            self.measure(args, state, model)
        elif last and state.global_step == 0:  # killed since, before a checkpoint could keep it
            self._note(state)
            self._tell(state, last[0]["metrics"])
        self._check_best(args)

    def _take_place(self, state: TrainerState) -> None:
        """Refuse to work beside a callback of the same name."""
        self._state = None
        if any(other._state is state and other.name == self.name for other in _ALL):
            rule = "another TransienceCallback of this trainer has the same name, and so the same history"
            raise ConfigError("name", self.name, rule, 'Give each a name, as in name="letters".')
        self._state = state

    def _check_best(self, args: TrainingArguments) -> None:
        """Refuse a measure that would be missed at the first evaluation only."""
        wanted = (args.metric_for_best_model or "").removeprefix("eval_")
        if not self.history.rows or not wanted.startswith(self._prefix):
            return
        names = self.history.rows[-1]["metrics"]
        name = wanted.removeprefix(self._prefix)
        if name.rpartition("/")[0] in self.task.specs and name not in names:
            hint = suggest(name, names)
            raise ConfigError("metric_for_best_model", wanted, "no evaluator gives this measure", hint)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        """Count sequences; measure when the schedule says so, and after the last step."""
        if not self.counter.end_step():
            self._count_unseen(args, state)
        if control.should_save:
            self.counter.agree()
        self._note(state)
        is_due = self.schedule.is_due(state.global_step) or state.global_step >= state.max_steps
        found_now = self._look_for_divergence(args, state, is_due or control.should_save)
        if is_due or found_now:
            self._measure_between(args, state, control, model)
        if self.has_stopped:
            control.should_training_stop = True
            control.should_save = control.should_evaluate = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        """Measure once more where something has ended the training before its last step."""
        if control.should_training_stop:
            self._measure_between(args, state, control, model)

    def _measure_between(self, args, state: TrainerState, control: TrainerControl, model) -> None:
        wanted = control.should_log
        self.measure(args, state, model)
        control.should_log = wanted  # `trainer.log` withdraws it, and the step's own loss would go unlogged

    def _count_unseen(self, args: TrainingArguments, state: TrainerState) -> None:
        """Count a step of which nothing was seen to enter the model, as the trainer is set."""
        if not self.counter.total:
            logger.warning("The model is not called as a whole: sequences are counted by the batch size set")
        self.counter.add(state.train_batch_size * args.gradient_accumulation_steps)
        self.counter.end_step()

    @property
    def has_stopped(self) -> bool:
        """Whether training has ended, or is about to, because its loss is not a number."""
        return self.diverged_step is not None and self.on_divergence == "stop"

    def _look_for_divergence(self, args: TrainingArguments, state: TrainerState, is_pause: bool) -> bool:
        """Return whether the loss has been found to be no number just now.

        Looking costs a wait for the device, or for other processes, so that there it is done at pauses only.
        """
        is_cheap = args.device.type == "cpu" and args.world_size == 1
        if self.diverged_step is not None or self.find_divergence is None or not (is_pause or is_cheap):
            return False
        self._diverge(agree(self.find_divergence(), args.world_size), state)
        return self.diverged_step is not None

    def _diverge(self, step: int | None, state: TrainerState) -> None:
        if step is None:
            return
        self.diverged_step = step
        if state.is_world_process_zero:
            logger.warning("Step %d: the loss is no number any more, training has diverged", step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Close the history: what is evaluated from now on may be another model,
        such as the best checkpoint."""
        self._state = None
        self.counter.forget()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model=None,
        logs=None,
        **kwargs,
    ) -> None:
        """Add what was measured to what an evaluation has just logged.

        The trainer hands the same mapping to every callback's `on_evaluate`, so that those that stand before
        this one, such as early stopping, find the values there too.
        """
        if logs and any(key.startswith("eval_") and key.endswith("_runtime") for key in logs):
            self._add_measured(logs, args, state, model)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model=None,
        metrics=None,
        **kwargs,
    ) -> None:
        """Add what was measured to the trainer's own metrics, which choose the best checkpoint."""
        if metrics is not None:
            self._add_measured(metrics, args, state, model)

    def _add_measured(self, metrics: dict[str, float], args, state: TrainerState, model) -> None:
        """Add primary metrics, and the one that chooses the best checkpoint, unless they are there."""
        wanted = (args.metric_for_best_model or "").removeprefix("eval_")
        names = {f"eval_{self._prefix}{name}" for name in self._primary} | {f"eval_{wanted}"}
        own = {f"eval_{self._prefix}{evaluator.primary}" for evaluator in self.task.evaluators.values()}
        if own <= metrics.keys():
            return
        found = self.metrics_for_trainer(args, state, model)
        metrics |= {name: value for name, value in found.items() if name in names}

    @property
    def _primary(self) -> list[str]:
        """What a person looks at: a metric per evaluator, the loss on training sequences, own measures."""
        standard = [evaluator.primary for evaluator in self.task.evaluators.values()]
        return [*standard, TRAIN_LOSS, *self.task.measures]

    def metrics_for_trainer(self, args: TrainingArguments, state: TrainerState, model) -> dict[str, float]:
        """Return the model's values under the `eval_` names by which a `Trainer` looks them up.

        During training they become a row of the history, once per step; before and after it they are recorded
        nowhere.
        """
        if self._state is not None:
            means = self.measure(args, state, model)["metrics"]
        else:
            means = self._ask(args, model).means
        return {f"eval_{self._prefix}{name}": value for name, value in means.items()}

    def measure(self, args: TrainingArguments, state: TrainerState, model: torch.nn.Module) -> Row:
        """Measure now, whatever the schedule says; a step is measured once."""
        if self.history.last_step == state.global_step:
            return self.history.rows[-1]
        self.counter.agree()
        found = self._ask(args, model)
        means, hits = found.means, {name: values.numpy() for name, values in found.hits.items()}
        row = make_row(state.global_step, self.sequences, means, hits, self._keep_answers(found))
        if self.diverged_step is None and not all(map(math.isfinite, means.values())):
            self._diverge(state.global_step, state)
        if self.diverged_step is not None:
            row["diverged"] = self.diverged_step
        self.history.append(row)
        self._note(state)
        self._tell(state, means)
        if self._table is not None:
            self._table.show(self.history, self._primary)
        return row

    def _ask(self, args: TrainingArguments, model: torch.nn.Module) -> Reading:
        return self.task.measure(
            model, instruments=self.instruments, batch_size=self.batch_size, spread=args.world_size > 1
        )

    def _keep_answers(self, found: Reading) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        if not self.answers:
            return {}
        kept = slice(self.answers)
        return {
            name: (labels[kept].numpy(), probabilities[kept].numpy())
            for name, (labels, probabilities) in found.answers.items()
        }

    def _tell(self, state: TrainerState, means: Mapping[str, float]) -> None:
        """Log what a person looks at; the state's log gets all there is.

        Of what instruments found, that is `<instrument>/<measure>`, not what they say of parts such as heads.
        """
        named = {name: name_in_log(name, self._prefix) for name in means}
        by_evaluator = tuple(f"{name}/" for name in self.task.specs)
        shown = {
            named[name]: value
            for name, value in means.items()
            if name in self._primary or not (name.startswith(by_evaluator) or name.count("/") > 1)
        }
        if self.log is not None:
            self.log(dict(shown))
        if not state.log_history or not shown.keys() <= state.log_history[-1].keys():
            state.log_history.append({"step": state.global_step})
        state.log_history[-1] |= {named[name]: value for name, value in means.items()}
        state.log_history[-1][SEQUENCES] = self.sequences

    def _note(self, state: TrainerState) -> None:
        note(state, self.name, n_rows=len(self.history.rows), sequences=self.sequences)

    def summary(self) -> Summary:
        """Return the measures of what has been measured so far: verdict, onset, peak, fall.

        Raises:
            RunError: If nothing has been measured yet.
        """
        record = self.record()
        return summarize_history(record.rows, record.chance, pretrained=record.begins_pretrained)

    def plot(self) -> Figure:
        """Return the report's figure of what has been measured so far; notebooks show it.

        Raises:
            RunError: If nothing has been measured yet.
        """
        return draw_figure(analyse([self.record()]))

    def report(self, folder: str | Path, name: str = "") -> Report | None:
        """Write the report of what has been measured so far: page, figure, numbers.

        Args:
            folder: Where to; made if need be.
            name: What the training is called there; default: the folder that its history lies in.

        Returns:
            What was written, its page as a path; None in a process that writes nothing.

        Raises:
            RunError: If nothing has been measured yet, or the folder cannot be written.
        """
        return write_report([self.record(name)], folder) if is_main() else None

    def record(self, name: str = "", model: Mapping[str, Any] | None = None) -> RunRecord:
        """Return what a report or a card needs to know of a training that is no `Run`, as it stands now.

        Args:
            name: What it shall be called; default: the callback's name, or the folder that its history is in.
            model: What a card says of the model: `pretrained`, the name of the checkpoint that it comes from,
                and `lora`, if it is an adapter of it.

        Raises:
            RunError: If nothing has been measured yet.
        """
        rows = self.history.rows if self.history is not None else []
        path = getattr(self.history, "path", None)
        name = name or self.name or (path.resolve().parent.name if path is not None else "") or "training"
        if not rows:
            raise RunError(f"{name}: nothing has been measured yet. Train first.")
        return RunRecord(
            name=name,
            config={"task": self.task.describe(), "model": dict(model or {})},
            provenance=describe_origin(self.task.seed),
            rows=rows,
            chance=self.task.chance,
            n_sequences={key: len(evaluator.batch) for key, evaluator in self.task.evaluators.items()},
            bank=describe_bank(self.task.bank),
            sample=describe_sample(self.task, self.answers),
            begins_pretrained=self.pretrained,
        )

    def _open(self, args: TrainingArguments, state: TrainerState) -> None:
        path = Path(args.output_dir) / (f"history-{self.name}.jsonl" if self.name else HISTORY_FILE)
        if self.history is None or (self._opened and state.global_step == 0):
            if state.global_step == 0:
                set_aside(path)
            self.history = History(path)
            self._opened = True
        self.restore(args, state)

    def restore(self, args: TrainingArguments, state: TrainerState) -> None:
        """Make the history hold exactly the rows that a checkpoint knows of.

        Raises:
            RunError: If rows are lost that the checkpoint's log does not hold either.
        """
        restore_history(self.history, args, state, self.task.specs, self.name)
