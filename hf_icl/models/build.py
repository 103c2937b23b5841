"""From the settings of a network to its model: fresh or pretrained, for vectors or for tokens,
in full or by LoRA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.pytorch_utils import Conv1D

from hf_icl.banks.gguf import unpack
from hf_icl.config import name_part
from hf_icl.errors import ConfigError, RunError
from hf_icl.local import find_path
from hf_icl.memory import ask_for_memory
from hf_icl.models.config import LearnerFields, LoraSettings, ModelConfig, NetworkFields
from hf_icl.models.icl import ICLModel
from hf_icl.models.icl_config import ICLConfig
from hf_icl.models.transformer_config import CausalTransformerConfig
from hf_icl.sequences.spec import count_places
from hf_icl.task.forms import TokenForm, count_tokens, fill_token_table
from hf_icl.task.task import Task

ADAPTER_FILE = "adapter_config.json"


def build_model(settings: ModelConfig, task: Task, *, seed: int, weights: bool = True) -> PreTrainedModel:
    """Build a model as it is before the first step; fresh weights are a function of the seed alone.

    Args:
        settings: What to build.
        task: What it is for.
        seed: Of torch's, numpy's and Python's generators, which are set.
        weights: False reads only the config of a pretrained checkpoint, so that its weights are fresh ones.

    Returns:
        An `ICLModel` for a task in vectors form; for one in tokens form a causal language model, which a
        `PeftModel` wraps where LoRA is asked for.

    Raises:
        ConfigError: If such a model cannot be had, or the task cannot use it.
    """
    with name_part("model"):
        make = (_plan_language_model if isinstance(task.form, TokenForm) else _plan_icl_model)(
            settings, task, weights
        )
        if settings.pretrained is None:
            _try(make, settings, ask=weights)
        set_seed(seed)
        model = make()
        if settings.fill_tokens:
            fill_token_table(model, task.bank)
        return model if settings.lora is None else _add_lora(model, settings.lora)


def _plan_icl_model(settings: ModelConfig, task: Task, weights: bool) -> Callable[[], ICLModel]:
    if settings.lora is not None:
        rule = "LoRA is for causal language models, and this task gives vectors"
        raise ConfigError(
            "lora", settings.lora.rank, rule, "Leave it out, or take a bank of kind vocabulary."
        )
    if settings.fill_tokens:
        rule = "this task gives vectors, and no table of tokens"
        raise ConfigError("fill_tokens", True, rule, "Leave it out, or set task.form=tokens.")

    def make() -> ICLModel:
        return ICLModel.from_backbone(
            _load_pretrained(AutoModel, settings, weights) if backbone is None else backbone,
            task.bank,
            n_context=task.n_context,
            encoder=None if settings.encoder == "auto" else settings.encoder,
            **{name: getattr(settings, name) for name in LearnerFields.model_fields},
        )

    backbone = backbone_config(settings, task.n_context) if settings.pretrained is None else None
    return make


def _plan_language_model(settings: ModelConfig, task: Task, weights: bool) -> Callable[[], PreTrainedModel]:
    if settings.pretrained is not None:
        return functools.partial(_load_pretrained, AutoModelForCausalLM, settings, weights)
    if settings.backbone is None:
        hint = "Set model.pretrained to a checkpoint, or model.backbone as in {model_type: gpt2, n_layer: 2}."
        raise ConfigError("backbone", None, "a task in tokens form needs a causal language model", hint)
    config = backbone_config(
        settings.replace(backbone=settings.backbone | {"vocab_size": count_tokens(task.bank)}), task.n_context
    )
    return functools.partial(AutoModelForCausalLM.from_config, config)


def _try(make: Callable[[], PreTrainedModel], settings: ModelConfig, *, ask: bool) -> None:
    """Raise `ConfigError` unless a model can be built; if asked, unless weights, gradients and AdamW's state
    have room: on the CPU all four, beside an accelerator the weights."""
    try:
        with torch.device("meta"):
            n_weights = sum(weight.numel() for weight in make().parameters())
    except ConfigError:
        raise
    except ValueError as error:
        if "for this kind of AutoModel" not in str(error):
            raise _refuse(settings, error) from error
        rule = "transformers has no causal language model of it"
        raise ConfigError(
            "backbone", settings.backbone, rule, "Take another, or a task of vectors."
        ) from error
    except Exception as error:  # whatever transformers or torch find wrong with it, in whatever way
        raise _refuse(settings, error) from error
    if ask:
        copies = 1 if torch.accelerator.is_available() else 4
        field = "d_model" if settings.backbone is None else "backbone"
        what = f"training {n_weights:,} weights"
        ask_for_memory(4 * copies * n_weights, field, getattr(settings, field), what)


def _refuse(settings: ModelConfig, error: Exception) -> ConfigError:
    rule = f"no such network can be built: {error or type(error).__name__}"
    return ConfigError("backbone", settings.backbone, rule, "See the model's config in transformers.")


def _load_pretrained(auto_class: type, settings: ModelConfig, weights: bool) -> PreTrainedModel:
    hint = "Give a folder, a GGUF file, or the id of a model on the Hub that needs no code of its own."
    source, options = unpack(settings.pretrained), {"revision": settings.revision, "trust_remote_code": False}
    try:
        if not weights:
            return auto_class.from_config(AutoConfig.from_pretrained(source, **options))
        return auto_class.from_pretrained(source, dtype=getattr(torch, settings.dtype), **options)
    except (OSError, ValueError) as error:
        raise ConfigError("pretrained", settings.pretrained, f"cannot be loaded ({error})", hint) from error


def _add_lora(model: PreTrainedModel, lora: LoraSettings) -> PreTrainedModel:
    try:
        import peft
    except ImportError as error:
        hint = "Install it: pip install 'hf-icl[lora]'."
        raise ConfigError("model.lora", lora.rank, "LoRA needs the package peft", hint) from error
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        fan_in_fan_out=any(
            isinstance(module, Conv1D) for module in model.modules()
        ),  # how GPT-2 stores its maps
        target_modules="all-linear" if lora.target_modules is None else list(lora.target_modules),
    )
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError("model.lora", lora.rank, f"peft refuses it: {error}", "") from error


def count_saved_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of what is saved of a model: all weights, or with LoRA the adapters alone."""
    adapters_only = hasattr(model, "peft_config")
    return sum(weight.nbytes for weight in model.parameters() if weight.requires_grad or not adapters_only)


