"""How a run's weights are fitted, and the `TrainingArguments` that follow from it."""

from __future__ import annotations

import copy
import functools
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

import pydantic
import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from hf_icl.config import MOST, MOST_STEPS, Config, PlainMapping, unknown_key
from hf_icl.distributed import check_whole_checkpoints, count_devices
from hf_icl.errors import ConfigError
from hf_icl.training.callback import OnDivergence
from hf_icl.training.interventions.kinds import AnyIntervention
from hf_icl.training.regularization import Regularization

OURS = {
    "output_dir", "max_steps", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "max_grad_norm", "adam_beta1", "adam_beta2", "weight_decay", "save_strategy",
    "save_steps", "save_total_limit", "eval_strategy", "eval_steps", "metric_for_best_model", "seed",
    "logging_steps",
}  # fmt: skip


class TrainingConfig(Config):
    """How weights are fitted. Whatever is not named here can be set in `arguments`,
    as in `TrainingArguments`."""

    steps: int = pydantic.Field(default=32_000, ge=1, le=MOST_STEPS, description="Optimizer steps.")
    batch_size: int = pydantic.Field(
        default=64, ge=1, le=1 << 24, description="Sequences per optimizer step, over all devices."
    )
    learning_rate: float = pydantic.Field(
        default=1e-3, gt=0, le=MOST, description="Peak learning rate of AdamW."
    )
    schedule: Literal["constant", "constant_with_warmup", "inverse_sqrt"] = pydantic.Field(
        default="constant", description="inverse_sqrt: warm-up, then falling as 1/sqrt(step)."
    )
    warmup_steps: int = pydantic.Field(default=0, ge=0, le=MOST_STEPS, description="Steps of linear warm-up.")
    clip: float = pydantic.Field(
        default=0.0, ge=0, le=MOST, description="Largest gradient norm; 0 leaves gradients alone."
    )
    adam_beta1: float = pydantic.Field(default=0.9, ge=0, lt=1, description="Decay of Adam's first moment.")
    adam_beta2: float = pydantic.Field(
        default=0.999, ge=0, lt=1, description="Decay of Adam's second moment."
    )
    regularization: Regularization = pydantic.Field(
        default_factory=Regularization, description="Decay or L2, on all weights or on named groups."
    )
    interventions: tuple[AnyIntervention, ...] = pydantic.Field(
        default=(),
        description="What is done to the model while it learns, as in {kind: freeze, layers: [0]}.",
    )
    checkpoint_every: int = pydantic.Field(
        default=2000, ge=1, le=MOST_STEPS, description="Steps between checkpoints."
    )
    keep_checkpoints: int | None = pydantic.Field(
        default=2,
        ge=2,
        le=MOST_STEPS,
        description="How many to keep, 2 or more so that a kill in mid-save loses none; null: all.",
    )
    keep_best: str | None = pydantic.Field(
        default=None, description="Keep the checkpoint that is best in this metric too, such as icl/accuracy."
    )
    threads: int | None = pydantic.Field(
        default=None, ge=1, le=4096, description="CPU threads; null: torch's choice."
    )
    compile: bool | None = pydantic.Field(
        default=None,
        description="Compile whole steps of the native network, on one device; null: from 5,000 steps on, "
        "where it can be done.",
    )
    on_divergence: OnDivergence = pydantic.Field(
        default="stop",
        description="When the loss is no number any more: stop, keeping sound checkpoints; or go_on.",
    )
    arguments: PlainMapping = pydantic.Field(default_factory=dict, description="Further TrainingArguments.")

    @pydantic.field_validator("keep_best")
    @classmethod
    def _check_metric(cls, name: str | None) -> str | None:
        if name is not None and not name.endswith(
            ("/accuracy", "/probability", "/context_accuracy", "/loss")
        ):
            raise ConfigError("", name, "not the name of a metric", "For example icl/accuracy or train/loss.")
        return name

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "constant" and self.warmup_steps:
            rule = "schedule constant has no warm-up"
            raise ConfigError(
                "warmup_steps", self.warmup_steps, rule, "Use constant_with_warmup or inverse_sqrt."
            )
        if self.schedule != "constant" and not self.warmup_steps:
            rule = f"schedule {self.schedule} needs warm-up steps"
            raise ConfigError("warmup_steps", 0, rule, "The paper uses 4000.")
        known = {field.name for field in fields(TrainingArguments) if field.init}
        for name, value in self.arguments.items():
            if name not in known:
                raise unknown_key(f"arguments.{name}", value, known)
            _check_type(name, value)
            if name.startswith(
                ("hub_", "push_to_hub")
            ):  # hub_token would stand in config.yaml, for all to see
                rule = "runs are published by hf-icl, which keeps tokens out of configs"
                hint = "Use: hf-icl run --push USER/REPO"
                raise ConfigError(f"arguments.{name}", "…", rule, hint)
            if name == "auto_find_batch_size" and value:
                rule = "a run's batch size is what its config says, on any device"
                hint = "Split batches that do not fit: training.arguments.gradient_accumulation_steps."
                raise ConfigError(f"arguments.{name}", value, rule, hint)
            if name in OURS:
                raise ConfigError(
                    f"arguments.{name}", value, "the run sets this itself", "Use the field of training."
                )
        return self

    @property
    def on_cpu(self) -> bool:
        """Whether a CPU is asked for where there may be an accelerator."""
        return bool(self.arguments.get("use_cpu"))

    def to_arguments(self, output_dir: Path, seed: int) -> TrainingArguments:
        """Return transformers' own arguments.

        Raises:
            ConfigError: If `batch_size` cannot be split evenly, transformers refuses an argument, or FSDP
                would save parts that no single process opens.
        """
        regularization = self.regularization
        best = dict(
            eval_strategy="steps", eval_steps=self.checkpoint_every, metric_for_best_model=self.keep_best
        )
        defaults = dict(report_to="none", disable_tqdm=True, ddp_find_unused_parameters=False)
        values = dict(
            output_dir=str(output_dir),
            max_steps=self.steps,
            per_device_train_batch_size=self._split_batch(),
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.schedule,
            warmup_steps=self.warmup_steps,
            max_grad_norm=self.clip,
            adam_beta1=self.adam_beta1,
            adam_beta2=self.adam_beta2,
            weight_decay=regularization.strength if regularization.kind == "decay" else 0.0,
            save_strategy="steps",
            save_steps=self.checkpoint_every,
            save_total_limit=self.keep_checkpoints,
            logging_steps=self.checkpoint_every,
            seed=seed,
            **(best if self.keep_best else {}),
        )
        try:
            # a copy, because transformers completes `fsdp_config` in place
            args = TrainingArguments(**defaults | copy.deepcopy(self.arguments) | values)
            _try_optimizer(args, self.steps)
        except Exception as error:  # whatever transformers finds wrong with them, in whatever way
            rule = f"transformers refuses them: {error or type(error).__name__}"
            raise ConfigError("training.arguments", self.arguments, rule, "See TrainingArguments.") from error
        check_whole_checkpoints(args)
        return args

    def _split_batch(self) -> int:
        """Return sequences per device and forward pass."""
        n_devices = count_devices(cpu=self.on_cpu)
        n_parts = self.arguments.get("gradient_accumulation_steps", 1)
        if n_parts < 1:
            field = "training.arguments.gradient_accumulation_steps"
            raise ConfigError(field, n_parts, "must be 1 or more")
        size, rest = divmod(self.batch_size, n_devices * n_parts)
        if rest:
            rule = f"cannot be split evenly over {n_devices} devices × {n_parts} accumulated parts"
            hint = f"Take a multiple of {n_devices * n_parts}, or other numbers of devices and parts."
            raise ConfigError("training.batch_size", self.batch_size, rule, hint)
        return size


@functools.cache
def _read_type(name: str) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(get_type_hints(TrainingArguments)[name])


def _check_type(name: str, value: Any) -> None:
    """Raise `ConfigError` unless a value is of the type that `TrainingArguments` declares."""
    if name == "fsdp" and isinstance(value, bool):  # declared as text, and taken as a truth too
        return
    try:
        _read_type(name).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        rule = error.errors()[0]["msg"].removeprefix("Input ")
        raise ConfigError(f"arguments.{name}", value, rule, "See TrainingArguments.") from None


def _try_optimizer(args: TrainingArguments, n_steps: int) -> None:
    """Build the optimizer and the schedule of the rate for one weight: only that shows that they can be."""
    make, settings = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = make([torch.nn.Parameter(torch.zeros(1))], **settings)
    get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(n_steps),
        num_training_steps=n_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
