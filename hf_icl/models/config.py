"""The settings of a run's network: each is declared here once,
and read by the configs that transformers saves too."""

from __future__ import annotations

import difflib
from typing import Any, Literal, Self

import pydantic

from hf_icl.config import Config, PlainMapping
from hf_icl.errors import ConfigError
from hf_icl.sequences.spec import Places


class NetworkFields(Config):
    """The shape of the native network. The defaults are those of the laptop regime."""

    n_layers: int = pydantic.Field(default=2, ge=1, le=4096, description="Transformer blocks.")
    d_model: int = pydantic.Field(default=64, ge=1, le=1 << 20, description="Width of the residual stream.")
    n_heads: int = pydantic.Field(
        default=8, ge=1, le=1 << 20, description="Attention heads per block; must divide d_model."
    )
    mlp_ratio: float = pydantic.Field(
        default=4.0, ge=0, le=256, description="MLP width over d_model; 0 is attention-only."
    )
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = pydantic.Field(
        default="learned",
        description="learned: a table, added; sinusoidal: fixed, added; rotary: turns queries and keys; "
        "none.",
    )
    max_time: float = pydantic.Field(
        default=30.0,
        gt=1,
        le=1e9,
        description="Longest wavelength of sinusoidal positions, in places. The papers' is 30, not 10,000.",
    )
    layer_norm: bool = pydantic.Field(default=True, description="LayerNorm before attention, MLP and head.")

    def check_shape(self) -> None:
        """Raise `ConfigError` unless the fields fit each other."""
        below = self.d_model - self.d_model % self.n_heads
        if below != self.d_model:
            near = " or ".join(str(width) for width in (below, below + self.n_heads) if width)
            rule = f"must be a multiple of n_heads = {self.n_heads}"
            raise ConfigError("d_model", self.d_model, rule, f"Take {near}.")
        if 0 < self.mlp_ratio * self.d_model < 1:
            rule = "must give a hidden layer of at least one unit"
            raise ConfigError("mlp_ratio", self.mlp_ratio, rule, "Take 4, or 0 for attention only.")
        if self.positions == "sinusoidal" and self.d_model % 2:
            hint = "Make it even, or take learned positions."
            raise ConfigError("d_model", self.d_model, "sinusoidal positions need an even width", hint)
        head_width = self.d_model // self.n_heads
        if self.positions == "rotary" and head_width % 2:
            rule = f"rotary positions need an even head width, and d_model / n_heads = {head_width}"
            raise ConfigError("positions", self.positions, rule, "Change d_model or n_heads.")


class LearnerFields(Config):
    """How exemplars and labels reach a backbone, and how answers are read."""

    places: Places = pydantic.Field(
        default="paired",
        description="interleaved: exemplar and label in places of their own; paired: summed in one.",
    )
    tie_labels: bool = pydantic.Field(
        default=False,
        description="Whether the head's weight is the label table itself; the head has no bias then.",
    )
    label_init_std: float = pydantic.Field(
        default=0.3, ge=0, le=1e6, description="Standard deviation at which the label table starts."
    )
    exemplar_scale: float = pydantic.Field(
        default=1.0, gt=0, le=1e6, description="Factor on exemplars before the encoder; nothing for ids."
    )


class LoraSettings(Config):
    """Low-rank adapters instead of full fine-tuning, by peft."""

    rank: int = pydantic.Field(default=8, ge=1, le=1 << 16, description="Rank of the adapters.")
    alpha: float = pydantic.Field(default=16, gt=0, le=1e6, description="Their scale is alpha / rank.")
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1, description="Dropout before them.")
    target_modules: tuple[str, ...] | None = pydantic.Field(
        default=None,
        min_length=1,
        description="Names of the modules that get one; null: every linear map but the head.",
    )


class ModelConfig(NetworkFields, LearnerFields):
    """The network: our own causal transformer, any backbone of transformers, or a pretrained checkpoint."""

    backbone: PlainMapping | None = pydantic.Field(
        default=None,
        description="A transformers config instead, as {model_type: gpt2, n_layer: 2, …}; the above is "
        "unused.",
    )
    pretrained: str | None = pydantic.Field(
        default=None,
        description="A checkpoint to fine-tune instead: a folder, a GGUF file or an id on the Hub; it keeps "
        "its tokenizer.",
    )
    revision: str | None = pydantic.Field(
        default=None, description="Branch, tag or commit of that checkpoint."
    )
    dtype: Literal["float32", "bfloat16"] = pydantic.Field(
        default="float32", description="Type of the pretrained weights in memory."
    )
    lora: LoraSettings | None = pydantic.Field(
        default=None,
        description="Fit low-rank adapters on a pretrained language model, instead of all its weights.",
    )
    fill_tokens: bool = pydantic.Field(
        default=False,
        description="In tokens form, start a fresh table of token embeddings from the bank's vectors.",
    )
    encoder: Literal["auto", "resnet"] = pydantic.Field(
        default="auto",
        description="auto: linear map, or embedding for a bank of ids; resnet: the paper's, for images.",
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.backbone is None and self.pretrained is None:
            self.check_shape()
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


def take_fields(fields: type[Config], given: dict[str, Any], aliases: dict[str, str]) -> Config:
    """Move the fields of a config from among the keywords of a `PretrainedConfig` into one, checked.

    `PretrainedConfig` takes any keyword and keeps it, so `n_layer=4` would be stored and change nothing.
    Keywords that look like a misspelt field are refused; others pass, as Hugging Face puts its own there.

    Args:
        fields: What to take.
        given: The keywords; what was taken is gone afterwards.
        aliases: Hugging Face name to field, as in `attribute_map`. They can be read, not passed.

    Raises:
        ConfigError: If a value breaks a rule, or with the right spelling of a keyword.

    >>> given = {"n_layers": 4, "dtype": "float32"}
    >>> take_fields(NetworkFields, given, {}).n_layers, given
    (4, {'dtype': 'float32'})
    >>> take_fields(NetworkFields, {"n_layer": 4}, {})
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: n_layer = 4: unknown key. Did you mean n_layers?
    """
    own = {name: given.pop(name) for name in fields.model_fields if name in given}
    for key, value in given.items():
        near = difflib.get_close_matches(key, fields.model_fields, n=1, cutoff=0.8)
        if name := aliases.get(key) or next(iter(near), None):
            raise ConfigError(key, value, "unknown key", f"Did you mean {name}?")
    return fields(**own)
