"""The config of a run, from bank to last step, and where it comes from: defaults, preset or file, command line."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
import yaml
from transformers import TrainingArguments

from hf_icl.config import Config, YamlLoader, merge, parse_overrides, suggest, unknown_key
from hf_icl.errors import ConfigError
from hf_icl.processes import check_whole_checkpoints, count_devices
from hf_icl.schedule import Schedule
from hf_icl.task import TaskConfig
from hf_icl.trainer import Regularization

OURS = {
    "output_dir", "max_steps", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps",
    "max_grad_norm", "adam_beta1", "adam_beta2", "weight_decay", "save_strategy", "save_steps", "save_total_limit",
    "eval_strategy", "eval_steps", "metric_for_best_model", "seed", "logging_steps",
}  # fmt: skip


class LoraSettings(Config):
    """Low-rank adapters instead of full fine-tuning, by peft."""

    rank: int = pydantic.Field(8, ge=1, description="Rank of the adapters.")
    alpha: float = pydantic.Field(16, gt=0, description="Their scale is alpha / rank.")
    dropout: float = pydantic.Field(0.0, ge=0, lt=1, description="Dropout before them.")
    target_modules: tuple[str, ...] | None = pydantic.Field(
        None, description="Names of the modules that get one; null: every linear map but the head."
    )


class ModelConfig(Config):
    """The network: our own causal transformer, any backbone of transformers, or a pretrained checkpoint."""

    n_layers: int = pydantic.Field(2, ge=1, description="Transformer blocks.")
    d_model: int = pydantic.Field(64, ge=2, description="Width of the residual stream.")
    n_heads: int = pydantic.Field(8, ge=1, description="Attention heads; must divide d_model.")
    mlp_ratio: float = pydantic.Field(4.0, ge=0, description="MLP width over d_model; 0 is attention-only.")
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = pydantic.Field(
        "learned", description="Positions."
    )
    max_time: float = pydantic.Field(
        30.0, gt=0, description="Longest wavelength of sinusoidal positions, in places."
    )
    layer_norm: bool = pydantic.Field(True, description="LayerNorm before attention, MLP and head.")
    backbone: dict[str, Any] | None = pydantic.Field(
        None,
        description="A transformers config instead, as {model_type: gpt2, n_layer: 2, …}; the above is unused.",
    )
    pretrained: str | None = pydantic.Field(
        None,
        description="A checkpoint to fine-tune instead, a folder or an id on the Hub; it keeps its tokenizer.",
    )
    revision: str | None = pydantic.Field(None, description="Branch, tag or commit of that checkpoint.")
    dtype: Literal["float32", "bfloat16"] = pydantic.Field(
        "float32", description="Type of the pretrained weights in memory."
    )
    lora: LoraSettings | None = pydantic.Field(
        None, description="Fit low-rank adapters on a pretrained language model, instead of all its weights."
    )
    fill_tokens: bool = pydantic.Field(
        False, description="In tokens form, start a fresh table of token embeddings from the bank's vectors."
    )
    places: Literal["interleaved", "paired"] = pydantic.Field(
        "interleaved", description="Exemplar and label in places of their own, or summed in one."
    )
    encoder: Literal["auto", "resnet"] = pydantic.Field(
        "auto",
        description="auto: linear map, or embedding for a bank of ids; resnet: the paper's, for images.",
    )
    tie_labels: bool = pydantic.Field(False, description="Whether head and label embedding share weights.")
    label_init_std: float = pydantic.Field(0.3, gt=0, description="Initial spread of label embeddings.")
    exemplar_scale: float = pydantic.Field(1.0, gt=0, description="Factor on exemplars before the encoder.")

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.backbone is None and self.pretrained is None and self.d_model % self.n_heads:
            rule = f"n_heads must divide d_model = {self.d_model}"
            raise ConfigError("n_heads", self.n_heads, rule, "Try 8.")
        if self.backbone is not None and "model_type" not in self.backbone:
            rule = "a backbone needs its model_type"
            raise ConfigError("backbone", self.backbone, rule, "Add model_type: gpt2.")
        if self.backbone is not None and self.pretrained is not None:
            rule = "a pretrained checkpoint brings its own backbone"
            raise ConfigError("backbone", self.backbone, rule, "Leave one of the two out.")
        if self.pretrained is None and self.lora is not None:
            rule = "LoRA adapts a pretrained model, and none is given"
            raise ConfigError("lora", self.lora.rank, rule, "Set pretrained, or leave lora out.")
        if self.pretrained is None and self.revision is not None:
            rule = "there is no pretrained checkpoint whose revision this could be"
            raise ConfigError("revision", self.revision, rule, "Set pretrained.")
        if self.fill_tokens and self.pretrained is not None:
            rule = "a pretrained table of token embeddings stays as it is"
            raise ConfigError("fill_tokens", True, rule, "Leave one of the two out.")
        return self


class TrainingConfig(Config):
    """How weights are fitted. Whatever is not named here can be set in `arguments`, as in `TrainingArguments`."""

    steps: int = pydantic.Field(32_000, ge=1, description="Optimizer steps.")
    batch_size: int = pydantic.Field(64, ge=1, description="Sequences per optimizer step, over all devices.")
    learning_rate: float = pydantic.Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["constant", "constant_with_warmup", "inverse_sqrt"] = pydantic.Field(
        "constant", description="inverse_sqrt: warm-up, then falling as 1/sqrt(step)."
    )
    warmup_steps: int = pydantic.Field(0, ge=0, description="Steps of linear warm-up.")
    clip: float = pydantic.Field(0.0, ge=0, description="Largest gradient norm; 0 leaves gradients alone.")
    adam_beta1: float = pydantic.Field(0.9, ge=0, lt=1, description="Decay of Adam's first moment.")
    adam_beta2: float = pydantic.Field(0.999, ge=0, lt=1, description="Decay of Adam's second moment.")
    regularization: Regularization = pydantic.Field(
        default_factory=Regularization, description="Decay or L2, on all weights or on named groups."
    )
    checkpoint_every: int = pydantic.Field(2000, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int | None = pydantic.Field(
        2, ge=2, description="How many to keep, 2 or more so that a kill in mid-save loses none; null: all."
    )
    keep_best: str | None = pydantic.Field(
        None, description="Keep the checkpoint that is best in this metric too, such as icl/accuracy."
    )
    threads: int | None = pydantic.Field(None, ge=1, description="CPU threads; null: torch's choice.")
    compile: bool | None = pydantic.Field(
        None,
        description="Compile whole steps of the native network, on one device; null: from 5,000 steps on, where it can be done.",
    )
    arguments: dict[str, Any] = pydantic.Field(default_factory=dict, description="Further TrainingArguments.")

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
            if name.startswith(
                ("hub_", "push_to_hub")
            ):  # hub_token would stand in config.yaml, for all to see
                rule = "runs are published by hf-icl, which keeps tokens out of configs"
                hint = "Use: hf-icl run --push USER/REPO"
                raise ConfigError(f"arguments.{name}", "…", rule, hint)
            if name in OURS:
                raise ConfigError(
                    f"arguments.{name}", value, "the run sets this itself", "Use the field of training."
                )
        return self

    def to_arguments(self, output_dir: Path, seed: int) -> TrainingArguments:
        """Return transformers' own arguments.

        Raises:
            ConfigError: If `batch_size` cannot be split evenly, transformers refuses an argument, or FSDP would save
                parts that no single process opens.
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
        except (ValueError, TypeError) as error:
            raise ConfigError(
                "training.arguments", self.arguments, str(error), "See TrainingArguments."
            ) from error
        check_whole_checkpoints(args)
        return args

    def _split_batch(self) -> int:
        """Return sequences per device and forward pass."""
        n_devices = count_devices(cpu=bool(self.arguments.get("use_cpu")))
        n_parts = self.arguments.get("gradient_accumulation_steps", 1)
        size, rest = divmod(self.batch_size, n_devices * n_parts)
        if rest:
            rule = f"cannot be split evenly over {n_devices} devices × {n_parts} accumulated parts"
            hint = f"Take a multiple of {n_devices * n_parts}, or other numbers of devices and parts."
            raise ConfigError("training.batch_size", self.batch_size, rule, hint)
        return size


