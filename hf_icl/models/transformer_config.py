"""Config of the native backbone."""

from __future__ import annotations

from typing import Any, Self

import pydantic
from transformers import PretrainedConfig

from hf_icl.models.config import NetworkFields, take_fields


class _Shape(NetworkFields):
    max_places: int = pydantic.Field(
        default=64, ge=1, le=1 << 20, description="Longest sequence, in places, whatever the positions."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_none(cls, values: Any) -> Any:
        return values | {"mlp_ratio": 0} if "mlp_ratio" in values and values["mlp_ratio"] is None else values

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        self.check_shape()
        return self


class CausalTransformerConfig(PretrainedConfig):
    """Shape of the native backbone. The defaults are those of the laptop regime: 2 layers, 64 wide, 8 heads.

    The Hugging Face names `hidden_size`, `num_hidden_layers`, `num_attention_heads` and
    `max_position_embeddings` can be read, and mean `d_model`, `n_layers`, `n_heads` and `max_places`.

    Args:
        **kwargs: `max_places` (64), the longest sequence in places; `n_layers`, `d_model`, `n_heads`,
            `mlp_ratio` (None or 0 leaves the MLPs out), `positions`, `max_time` and `layer_norm`, as
            `NetworkFields` declares them; and what `PretrainedConfig` takes.

    Raises:
        ConfigError: If a value breaks its rule, or a keyword looks like a misspelt one.

    Source: rotary positions are Su et al. 2021 (arXiv 2104.09864), base 10,000.

    >>> CausalTransformerConfig(n_layers=12).num_hidden_layers
    12
    >>> CausalTransformerConfig(d_model=60)
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: d_model = 60: must be a multiple of n_heads = 8. Take 56 or 64.
    """

    model_type = "hf_icl_transformer"
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_places",
    }

    def __init__(self, **kwargs: Any) -> None:
        own = take_fields(_Shape, kwargs, self.attribute_map)
        super().__init__(**kwargs)
        for name in _Shape.model_fields:
            setattr(self, name, getattr(own, name))