def load_tokenizer(settings: ModelConfig) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a pretrained checkpoint, which a fine-tuned model keeps as it is;
    None if it has none."""
    if settings.pretrained is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(
            unpack(settings.pretrained), revision=settings.revision, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError):  # how transformers says that a checkpoint comes without one
        return None


def load_model(folder: str | Path) -> PreTrainedModel:
    """Load a model that a run, or anyone, has saved: an `ICLModel`, a causal language model,
    or a LoRA adapter on one.

    No code that comes with a model is run.

    Raises:
        RunError: If the folder holds none of these.
    """
    folder = Path(folder)
    try:
        if (folder / ADAPTER_FILE).exists():
            import peft

            base = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
            base = unpack(find_path(base, folder, folder.resolve().parent))
            below = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False)
            return peft.PeftModel.from_pretrained(below, folder)
        is_ours = isinstance(AutoConfig.from_pretrained(folder, trust_remote_code=False), ICLConfig)
        return (ICLModel if is_ours else AutoModelForCausalLM).from_pretrained(
            folder, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise RunError(f"{folder}: holds neither a run nor a saved model ({error}).") from error


def backbone_config(settings: ModelConfig, n_context: int) -> PretrainedConfig:
    """Return the transformers config of the backbone that a run asks for."""
    if settings.backbone is not None:
        try:
            return AutoConfig.for_model(**settings.backbone)
        except Exception as error:  # whatever transformers finds wrong with it, in whatever way
            rule = f"transformers refuses it: {error}"
            raise ConfigError("backbone", settings.backbone, rule, "") from error
    shape = {name: getattr(settings, name) for name in NetworkFields.model_fields}
    return CausalTransformerConfig(**shape, max_places=count_places(n_context, settings.places))
