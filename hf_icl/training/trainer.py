"""`TransienceTrainer`: a thin `transformers.Trainer` that draws its own batches and regularises named
groups."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_icl.distributed import check_joined
from hf_icl.errors import ConfigError
from hf_icl.files import write_whole
from hf_icl.history.history import History
from hf_icl.local import hide_path
from hf_icl.report.card import render_card
from hf_icl.report.write import write_report
from hf_icl.task.datasets import SequenceStream
from hf_icl.task.forms import IGNORED
from hf_icl.task.sample import N_ANSWERS
from hf_icl.task.task import Instrument, Task
from hf_icl.task.wrapped import list_parameters, see_through
from hf_icl.training.callback import OnDivergence, TransienceCallback
from hf_icl.training.checkpoints import ManifestCallback, PlaceCallback, read_any_numpy
from hf_icl.training.divergence import LossWatch
from hf_icl.training.interventions.base import Intervention
from hf_icl.training.interventions.callback import InterventionCallback
from hf_icl.training.progress import bound_log
from hf_icl.training.regularization import Regularization
from hf_icl.training.schedule import Schedule


class TransienceTrainer(Trainer):
    """A stock `Trainer` but for five things, each an override of a documented method.

    - Batches are drawn, not loaded: the i-th sequence of training is the same for any batch size, number of
      processes and resume.
    - `regularization` puts decay or true L2 on all weights or on named groups.
    - `evaluate()` measures the task's evaluators, so `metric_for_best_model="icl/accuracy"` needs no dataset.
    - A loss that is not a number ends the training, before the next checkpoint.
    - The card that `push_to_hub` writes is that of hf_icl, with the report beside it.

    Args:
        model: An `ICLModel`, or for a task in tokens form any causal language model.
        args: As for `Trainer`; `max_steps` must be set, because sequences never run out.
        task: What to train on and what to measure.
        schedule: When to measure.
        regularization: None by default.
        history: A `History` to write instead of `history.jsonl` in the output folder.
        instruments: What else to measure; see `TransienceCallback`.
        interventions: What is done to the model while it learns; see `hf_icl.training.interventions`.
        pretrained: Whether the model comes trained; see `TransienceCallback`.
        on_divergence: stop once a loss is not a number, without a further checkpoint; or go_on.
        answers: How many answers to each evaluator are kept; see `TransienceCallback`.
        callbacks: As for `Trainer`; they run after the measuring.
        processing_class: The tokenizer of a pretrained model, saved with it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        task: Task,
        *,
        schedule: Schedule | int = 500,
        regularization: Regularization | None = None,
        history: History | None = None,
        instruments: Sequence[Instrument | str] = (),
        interventions: Sequence[Intervention] = (),
        pretrained: bool = False,
        on_divergence: OnDivergence = "stop",
        answers: int = N_ANSWERS,
        callbacks: list[TrainerCallback] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if args.max_steps < 1:
            raise ConfigError(
                "max_steps", args.max_steps, "sequences never run out, so steps must be counted", ""
            )
        check_joined(args.world_size)
        task.check_model(model)
        args.ignore_data_skip = True  # the stream itself starts where the checkpoint stopped
        self.task = task
        self.regularization = regularization or Regularization()
        self.regularized = set(self.regularization.select(model))
        self._start = self._remember_start(model)
        # `evaluate` below needs no dataset, but `Trainer` refuses an evaluation strategy without one.
        super().__init__(model, args, eval_dataset=task.dataset(1), processing_class=processing_class)
        self.transience = TransienceCallback(
            task,
            schedule=schedule,
            log=self.log,
            history=history,
            instruments=instruments,
            pretrained=pretrained,
            on_divergence=on_divergence,
            answers=answers,
        )
        self.watch = LossWatch(device=self.args.device)
        self.transience.find_divergence = lambda: self.watch.find()
        self.interventions = InterventionCallback(task, interventions)
        own = [PlaceCallback(), self.transience, *([self.interventions] if interventions else [])]
        for callback in [*own, *(callbacks or []), ManifestCallback()]:
            self.add_callback(callback)

    @property
    def has_stopped(self) -> bool:
        """Whether training has ended, or is about to, by itself: its loss is no number, or a `Stop` says
        so."""
        return self.transience.has_stopped or self.interventions.stopped_step is not None

    def get_train_dataloader(self) -> DataLoader:
        """Return this process's endless ready batches, beginning after the last sequence that the checkpoint
        has seen."""
        stream = SequenceStream(
            self.task,
            self._train_batch_size,  # which `auto_find_batch_size` halves until a batch fits
            self.args.device,
            first=lambda: self.transience.sequences,
            rank=self.args.process_index,
            n_processes=self.args.world_size,
        )
        return DataLoader(stream, batch_size=None)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Measure the task's evaluators on the current model, instead of the loss on a dataset."""
        metrics = self.transience.metrics_for_trainer(self.args, self.state, self.model)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def train(self, *args, **kwargs) -> TrainOutput:
        """As `Trainer.train`; how an earlier training ended is forgotten."""
        self.watch = LossWatch(device=self.args.device)
        with read_any_numpy():
            return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; the state, which goes into every checkpoint, keeps the newest entries alone, and
        those that interventions go by. All that was measured is in the history.

        Args:
            logs: What to log, under which names.
            start_time: As for `Trainer.log`.
        """
        bound_log(self.state.log_history, self.interventions.find_needed(self.state.log_history))
        super().log(logs, start_time)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """Remember the first step whose loss is not a number."""
        loss = super().training_step(*args, **kwargs)
        self.watch.note(loss, self.state.global_step + 1)
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Add `strength` times the sum of squares of the chosen weights, or of their way from the start, to
        the mean loss, once per step. Logits are computed at the answer's places alone."""
        if not self.interventions.interventions:  # which read the labels of what goes into the model
            inputs = keep_answers(model, inputs)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.regularization.kind == "l2" and self.regularization.strength:
            named = dict(self.model.named_parameters())  # on several devices `model` is wrapped, names too
            squares = _sum_squares(self._pull(name, named[name]) for name in sorted(self.regularized))
            added = self.regularization.strength * squares
            if num_items_in_batch is not None:  # else the trainer divides the whole by the number of parts
                added = added / self.current_gradient_accumulation_steps
            loss = loss + added
        return (loss, outputs) if return_outputs else loss

    def _remember_start(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Return the weights that L2 pulls towards, as the model was handed over: also where training goes on
        from a checkpoint, which is loaded later."""
        if self.regularization.towards != "start" or not self.regularization.strength:
            return {}
        return {
            name: weight.detach().clone()
            for name, weight in model.named_parameters()
            if name in self.regularized
        }

    def _pull(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return what L2 keeps small: a weight, or its way from where it started."""
        if name not in self._start:
            return weight
        if isinstance(weight, DTensor):
            rule = "FSDP deals weights out, and their start is whole on every device"
            raise ConfigError("regularization.towards", "start", rule, "Train without FSDP, or towards zero.")
        self._start[name] = self._start[name].to(weight.device)
        return weight - self._start[name]

    def get_decay_parameter_names(self, model) -> list[str]:
        """Return the parameters that AdamW's decay applies to: those of the chosen groups,
        biases included."""
        return sorted(self.regularized) if self.regularization.kind == "decay" else []

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the report and the card of hf_icl into the output folder,
        instead of a draft that knows no transience.

        `push_to_hub` calls this each time, and overwrites README.md with it.

        Args:
            language: Metadata of the card.
            license: Metadata of the card, instead of the one that it has.
            tags: Added to those that it has.
            model_name: Title; default: the output folder.
            finetuned_from: Metadata of the card; default: the checkpoint from which the model was loaded.
            tasks: Of no use here: the card says itself what was measured.
            dataset_tags: Data sets on the Hub that the card links.
            dataset: As `tasks`.
            dataset_args: As `tasks`.
        """
        if not self.is_world_process_zero():
            return
        history = self.transience.history
        if history is None or not history.rows:
            super().create_model_card(language, license, tags, model_name, finetuned_from)
            return
        folder = Path(self.args.output_dir)
        about = _describe_model(self.model) | ({"pretrained": finetuned_from} if finetuned_from else {})
        record = self.transience.record(model_name or folder.resolve().name, about)
        report = write_report([record], folder / "report")
        card = ModelCard(render_card(report.analysis))
        card.data.tags = list(dict.fromkeys([*card.data.tags, *_list(tags)]))
        given = {"language": language, "license": license, "datasets": _list(dataset_tags) or None}
        for field, value in given.items():
            if value is not None:
                card.data[field] = value
        write_whole(folder / "README.md", str(card).encode())


def count_answer_places(labels: torch.Tensor) -> int:
    """Return how many of the last places it takes to be asked for every label that counts: (n, places).

    >>> count_answer_places(torch.tensor([[-100, -100, -100, 5]]))
    2
    """
    known = (labels != IGNORED).any(0).nonzero()
    first = int(known[0]) if len(known) else labels.shape[1]
    return labels.shape[1] - max(first - 1, 0)


def keep_answers(
    model: torch.nn.Module, inputs: dict[str, Any], n_places: int | None = None
) -> dict[str, Any]:
    """Return inputs by which a causal language model computes logits from the place before the first label
    on, and no others: the loss is the same, and the head's work and memory are those of few places.

    Models that do not know how, and inputs without labels, are left as they are.

    Args:
        model: What the inputs go into.
        inputs: Arguments of its forward.
        n_places: How many of the last places; None: as `count_answer_places` finds in the labels.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    >>> inputs = {"input_ids": torch.arange(6)[None], "labels": torch.tensor([[-100] * 5 + [5]])}
    >>> keep_answers(model, inputs)["logits_to_keep"]
    2
    """
    labels = inputs.get("labels")
    if labels is None or "input_ids" not in inputs or labels.ndim != 2:
        return inputs
    if "logits_to_keep" not in list_parameters(see_through(model)):
        return inputs
    n_places = count_answer_places(labels) if n_places is None else n_places
    return {**inputs, "labels": labels[:, -n_places:], "logits_to_keep": n_places}


def _list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _describe_model(model: torch.nn.Module) -> dict[str, Any]:
    """Return what a card says of where a model comes from."""
    base = getattr(getattr(model, "config", None), "_name_or_path", None)
    return {"pretrained": hide_path(base) if base else None, "lora": hasattr(model, "peft_config") or None}


def _sum_squares(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the sum of squares, the same on all devices even where FSDP has dealt some weights out to
    them."""
    squares = [weight.square().sum() for weight in weights]
    parts = [square for square in squares if isinstance(square, DTensor)]
    total = sum(square for square in squares if not isinstance(square, DTensor))
    return total + functools.reduce(torch.add, parts).full_tensor() if parts else total
