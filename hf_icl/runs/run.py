"""A run is a folder: config with versions and commit, history, checkpoints, model, report.
It can be killed and resumed."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainerState

from hf_icl.banks.facts import describe_bank
from hf_icl.circuits.attention import check_heads
from hf_icl.circuits.instrument import find_instruments
from hf_icl.circuits.language import LanguageInstrument
from hf_icl.config import name_part, refuse_secrets
from hf_icl.distributed import count_devices, explain_loss, held_by_main, is_main, on_main
from hf_icl.errors import ConfigError, DivergedError, RunError
from hf_icl.files import explain, fill_whole, is_unused, remove_drafts
from hf_icl.history.history import HISTORY_FILE, History, read_last_row
from hf_icl.history.origin import describe_origin
from hf_icl.history.record import RunRecord, begins_pretrained
from hf_icl.local import hide_paths, hide_words, show_paths, write_paths
from hf_icl.locks import hold
from hf_icl.models.build import build_model, count_saved_bytes, load_model, load_tokenizer
from hf_icl.runs.config import RunConfig, read_config
from hf_icl.runs.folder import (
    CONFIG_FILE,
    RUN_FILE,
    RUN_SCHEMA,
    check_counts,
    make_record,
    read_about,
    write_about,
)
from hf_icl.runs.stackable import MIN_STEPS, is_compiled
from hf_icl.task.sample import describe_sample
from hf_icl.task.task import Task
from hf_icl.training.checkpoints import (
    STATE_FILE,
    check_sound,
    drop_old_checkpoints,
    explain_full_disk,
    find_checkpoint,
    find_checkpoints,
    find_damage,
    is_whole,
    mark_whole,
    read_state,
    step_of,
    tidy_checkpoints,
)
from hf_icl.training.compiled.compiling import find_obstacle
from hf_icl.training.compiled.trainer import CompiledTrainer, find_misfit
from hf_icl.training.display import LiveDisplay
from hf_icl.training.interventions.callback import bind, find_stop
from hf_icl.training.progress import read_progress
from hf_icl.training.trainer import TransienceTrainer

logger = logging.getLogger(__name__)

MODEL_FILES = (
    "config.json", "generation_config.json", "model*.safetensors", "model*.json", "adapter_*", "token*",
    "vocab*", "merges.txt", "special_tokens_map.json", "chat_template*",
)  # fmt: skip


class Run:
    """A run folder with its config. `create` makes a new one, `open` reads one;
    `train` continues where it stopped.

    Attributes:
        folder: Where everything lies.
        config: What decides its numbers.
        about: Versions, commit, chance levels, evaluation sizes and the bank, as written when the run was
            made.
    """

    def __init__(self, folder: Path, config: RunConfig, about: dict[str, Any]) -> None:
        self.folder, self.config, self.about = folder, config, about
        self._built: tuple[Task, PreTrainedModel] | None = None  # by `create`, for the first `train`

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was built: other processes build their own."""
        return vars(self) | {"_built": None}

    @classmethod
    def create(
        cls, config: RunConfig, folder: str | Path, *, command: str = "", progress: bool = False
    ) -> Self:
        """Check that everything can be built, then make the folder.

        Args:
            config: What decides the numbers.
            folder: A new or empty folder.
            command: What was typed, for the record.
            progress: Show a bar while a bank is fetched or decoded.

        Raises:
            ConfigError: If bank, sequences and model do not fit together, or cannot be trained as asked;
                nothing is written then.
            RunError: If the folder already holds something, or cannot be written.
        """
        folder = Path(folder)
        if not is_unused(folder):
            raise RunError(
                f"{folder}: is there already. Continue it with: hf-icl resume {folder} — or choose another "
                "--output."
            )
        refuse_secrets(config.to_dict())
        task = build_task(config, progress=progress)
        model = build_model(config.model, task, seed=config.seed)
        task.check_model(model)
        config.training.to_arguments(folder, config.seed)
        choose_trainer(config, model)
        with name_part("training"):
            bind(config.training.interventions, task, model)
        if config.evaluate.heads:
            with name_part("evaluate.heads"):
                check_heads(model)
        for instrument in find_instruments(config.evaluate.instruments):
            if isinstance(instrument, LanguageInstrument):
                instrument.check(task, model)
        shown, paths = hide_paths(config.to_dict())
        about = {
            "schema": RUN_SCHEMA,
            "config": shown,
            "provenance": describe_origin(config.seed, hide_words(command, paths.values())),
            "model_bytes": count_saved_bytes(model),
            "chance": task.chance,
            "n_sequences": {name: len(evaluator.batch) for name, evaluator in task.evaluators.items()},
            "bank": describe_bank(task.bank),
            "sample": describe_sample(task, config.evaluate.answers),
        }
        with fill_whole(folder, last=RUN_FILE, way_out="Choose another --output.") as draft:
            write_about(draft, about)
            write_paths(draft, paths)
        made = cls(folder, config, about)
        made._built = task, model
        return made

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises:
            RunError: If it is no run folder, cannot be read, comes from another version, or was edited.
        """
        about = read_about(folder)
        return cls(Path(folder), read_config(show_paths(about["config"], Path(folder))), about)

    @property
    def is_finished(self) -> bool:
        """Whether training is over and the final model is on disk, whole."""
        return is_whole(self.folder)

    @property
    def diverged_step(self) -> int | None:
        """The step at which the loss was no number any more and the run ended; None if it did not."""
        if self.config.training.on_divergence != "stop":
            return None
        last = read_last_row(self.folder / HISTORY_FILE)
        return last.get("diverged") if last is not None else None

    @property
    def history(self) -> History:
        """The history as it is on disk now."""
        return History(self.folder / HISTORY_FILE)

    def train(self, console: Console | None = None, callbacks: Sequence[TrainerCallback] = ()) -> None:
        """Train from the newest whole checkpoint, or from the start, to the last step,
        and save the final model.

        Where several processes train together, all must call.

        Args:
            console: Where to show progress; None is silent.
            callbacks: Further ones; they run after checkpoints are marked as whole.
        """
        with held_by_main(hold(self.folder)):
            self._train(console, callbacks)

    def _train(self, console: Console | None, callbacks: Sequence[TrainerCallback]) -> None:
        finished, checkpoint = on_main(self._find_start)
        if finished:
            return
        on_main(self.check_course)
        if checkpoint is None or not self.is_over(checkpoint):
            history = self.history if is_main() else History()
            display = LiveDisplay(console or Console(quiet=True), history)
            way_on = f"Continue the run, on any number of processes, with: hf-icl resume {self.folder}"
            with (
                use_threads(self.config.training.threads),
                explain_loss(way_on),
                display,
                explain_full_disk(self.folder),
            ):
                trainer = self.build_trainer(history, [display])
                for callback in callbacks:
                    trainer.add_callback(callback)
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        on_main(self.check_course)
        on_main(self.keep_final_model)

    def is_over(self, checkpoint: Path) -> bool:
        """Return whether training ends at a checkpoint: at the last step, or where an intervention stops
        it."""
        training = self.config.training
        log = read_state(checkpoint)["log_history"]
        return step_of(checkpoint) >= training.steps or find_stop(training.interventions, log) is not None

    def check_course(self) -> None:
        """Raise `DivergedError` if the run has ended before its last step, its loss being no number."""
        if (step := self.diverged_step) is None:
            return
        sound = [path.name for path in find_checkpoints(self.folder) if step_of(path) < step]
        kept = f"{sound[-1]} is sound" if sound else "There is no checkpoint from before"
        raise DivergedError(
            f"{self.folder}: diverged at step {step:,}: the loss is no number from there on, and it would be "
            f"again. {kept}. Try a lower rate, clipping or warm-up in a run of its own, such as: hf-icl run "
            f"{self.folder / CONFIG_FILE} training.learning_rate="
            f"{self.config.training.learning_rate / 3:.1g} --output NEW_FOLDER"
        )

    def _find_start(self) -> tuple[bool, Path | None]:
        """Return whether the run is finished, and its newest whole checkpoint;
        what a killed process left is removed."""
        if self.is_finished:
            if (damage := find_damage(self.folder)) is None:
                return True, None
            logger.warning("%s: %s. It is made again from the last checkpoint", self.folder, damage)
        remove_drafts(self.folder)
        sound = tidy_checkpoints(self.folder, self.config.training.steps)
        if not sound:
            return False, None
        known = read_progress(sound[-1])
        check_counts(sound[-1], self.about["config"]["training"], [known["step"]], [known["sequences"]])
        return False, sound[-1]

    def keep_final_model(self) -> None:
        """Copy the last checkpoint's model to the run folder, and mark the run as finished."""
        names = [CONFIG_FILE, RUN_FILE, HISTORY_FILE]
        drop_old_checkpoints(self.folder, self.config.training.keep_checkpoints)
        last = find_checkpoint(self.folder)
        history = self.history
        if len(history.rows) < read_progress(last)["n_rows"]:  # lost since
            trainer = self.build_trainer(history)
            trainer.transience.restore(trainer.args, TrainerState.load_from_json(str(last / STATE_FILE)))
        for path in list_model_files(last):
            with explain(
                self.folder / path.name, f"Move what is there away, then: hf-icl resume {self.folder}"
            ):
                shutil.copyfile(path, self.folder / path.name)
            names.append(path.name)
        mark_whole(self.folder, [self.folder / name for name in names])

    def build_trainer(
        self,
        history: History,
        callbacks: Sequence[TrainerCallback] = (),
        *,
        kind: type[TransienceTrainer] | None = None,
        task: Task | None = None,
    ) -> TransienceTrainer:
        """Build what trains this run from its first step.

        Args:
            history: Where it writes what it measures.
            callbacks: As for `Trainer`; they run after the measuring.
            kind: Of trainer; None: as the config says.
            task: The run's, if it is built already.
        """
        training = self.config.training
        task = task or self.build_task()
        built, self._built = self._built, None
        model = built[1] if built is not None else build_model(self.config.model, task, seed=self.config.seed)
        trainer = (kind or choose_trainer(self.config, model))(
            model,
            training.to_arguments(self.folder, self.config.seed),
            task,
            schedule=self.config.evaluate,
            instruments=self.config.evaluate.instruments,
            regularization=training.regularization,
            history=history,
            interventions=training.interventions,
            pretrained=begins_pretrained(self.about["config"]),
            on_divergence=training.on_divergence,
            answers=self.config.evaluate.answers if "sample" in self.about else 0,  # none in 0.1.0
            callbacks=list(callbacks),
            processing_class=load_tokenizer(self.config.model),
        )
        trainer.remove_callback(PrinterCallback)  # the display says the same, better
        return trainer

    def load_model(self, checkpoint: str | None = None) -> PreTrainedModel:
        """Return the final model, or that of a checkpoint such as `checkpoint-2000`.

        Raises:
            RunError: If there is no such checkpoint, it is not whole, or not as it was written.
        """
        if checkpoint is None:
            folder = self.folder if self.is_finished else find_checkpoint(self.folder)
        else:
            folder = self.folder / checkpoint
        if folder is None or not is_whole(folder):
            there = ", ".join(sorted(path.name for path in self.folder.glob("checkpoint-*"))) or "none"
            raise RunError(
                f"{self.folder}: no whole model at {checkpoint or 'the end'}. Checkpoints: {there}."
            )
        check_sound(folder)
        return load_model(folder)

    def build_task(self) -> Task:
        """Return the run's task: bank, training sequences, evaluators."""
        return self._built[0] if self._built is not None else build_task(self.config)

    def record(self) -> RunRecord:
        """Return what a report needs to know of this run.

        Raises:
            RunError: If nothing has been measured yet.
        """
        return make_record(self.folder, self.about)


