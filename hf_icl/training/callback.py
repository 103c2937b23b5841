"""`TransienceCallback`: measures in-context against in-weights learning throughout anyone's training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_icl.banks.facts import describe_bank
from hf_icl.circuits.instrument import find_instruments
from hf_icl.distributed import check_joined, from_main
from hf_icl.errors import RunError
from hf_icl.history.history import HISTORY_FILE, History, Row, make_row
from hf_icl.history.origin import describe_origin
from hf_icl.history.record import RunRecord
from hf_icl.task.measuring import EVALUATION_BATCH, Reading
from hf_icl.task.task import Instrument, Task
from hf_icl.training.checkpoints import read_state
from hf_icl.training.divergence import agree
from hf_icl.training.schedule import Schedule
from hf_icl.wording import shorten

logger = logging.getLogger(__name__)

OnDivergence = Literal["stop", "go_on"]
STATE_KEY = "hf_icl"  # no class name: transformers would make such a callback anew, from JSON alone
OLD_STATE_KEY = "TransienceCallback"  # of version 0.1.0


class TransienceCallback(TrainerCallback):
    """Measure all evaluators of a task while any `Trainer` trains any model that takes the task's inputs.

    Rows go to `history.jsonl` in the output folder, and to the trainer's log under names such as
    `icl/accuracy`. `metric_for_best_model="icl/accuracy"` works wherever the trainer evaluates, so the peak
    of ICL can be kept. A resumed run cuts its history back to the checkpoint's step and measures on from
    there, to the same numbers.

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
    ) -> None:
        self.task = task
        self.schedule = Schedule(every=schedule) if isinstance(schedule, int) else schedule
        self.log = log
        self.history = history
        self._opened = False  # whether this callback opened the history itself
        self._training = False
        self.instruments, self.batch_size = find_instruments(instruments), batch_size
        self.sequences = 0  # training sequences seen, over all devices
        self.on_divergence = on_divergence
        self.diverged_step: int | None = None
        self.find_divergence: Callable[[], int | None] | None = None  # asks a trainer that watches its loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        """Open the history, fresh or cut back to the checkpoint, and measure the untrained model."""
        check_joined(args.world_size)
        self._training = True
        if state.is_world_process_zero:
            self._open(args, state)
        last = from_main(self.history.rows[-1:] if state.is_world_process_zero else None)
        if not state.is_world_process_zero:
            self.history = History()  # in memory alone, and no more than the last row: one process writes
            self.history.restore(last)
        self.sequences = _count_sequences(args, state)
        self.diverged_step = last[0].get("diverged") if last else None
        if self.history.last_step < state.global_step and self.schedule.is_due(state.global_step):
            self.measure(args, state, model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        """Count sequences; measure when the schedule says so, and after the last step."""
        self.sequences += _batch_size(args)
        self._note(state)
        is_due = self.schedule.is_due(state.global_step) or state.global_step >= state.max_steps
        found_now = self._look_for_divergence(args, state, is_due or control.should_save)
        if is_due or found_now:
            wanted = control.should_log
            self.measure(args, state, model)
            control.should_log = (
                wanted  # `trainer.log` withdraws it, and the step's own loss would go unlogged
            )
        if self.has_stopped:
            control.should_training_stop = True
            control.should_save = control.should_evaluate = False

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
        self._training = False

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
            metrics |= self.metrics_for_trainer(args, state, model)

    def metrics_for_trainer(self, args: TrainingArguments, state: TrainerState, model) -> dict[str, float]:
        """Return the model's values under the `eval_` names by which a `Trainer` looks them up.

        During training they become a row of the history, once per step; before and after it they are recorded
        nowhere.
        """
        if self._training:
            means = self.measure(args, state, model)["metrics"]
        else:
            means, _ = self._ask(args, model)
        return {f"eval_{name}": value for name, value in means.items()}

    def measure(self, args: TrainingArguments, state: TrainerState, model: torch.nn.Module) -> Row:
        """Measure now, whatever the schedule says; a step is measured once."""
        if self.history.last_step == state.global_step:
            return self.history.rows[-1]
        means, hits = self._ask(args, model)
        numbers = {name: hit.numpy() for name, hit in hits.items()}
        row = make_row(state.global_step, self.sequences, means, numbers)
        if self.diverged_step is None and not all(map(math.isfinite, means.values())):
            self._diverge(state.global_step, state)
        if self.diverged_step is not None:
            row["diverged"] = self.diverged_step
        self.history.append(row)
        self._note(state)
        if self.log is not None:
            self.log(dict(means))
        else:
            state.log_history.append({**means, "step": state.global_step})
        return row

    def _ask(self, args: TrainingArguments, model: torch.nn.Module) -> Reading:
        return self.task.measure(
            model, instruments=self.instruments, batch_size=self.batch_size, spread=args.world_size > 1
        )

    def _note(self, state: TrainerState) -> None:
        """Leave in the trainer's state, and so in its checkpoints, what a resumed training needs to know."""
        known = {"n_rows": len(self.history.rows), "sequences": self.sequences, "step": state.global_step}
        state.stateful_callbacks.pop(OLD_STATE_KEY, None)
        state.stateful_callbacks[STATE_KEY] = {"args": {}, "attributes": known}

    def record(self, name: str, model: Mapping[str, Any] | None = None) -> RunRecord:
        """Return what a report or a card needs to know of a training that is no `Run`, as it stands now.

        Args:
            name: What it shall be called.
            model: What a card says of the model: `pretrained`, the name of the checkpoint that it comes from,
                and `lora`, if it is an adapter of it.

        Raises:
            RunError: If nothing has been measured yet.
        """
        rows = self.history.rows if self.history is not None else []
        if not rows:
            raise RunError(f"{name}: nothing has been measured yet. Train first.")
        return RunRecord(
            name=name,
            config={"task": self.task.config.to_dict(), "model": dict(model or {})},
            provenance=describe_origin(self.task.seed),
            rows=rows,
            chance=self.task.chance,
            n_sequences={key: len(evaluator.batch) for key, evaluator in self.task.evaluators.items()},
            bank=describe_bank(self.task.bank),
        )

    def _open(self, args: TrainingArguments, state: TrainerState) -> None:
        path = Path(args.output_dir) / HISTORY_FILE
        if self.history is None or (self._opened and state.global_step == 0):
            if state.global_step == 0:
                _set_aside(path)
            self.history = History(path)
            self._opened = True
        self.restore(args, state)

    def restore(self, args: TrainingArguments, state: TrainerState) -> None:
        """Make the history hold exactly the rows that a checkpoint knows of.

        Raises:
            RunError: If rows are lost that the checkpoint's log does not hold either.
        """
        self.history.cut_after(state.global_step)
        expected = _known(state).get("n_rows", 0)
        if len(self.history.rows) >= expected:
            return
        logger.warning(
            "%s holds %d rows where the checkpoint knows %d: it is rebuilt from the trainer's log, "
            "without per-sequence hits, so the rebuilt rows carry no intervals over evaluation sequences",
            self.history.path,
            len(self.history.rows),
            expected,
        )
        kept = {row["step"]: row for row in self.history.rows}
        rows = [kept.get(row["step"], row) for row in _rows_from_log(args, state, self.task)]
        if len(rows) < expected:
            raise RunError(
                f"{self.history.path}: rows are lost, and the checkpoint's log knows {len(rows)} of its "
                f"{expected}. Put the history back, or resume from another checkpoint."
            )
        self.history.restore(rows)


def read_progress(checkpoint: Path) -> dict[str, int]:
    """Return what a checkpoint knows of the measuring: `step`, `sequences` seen and `n_rows` written.

    Raises:
        RunError: If it knows nothing of it, or what it knows is of another step.
    """
    try:
        state = read_state(checkpoint)
        known = _find_known(state["stateful_callbacks"])
        counts = {name: known[name] for name in ("step", "sequences", "n_rows")}
        if any(type(count) is not int or count < 0 for count in counts.values()):
            raise ValueError(f"counts are {shorten(counts)}")
        if counts["step"] != state["global_step"]:
            raise ValueError(f"step {state['global_step']} was measured at {counts['step']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{checkpoint}: its trainer state is not that of a run ({error}).") from error
    return counts


def _find_known(callbacks: Mapping[str, Any]) -> dict[str, int]:
    found = callbacks.get(STATE_KEY) or callbacks.get(OLD_STATE_KEY) or {}
    return found.get("attributes", {})


def _known(state: TrainerState) -> dict[str, int]:
    """Return what the checkpoint from which a training resumes knows of this callback."""
    return _find_known(state.stateful_callbacks)


def _batch_size(args: TrainingArguments) -> int:
    """Return sequences per optimizer step, over all devices."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def _count_sequences(args: TrainingArguments, state: TrainerState) -> int:
    """Return the training sequences seen so far, whatever number of devices saw those before the
    checkpoint."""
    known = _known(state)
    return known.get("sequences", 0) + (state.global_step - known.get("step", 0)) * _batch_size(args)


def _rows_from_log(args: TrainingArguments, state: TrainerState, task: Task) -> list[Row]:
    names = {f"{name}/accuracy" for name in task.specs}
    logged = {entry["step"]: entry for entry in state.log_history if names & set(entry)}
    per_step = _count_sequences(args, state) / max(state.global_step, 1)
    return [
        make_row(step, round(step * per_step), {k: v for k, v in entry.items() if "/" in k}, {})
        for step, entry in sorted(logged.items())
    ]


def _set_aside(path: Path) -> None:
    """Keep an earlier run's history under a number of its own: a new run must not lose it."""
    if path.exists():
        number = next(n for n in range(1, 10**6) if not path.with_suffix(f".{n}.jsonl").exists())
        path.rename(path.with_suffix(f".{number}.jsonl"))
        logger.warning("%s was there already and is now %s", path, path.with_suffix(f".{number}.jsonl").name)
