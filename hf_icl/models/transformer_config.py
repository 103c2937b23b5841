"""Config of the native backbone."""

from __future__ import annotations

from transformers import PretrainedConfig

from hf_icl.models.checks import is_number, reject_misspelt, require, require_count, require_one_of

POSITIONS = ("learned", "sinusoidal", "rotary", "none")


class CausalTransformerConfig(PretrainedConfig):
    """Shape of the native backbone. The defaults are those of the laptop regime: 2 layers, 64 wide, 8 heads.

    The Hugging Face names `hidden_size`, `num_hidden_layers`, `num_attention_heads` and `max_position_embeddings`
    can be read, and mean `d_model`, `n_layers`, `n_heads` and `max_places`.

    Args:
        n_layers: Blocks, at least 1.
        d_model: Width of a place; a multiple of `n_heads`.
        n_heads: Attention heads per layer.
        mlp_ratio: Width of the MLP's hidden layer over `d_model`. None or 0 leaves the MLPs out: attention only.
        positions: "learned" (a table, added), "sinusoidal" (fixed, added; needs an even `d_model`), "rotary"
            (turns queries and keys by their place; needs an even head width; Su et al. 2021, arXiv 2104.09864,
            base 10,000) or "none".
        max_time: Base of the sinusoidal frequencies. The papers' models use 30, not the usual 10,000.
        max_places: Longest sequence, in places, whatever the positions.
        layer_norm: True puts a LayerNorm before each part and one after the last block; False has none.
        **kwargs: Handed on to `PretrainedConfig`.

    Raises:
        ConfigError: If a value breaks its rule, or a keyword looks like a misspelt one.

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

    def __init__(
        self,
        n_layers: int = 2,
        d_model: int = 64,
        n_heads: int = 8,
        mlp_ratio: float | None = 4,
        positions: str = "learned",
        max_time: float = 30.0,
        max_places: int = 64,
        layer_norm: bool = True,
        **kwargs,
    ) -> None:
        own = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        reject_misspelt(kwargs, own, self.attribute_map)
        super().__init__(**kwargs)
        for name, value in own.items():
            setattr(self, name, value)
        self._check()

    def _check(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "max_places"):
            require_count(self, name, 1)
        require_one_of(self, "positions", POSITIONS)
        require_one_of(self, "layer_norm", (True, False))
        below = self.d_model - self.d_model % self.n_heads
        near = " or ".join(str(width) for width in (below, below + self.n_heads) if width)
        rule = f"must be a multiple of n_heads = {self.n_heads}"
        require(self.d_model % self.n_heads == 0, self, "d_model", rule, f"Take {near}.")
        ratio_ok = not self.mlp_ratio or is_number(self.mlp_ratio, 1 / self.d_model)
        rule = "must give a hidden layer of at least one unit"
        require(ratio_ok, self, "mlp_ratio", rule, "Take 4, or None for attention only.")
        time_ok = is_number(self.max_time, 1) and self.max_time > 1
        require(time_ok, self, "max_time", "must be above 1", "The papers' models use 30.")
        if self.positions == "sinusoidal":
            rule = "sinusoidal positions need an even width"
            require(self.d_model % 2 == 0, self, "d_model", rule, "Make it even, or take learned positions.")
        if self.positions == "rotary":
            head_width = self.d_model // self.n_heads
            rule = f"rotary positions need an even head width, and d_model / n_heads = {head_width}"
            require(head_width % 2 == 0, self, "positions", rule, "Change d_model or n_heads.")