class RunConfig(Config):
    """Everything that decides the numbers of a run."""

    seed: int = pydantic.Field(
        0, ge=0, lt=2**63, description="Seed of weights, sequences and (by default) bank."
    )
    task: TaskConfig = pydantic.Field(
        default_factory=TaskConfig, description="What is learned and what is asked."
    )
    model: ModelConfig = pydantic.Field(default_factory=ModelConfig, description="The network.")
    training: TrainingConfig = pydantic.Field(
        default_factory=TrainingConfig, description="How it is trained."
    )
    evaluate: Schedule = pydantic.Field(
        default_factory=lambda: Schedule(every=500), description="When it is measured."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_vocabulary_from_model(cls, tree: Any) -> Any:
        """A bank of kind vocabulary that names no checkpoint is that of the model to be fine-tuned."""
        bank, model = ((tree.get(part) or {}) for part in ("task", "model"))
        bank = bank.get("bank") if isinstance(bank, dict) else None
        if not isinstance(bank, dict) or bank.get("kind") != "vocabulary" or "source" in bank:
            return tree
        if not isinstance(model, dict) or not model.get("pretrained"):
            rule = "a bank of kind vocabulary needs a checkpoint"
            raise ConfigError("task.bank.source", None, rule, "Set it, or model.pretrained for both.")
        own = {"source": model["pretrained"], "revision": model.get("revision")}
        return tree | {"task": tree["task"] | {"bank": bank | own}}


def list_presets() -> dict[str, str]:
    """Return the presets' names, each with its first comment line."""
    files = sorted(
        path for path in resources.files("hf_icl.presets").iterdir() if path.name.endswith(".yaml")
    )
    return {path.name.removesuffix(".yaml"): path.read_text().splitlines()[0].lstrip("# ") for path in files}


def load_config(source: str = "default", overrides: Iterable[str] = ()) -> RunConfig:
    """Build a run's config from a preset's name or a YAML file, and `key=value` words on top.

    Raises:
        ConfigError: If source or a key is unknown, or a value breaks a rule.

    >>> load_config("default", ["seed=3", "training.steps=10"]).training.steps
    10
    """
    return RunConfig(**merge(_read_source(source), parse_overrides(overrides)))


def _read_source(source: str) -> dict[str, Any]:
    presets = list_presets()
    if source in presets:
        text = (resources.files("hf_icl.presets") / f"{source}.yaml").read_text()
    elif Path(source).suffix in (".yaml", ".yml"):
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("config file", source, f"cannot be read ({error})", "") from error
    else:
        raise ConfigError("preset", source, "neither a preset nor a .yaml file", suggest(source, presets))
    try:
        tree = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError as error:
        raise ConfigError("config file", source, f"not valid YAML: {error}", "") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            "config file", source, "a config is a mapping of keys to values", "See: hf-icl presets"
        )
    if "preset" in tree:
        base = str(tree.pop("preset"))
        return merge(_read_source(base), tree)
    return tree
