"""What differs between families of transformers: their configs, what their forwards take,
how their parts are called."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from hf_icl.errors import ConfigError
from hf_icl.models.transformer_config import CausalTransformerConfig

# Families whose attention is written into their own modules, not looked up by name, and what maps the outputs
# of their heads to the residual stream; None: no module of its own does.
OWN_ATTENTION: dict[str, str | None] = {
    "bloom": "self_attention.dense",
    "codegen": "attn.out_proj",
    "falcon": "self_attention.dense",
    "gpt_neo": "attn.attention.out_proj",
    "gptj": "attn.out_proj",
    "mpt": "attn.out_proj",
    "xglm": "self_attn.out_proj",
    "xlnet": None,
}
# What the last norm of a backbone is called, beside its list of blocks.
FINAL_NORM = re.compile(r"(final_)?(layer_?)?norm(_f)?|ln_f")
# Inside a backbone, the module path decides: h.0.attn.c_attn, layers.1.self_attn.q_proj, layers.0.fc1,
# blocks.0.mlp.2
ATTENTION = re.compile(r"(^|[._])(attn|attention)([._]|$)")
MLP = re.compile(r"(^|\.)(mlp|fc1|fc2)(\.|$)")


def read_backbone_config(backbone: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    """Return the backbone's config, from a config, from what `config.json` holds of it,
    or the native default.

    Raises:
        ConfigError: If a dict has no `model_type`, or one that transformers does not know.

    >>> read_backbone_config({"model_type": "gpt2", "n_embd": 32}).hidden_size
    32
    """
    if backbone is None:
        return CausalTransformerConfig()
    if isinstance(backbone, PretrainedConfig):
        return backbone
    kind = isinstance(backbone, dict) and backbone.get("model_type")
    rule, hint = (
        "must be a PretrainedConfig, or a dict with a model_type",
        'For example {"model_type": "gpt2"}.',
    )
    if not kind:
        raise ConfigError("backbone", backbone, rule, hint)
    try:
        return AutoConfig.for_model(**backbone)
    except ConfigError as error:
        raise error.within("backbone") from None
    except ValueError as error:
        raise ConfigError("backbone", kind, str(error).split(". Should")[0], hint) from None


def drop_token_table(backbone: PreTrainedModel) -> None:
    """Take the token table off a backbone that reads vectors only.

    It would never get a gradient, only weight decay, and distributed training refuses such parameters.

    >>> from transformers import GPT2Config, GPT2Model
    >>> backbone = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1))
    >>> drop_token_table(backbone)
    >>> backbone.wte
    Identity()
    """
    try:
        table = backbone.get_input_embeddings()
    except NotImplementedError:  # how transformers says that a model has none
        return
    if table is not None:
        backbone.set_input_embeddings(nn.Identity())


def list_backbone_options(backbone: PreTrainedModel) -> dict[str, bool]:
    """Return what every call of the backbone gets beside its inputs: no cache, and the last place alone,
    if known.

    Raises:
        ConfigError: If its forward does not take `inputs_embeds`, or it is an encoder-decoder.

    >>> from transformers import GPT2Config, GPT2Model
    >>> list_backbone_options(GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=1)))
    {'use_cache': False}
    """
    name, known = type(backbone).__name__, inspect.signature(backbone.forward).parameters
    hint = "Take a decoder such as GPT-2 or Llama, or the native backbone."
    if "inputs_embeds" not in known:
        raise ConfigError("backbone", name, "its forward must take inputs_embeds", hint)
    if backbone.config.is_encoder_decoder:
        raise ConfigError("backbone", name, "must not be an encoder-decoder", hint)
    options = {"use_cache": False, "last_place_only": True}
    return {option: value for option, value in options.items() if option in known}


def check_attentions(attentions: tuple[Tensor | None, ...] | None) -> None:
    """Raise `ConfigError` if a backbone was asked for attention weights and gave none."""
    if not attentions or attentions[0] is None:
        rule = "this backbone computes attention without giving its weights"
        hint = 'Call model.backbone.set_attn_implementation("eager") first.'
        raise ConfigError("output_attentions", True, rule, hint)
