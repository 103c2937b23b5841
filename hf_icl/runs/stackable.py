"""Which runs can be trained in compiled steps, and as replicas of one another:
those whose tensors have the same shapes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from hf_icl.config import flatten, list_differences
from hf_icl.errors import ConfigError
from hf_icl.runs.config import RunConfig

# What may differ between replicas: numbers that change no shape, and what is measured when.
MEASURED = (
    "evaluate*", "task.evaluators*", "task.extra_evaluators*", "task.by_frequency", "task.n_eval_sequences",
)  # fmt: skip
"""What changes nothing but what is measured, and when."""
FREE = (
    *MEASURED, "seed", "task.train*", "task.bank.seed", "task.bank.eps", "model.exemplar_scale",
    "model.label_init_std", "training.learning_rate", "training.schedule", "training.warmup_steps",
    "training.clip", "training.adam_beta1", "training.adam_beta2", "training.regularization*",
    "training.interventions*", "training.keep_checkpoints", "training.threads", "training.compile",
    "training.on_divergence",
)  # fmt: skip
SIZES = (
    "n_classes", "n_holdout_classes", "n_exemplars", "n_holdout_exemplars", "n_labels", "labels_per_class",
    "feature_map.sigma",
)  # fmt: skip
"""Of a bank: what may differ too where no shape of a model depends on it."""
ARGUMENTS = {"tf32", "use_cpu"}  # of training.arguments: what holds for any step on the device
MIN_STEPS = 5_000  # from here on, compiling takes less time than it saves


def is_measured_only(key: str) -> bool:
    """Return whether a dotted key changes no weight of a run, only what is measured of it.

    >>> is_measured_only("evaluate.every"), is_measured_only("task.train.zipf")
    (True, False)
    """
    return any(fnmatchcase(key, pattern) for pattern in MEASURED)


def can_stack(first: RunConfig, second: RunConfig) -> list[str]:
    """Return the names of the fields that keep two runs from being replicas; none: they can be stacked.

    >>> from hf_icl.runs.config import load_config
    >>> default = load_config("default")
    >>> can_stack(default, load_config("default", ["seed=1", "training.learning_rate=1e-4"]))
    []
    >>> can_stack(default, load_config("default", ["seed=1", "model.n_layers=4", "training.steps=10"]))
    ['model.n_layers', 'training.steps']
    >>> can_stack(default, load_config("default", ["task.bank.n_classes=100", "task.bank.n_exemplars=5"]))
    []
    >>> can_stack(default, load_config("default", ["task.bank.n_labels=10"]))
    ['task.bank.n_labels']
    """
    names = list_differences(first.to_dict(), second.to_dict())
    held = [name for name in names if not any(fnmatchcase(name, free) for free in FREE)]
    one, other = first.task.bank, second.task.bank
    if not one.sizes_shape_model and one.n_head_labels == other.n_head_labels:
        held = [name for name in held if name.removeprefix("task.bank.") not in SIZES]
    if _n_context(first) != _n_context(second):
        held.append("task.train.n_context")
    return held


def check_replicas(configs: Sequence[RunConfig]) -> None:
    """Raise `ConfigError`, with the field that is in the way, if runs cannot be trained as replicas.

    >>> from hf_icl.runs.config import load_config
    >>> check_replicas([load_config("default", ["model.encoder=resnet"])])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: model.encoder = 'resnet': only the native network with a linear encoder ...
    """
    for config in configs:
        check_native(config)
        if held := can_stack(configs[0], config):
            first, value = (flatten(each.to_dict()).get(held[0]) for each in (configs[0], config))
            rule = f"replicas must agree in it, and the first has {first!r}"
            raise ConfigError(held[0], value, rule, "Train these runs in separate groups.")


def check_native(config: RunConfig) -> None:
    """Raise `ConfigError` unless a run is one that `Stack` can train, alone or with others."""
    model, training = config.model, config.training
    attention = [one for one in training.interventions if one.changes_attention]
    network = "only the native network with a linear encoder can be"
    for field, value, is_fine, rule in (
        ("model.backbone", model.backbone, model.backbone is None, network),
        ("model.pretrained", model.pretrained, model.pretrained is None, network),
        ("model.encoder", model.encoder, model.encoder == "auto", network),
        ("task.form", config.task.form, config.task.form != "tokens", network),
        ("task.bank.kind", config.task.bank.kind, config.task.bank.is_stackable, network),
        ("training.interventions", [one.kind for one in attention], not attention,
         "attention is changed in the stock loop only, so that it cannot be done to what is"),
        ("training.regularization.towards", training.regularization.towards,
         training.regularization.towards == "zero", "steps pull to zero alone where they are"),
        ("training.keep_best", training.keep_best, not training.keep_best,
         "no best checkpoint can be kept of what is"),
        ("training.arguments", training.arguments, training.arguments.keys() <= ARGUMENTS,
         f"no further arguments but {' and '.join(sorted(ARGUMENTS))} can be given to what is"),
    ):  # fmt: skip
        if not is_fine:
            hint = "Train this run alone, with hf-icl run and training.compile=false."
            raise ConfigError(field, value, f"{rule} compiled whole or stacked", hint)


def is_compiled(config: RunConfig, n_stacked: int = 1) -> bool:
    """Return whether a run's steps are to be compiled: as `training.compile` says,
    else if the run, or the stack of so many runs that it is part of, takes long enough.

    Raises:
        ConfigError: If they are to be, and cannot.

    >>> from hf_icl.runs.config import load_config
    >>> is_compiled(load_config("default")), is_compiled(load_config("default", ["training.steps=500"]))
    (True, False)
    """
    if config.training.compile:
        check_native(config)
        return True
    if config.training.compile is False or n_stacked * config.training.steps < MIN_STEPS:
        return False
    try:
        check_native(config)
    except ConfigError:
        return False
    return True


def _n_context(config: RunConfig) -> int:
    return config.task.train_specs[0].n_context
