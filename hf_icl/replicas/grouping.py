"""Which runs can be trained as replicas of one another: those whose tensors have the same shapes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from hf_icl.errors import ConfigError
from hf_icl.run_config import RunConfig

# What may differ between replicas: numbers that change no shape, and what is measured when.
FREE = (
    "seed", "evaluate*", "task.train*", "task.evaluators*", "task.extra_evaluators*", "task.n_eval_sequences",
    "task.bank.seed", "task.bank.eps", "model.exemplar_scale", "model.label_init_std", "training.learning_rate",
    "training.schedule", "training.warmup_steps", "training.clip", "training.adam_beta1", "training.adam_beta2",
    "training.regularization*", "training.keep_checkpoints", "training.threads",
)  # fmt: skip
SUPPORTED_BANKS = ("gaussian", "symbolic", "features", "omniglot")


def can_stack(first: RunConfig, second: RunConfig) -> list[str]:
    """Return the names of the fields that keep two runs from being replicas; none: they can be stacked.

    >>> from hf_icl.run_config import load_config
    >>> default = load_config("default")
    >>> can_stack(default, load_config("default", ["seed=1", "training.learning_rate=1e-4"]))
    []
    >>> can_stack(default, load_config("default", ["seed=1", "model.n_layers=4", "training.steps=10"]))
    ['model.n_layers', 'training.steps']
    """
    left, right = _flatten(first.to_dict()), _flatten(second.to_dict())
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    held = [name for name in names if not any(fnmatchcase(name, free) for free in FREE)]
    if _n_context(first) != _n_context(second):
        held.append("task.train.n_context")
    return held


def check_replicas(configs: Sequence[RunConfig]) -> None:
    """Raise `ConfigError`, with the field that is in the way, if runs cannot be trained as replicas.

    >>> from hf_icl.run_config import load_config
    >>> check_replicas([load_config("default", ["model.encoder=resnet"])])
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: model.encoder = 'resnet': replicas need the native network with a linear encoder. Train this run alone, with hf-icl run.
    """
    for config in configs:
        _check_one(config)
        if held := can_stack(configs[0], config):
            rule = f"replicas must agree in it, and the first has {_flatten(configs[0].to_dict()).get(held[0])!r}"
            value = _flatten(config.to_dict()).get(held[0])
            raise ConfigError(held[0], value, rule, "Train these runs in separate groups.")


def _check_one(config: RunConfig) -> None:
    model, training = config.model, config.training
    network = "replicas need the native network with a linear encoder"
    for field, value, is_fine, rule in (
        ("model.backbone", model.backbone, model.backbone is None, network),
        ("model.pretrained", model.pretrained, model.pretrained is None, network),
        ("model.encoder", model.encoder, model.encoder == "auto", network),
        ("task.form", config.task.form, config.task.form != "tokens", network),
        ("task.bank.kind", config.task.bank.kind, config.task.bank.kind in SUPPORTED_BANKS, network),
        (
            "training.keep_best",
            training.keep_best,
            not training.keep_best,
            "replicas keep no best checkpoint",
        ),
        (
            "training.arguments",
            training.arguments,
            not training.arguments,
            "replicas take no further arguments",
        ),
    ):
        if not is_fine:
            raise ConfigError(field, value, rule, "Train this run alone, with hf-icl run.")


def _flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Return the values of nested dicts by dotted name."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _n_context(config: RunConfig) -> int:
    return config.task.train_specs[0].n_context
