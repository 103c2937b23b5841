"""A run is a folder: config with versions and commit, history, checkpoints, model, report. It can be killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from rich.console import Console
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from hf_icl.bank_facts import describe_bank
from hf_icl.build import build_model, build_task, count_saved_bytes, load_model, load_tokenizer
from hf_icl.checkpoints import explain_full_disk, find_checkpoint, is_whole, mark_whole, step_of
from hf_icl.display import LiveDisplay
from hf_icl.errors import RunError
from hf_icl.history import HISTORY_FILE, History, write_atomically
from hf_icl.origin import describe_origin
from hf_icl.processes import count_devices, explain_loss, is_main, on_main
from hf_icl.report import RunRecord
from hf_icl.run_config import RunConfig
from hf_icl.run_folder import CONFIG_FILE, RUN_FILE, RUN_SCHEMA, make_record, read_about
from hf_icl.stacking import CompiledTrainer, is_compiled
from hf_icl.task import Task
from hf_icl.trainer import TransienceTrainer

MODEL_FILES = (
    "config.json", "generation_config.json", "model*.safetensors", "model*.json", "adapter_*", "token*", "vocab*",
    "merges.txt", "special_tokens_map.json", "chat_template*",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run folder with its config. `create` makes a new one, `open` reads one; `train` continues where it stopped.

    Attributes:
        folder: Where everything lies.
        config: What decides its numbers.
        about: Versions, commit, chance levels, evaluation sizes and the bank, as written when the run was made.
    """

    folder: Path
    config: RunConfig
    about: dict[str, Any]

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
            ConfigError: If bank, sequences and model do not fit together, or cannot be trained as asked; nothing is
                written then.
            RunError: If the folder already holds something.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(
                f"{folder}: is there already. Continue it with: hf-icl resume {folder} — or choose another --output."
            )
        task = build_task(config, progress=progress)
        model = build_model(config, task)
        task.check_model(model)
        config.training.to_arguments(folder, config.seed)
        is_compiled(config)
        about = {
            "schema": RUN_SCHEMA,
            "config": config.to_dict(),
            "provenance": describe_origin(config.seed, command),
            "model_bytes": count_saved_bytes(model),
            "chance": task.chance,
            "n_sequences": {name: len(evaluator.batch) for name, evaluator in task.evaluators.items()},
            "bank": describe_bank(task.bank),
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as making:
            draft = Path(making) / folder.name
            write_atomically(draft / CONFIG_FILE, yaml.safe_dump(about["config"], sort_keys=False).encode())
            write_atomically(draft / RUN_FILE, json.dumps(about, indent=1).encode())
            os.replace(draft, folder)
        return cls(folder, config, about)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises:
            RunError: If it is no run folder, cannot be read, comes from another version, or was edited.
        """
        about = read_about(folder)
        return cls(Path(folder), RunConfig(**about["config"]), about)

    @property
    def is_finished(self) -> bool:
        """Whether training is over and the final model is on disk, whole."""
        return is_whole(self.folder)

    @property
    def history(self) -> History:
        """The history as it is on disk now."""
        return History(self.folder / HISTORY_FILE)

    def train(self, console: Console | None = None, callbacks: Sequence[TrainerCallback] = ()) -> None:
        """Train from the newest whole checkpoint, or from the start, to the last step, and save the final model.

        Where several processes train together, all must call.

        Args:
            console: Where to show progress; None is silent.
            callbacks: Further ones; they run after checkpoints are marked as whole.
        """
        finished, checkpoint = on_main(self._find_start)
        if finished:
            return
        if self.config.training.threads:
            torch.set_num_threads(self.config.training.threads)
        if checkpoint is None or step_of(checkpoint) < self.config.training.steps:
            display = LiveDisplay(console or Console(quiet=True), self.history if is_main() else History())
            way_on = f"Continue the run, on any number of processes, with: hf-icl resume {self.folder}"
            with explain_loss(way_on), display, explain_full_disk(self.folder):
                compiled = is_compiled(self.config) and count_devices() == 1
                kind = CompiledTrainer if compiled else TransienceTrainer
                trainer = self.build_trainer(display, kind, self.build_task())
                for callback in callbacks:
                    trainer.add_callback(callback)
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        on_main(self.keep_final_model)

    def _find_start(self) -> tuple[bool, Path | None]:
        """Return whether the run is finished, and its newest whole checkpoint; what a killed process left is removed."""
        if self.is_finished:
            return True, None
        for litter in self.folder.glob(".*.tmp"):  # of a writer killed in mid-file
            litter.unlink()
        return False, find_checkpoint(self.folder, remove_broken=True)

    def keep_final_model(self) -> None:
        """Copy the last checkpoint's model to the run folder, and mark the run as finished."""
        last = find_checkpoint(self.folder)
        for pattern in MODEL_FILES:
            for path in last.glob(pattern):
                shutil.copyfile(path, self.folder / path.name)
        mark_whole(self.folder)

    def build_trainer(
        self, display: LiveDisplay, kind: type[TransienceTrainer], task: Task
    ) -> TransienceTrainer:
        """Build what trains this run from its first step, with a display that holds its history."""
        training = self.config.training
        trainer = kind(
            build_model(self.config, task),
            training.to_arguments(self.folder, self.config.seed),
            task,
            schedule=self.config.evaluate,
            regularization=training.regularization,
            callbacks=[display],
            processing_class=load_tokenizer(self.config),
        )
        trainer.transience.history = display.history
        trainer.remove_callback(PrinterCallback)  # the display says the same, better
        return trainer

    def load_model(self, checkpoint: str | None = None) -> PreTrainedModel:
        """Return the final model, or that of a checkpoint such as `checkpoint-2000`.

        Raises:
            RunError: If there is no such checkpoint, or it is not whole.
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
        return load_model(folder)

    def build_task(self) -> Task:
        """Return the run's task: bank, training sequences, evaluators."""
        return build_task(self.config)

    def record(self) -> RunRecord:
        """Return what a report needs to know of this run.

        Raises:
            RunError: If nothing has been measured yet.
        """
        return make_record(self.folder, self.about)