def list_model_files(folder: Path) -> list[Path]:
    """Return the files that make a saved model."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})


def build_task(config: RunConfig, *, progress: bool = False) -> Task:
    """Build bank, sequences and evaluators of a run."""
    with name_part("task"):
        task = Task(config.task, seed=config.seed, progress=progress)
        task.evaluators  # noqa: B018  drawn now, so that a spec the bank cannot serve is told before training
    return task


def choose_trainer(config: RunConfig, model: PreTrainedModel) -> type[TransienceTrainer]:
    """Return what trains a run's model on the devices at hand: in compiled steps if it is to be, and can.

    Raises:
        ConfigError: If `training.compile` is true and cannot be honoured here.
    """
    if not is_compiled(config):
        changed = [one.kind for one in config.training.interventions if one.changes_attention]
        if changed and config.training.compile is None and config.training.steps >= MIN_STEPS:
            logger.warning("steps are not compiled, so they take about twice as long: %s changes attention, "
                           "which the stock loop alone can do", changed[0])  # fmt: skip
        return TransienceTrainer
    n_devices = count_devices(cpu=config.training.on_cpu)
    obstacle = find_misfit(model)
    if n_devices > 1:
        obstacle = f"{n_devices} devices share a step, and compiled steps are for one"
    if config.training.compile and (obstacle := obstacle or find_obstacle()):
        raise ConfigError(
            "training.compile",
            True,
            obstacle,
            "Mend that, or make the run without it: it then trains as it can.",
        )
    return TransienceTrainer if obstacle else CompiledTrainer


@contextlib.contextmanager
def use_threads(n_threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads for a while; None leaves their number alone."""
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
