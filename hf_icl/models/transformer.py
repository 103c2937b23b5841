"""The native backbone: a small causal transformer over vectors, as a Hugging Face model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from hf_icl.errors import ConfigError
from hf_icl.models.transformer_config import CausalTransformerConfig

LEARNED_POSITION_STD = 0.02
ROTARY_BASE = 10_000.0
PLAIN = (None, "eager", "sdpa")  # attention that is computed here; others are looked up by name
ALL_ATTENTION_FUNCTIONS = AttentionInterface()


def make_sinusoidal_table(
    n_places: int, width: int, max_time: float, device: torch.device | None = None
) -> Tensor:
    """Return the fixed position table: sines in the left half, cosines in the right half.

    Place p and frequency i (0 <= i < width / 2) have the angle p / max_time ** (2 i / width).

    Returns:
        float32, shape (n_places, width).

    Source: Vaswani et al. 2017 (arXiv 1706.03762), Sec. 3.5, with sines and cosines in halves and `max_time`
        for 10,000, as in `google-deepmind/emergent_in_context_learning: modules/embedding.py` (max_time 30).

    >>> make_sinusoidal_table(2, 4, max_time=100.0)  # angles 0, 0 and 1, 1/10
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0998, 0.5403, 0.9950]])
    """
    kind = {"dtype": torch.float32, "device": device}
    frequency = max_time ** (-torch.arange(0, width, 2, **kind) / width)
    angle = torch.arange(n_places, **kind)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class FixedPositions(nn.Module):
    """A sinusoidal table of shape (n_places, width) that moves with the model and is not saved.

    `reset_parameters` computes it anew, since `from_pretrained` builds models on the meta device.
    """

    def __init__(self, n_places: int, width: int, max_time: float) -> None:
        super().__init__()
        self.shape, self.max_time = (n_places, width), max_time
        self.register_buffer("table", torch.empty(n_places, width), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the table by its formula."""
        self.table.copy_(make_sinusoidal_table(*self.shape, self.max_time))


def rotate(vectors: Tensor, table: Tensor) -> Tensor:
    """Turn each pair (i, i + width / 2) of a head's features by the angle of its place.

    Args:
        vectors: Shape (…, places, head width).
        table: Rows of `make_sinusoidal_table(…, head width, …)`, shape (places, head width).

    >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))  # a quarter turn: sine 1, cosine 0
    tensor([[0., 1.]])
    """
    left, right = vectors.chunk(2, dim=-1)
    sine, cosine = table.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=-1)


class CausalAttention(nn.Module):
    """Multi-head causal self-attention with one linear map for queries, keys and values."""

    is_causal = True  # what registered functions read where there is no mask

    def __init__(self, config: CausalTransformerConfig, layer_idx: int = 0) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, turns: Tensor | None, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Return the mixed values (batch, places, d_model),
        and the weights (batch, heads, places, places) or None."""
        batch, places, width = x.shape
        heads = self.qkv(x).view(batch, places, 3, self.n_heads, width // self.n_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        name, weights = self.config._attn_implementation, None
        if name not in PLAIN:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
            mixed, weights = attend(self, query, key, value, None, scaling=key.shape[-1] ** -0.5)
        elif need_weights:
            mixed, weights = eager_attention_forward(self, query, key, value)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
        return self.out(mixed.reshape(batch, places, width)), weights

    def read_last(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """Return what `forward` gives at the last place alone, shape (batch, 1, d_model).

        One query per head is too little work for the fused kernel: plain products are twice as fast on a CPU.
        """
        batch, places, width = x.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(x[:, -1:], weight[:width], bias[:width]).view(batch, 1, self.n_heads, -1)
        pairs = F.linear(x, weight[width:], bias[width:]).view(batch, places, 2, self.n_heads, -1)
        key, value = pairs.unbind(2)
        if turns is not None:
            query, key = rotate(query, turns[-1:, None]), rotate(key, turns[:, None])
        scores = (query * key).sum(-1) / key.shape[-1] ** 0.5
        mixed = (scores.softmax(dim=1)[..., None] * value).sum(1)
        return self.out(mixed.view(batch, 1, width))


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None = None, **_: object
) -> tuple[Tensor, Tensor]:
    """Return the mixed values (batch, places, heads, head width) and the weights, in plain steps.

    Called so, and with these arguments, in every family of transformers that looks attention up by name.
    """
    weights = weigh_causally(query, key)
    return (weights @ value).transpose(1, 2), weights


def weigh_causally(query: Tensor, key: Tensor) -> Tensor:
    """Return softmax(q k / sqrt(head width)) over the places up to the query's own.

    Args:
        query: Shape (batch, heads, places, head width).
        key: The same shape.

    Returns:
        Shape (batch, heads, places, places); rows sum to 1 and are 0 above the diagonal.

    >>> weigh_causally(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4))[0, 0]
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    places, width = query.shape[-2:]
    scores = query @ key.transpose(-1, -2) / width**0.5
    later = torch.ones(places, places, dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1)


class Block(nn.Module):
    """Attention, then an MLP (Linear, GELU, Linear) if there is one, each added to the residual stream."""

    def __init__(self, config: CausalTransformerConfig, layer_idx: int = 0) -> None:
        super().__init__()
        width, hidden = config.d_model, int((config.mlp_ratio or 0) * config.d_model)
        self.attention_norm = nn.LayerNorm(width) if config.layer_norm else nn.Identity()
        self.attention = CausalAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(width) if config.layer_norm and hidden else nn.Identity()
        self.mlp = (
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) if hidden else None
        )

    def forward(
        self, x: Tensor, turns: Tensor | None, need_weights: bool, last_only: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream (batch, places, d_model), or its last place alone,
        and the weights or None."""
        normed = self.attention_norm(x)
        if last_only:
            mixed, weights = self.attention.read_last(normed, turns), None
            x = x[:, -1:] + mixed
        else:
            mixed, weights = self.attention(normed, turns, need_weights)
            x = x + mixed
        return (x if self.mlp is None else x + self.mlp(self.mlp_norm(x))), weights


class CausalTransformerModel(PreTrainedModel):
    """A causal transformer over vectors, without vocabulary or head.

    Weights start as torch starts them (`nn.Linear`'s own uniform distribution), not at Hugging Face's std
    0.02; only learned positions start at std 0.02. The laptop regime was found with these.

    >>> model = CausalTransformerModel(CausalTransformerConfig(n_layers=1))
    >>> attentions = model(torch.zeros(2, 5, 64), output_attentions=True).attentions
    >>> attentions[0].shape  # batch, heads, places, places
    torch.Size([2, 8, 5, 5])
    """

    config_class = CausalTransformerConfig
    main_input_name = "inputs_embeds"
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # what FSDP gathers at a time

    def __init__(self, config: CausalTransformerConfig) -> None:
        super().__init__(config)
        width = config.d_model
        self.positions = None
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_places, width)
        elif config.positions == "sinusoidal":
            self.positions = FixedPositions(config.max_places, width, config.max_time)
        elif config.positions == "rotary":
            self.positions = FixedPositions(config.max_places, width // config.n_heads, ROTARY_BASE)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.final_norm = nn.LayerNorm(width) if config.layer_norm else nn.Identity()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=LEARNED_POSITION_STD)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def get_input_embeddings(self) -> None:
        """Return None: places come as vectors, there is no token table."""
        return None

    def forward(
        self,
        inputs_embeds: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        last_place_only: bool = False,
    ) -> BaseModelOutput:
        """Run the blocks.

        Args:
            inputs_embeds: Shape (batch, places, d_model), places <= `max_places`.
            output_attentions: Also return each layer's weights; attention is then computed in plain steps.
            output_hidden_states: Also return the stream before the first block and after each, the last one
                normed.
            last_place_only: Compute only what the last place needs (the last block's queries and MLP
                elsewhere are left out). Not with the two above, nor with an attention function of others,
                which then win.

        Returns:
            `last_hidden_state` (batch, places, d_model), or (batch, 1, d_model) with `last_place_only`;
            `hidden_states`, n_layers + 1 tensors of (batch, places, d_model), or None; `attentions`, n_layers
            tensors of (batch, heads, places, places), or None.

        Raises:
            ConfigError: If the sequence is longer than `max_places`.
        """
        places, limit = inputs_embeds.shape[1], self.config.max_places
        if places > limit:
            hint = (
                f"Shorten the sequence to {limit} places, or build the model with max_places={places} or "
                "more."
            )
            raise ConfigError("inputs_embeds", tuple(inputs_embeds.shape), f"{places} places > {limit}", hint)
        need_weights = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        x, turns = self._add_positions(inputs_embeds)
        last_place_only &= self.config._attn_implementation in PLAIN and not (need_weights or keep_all)
        states, attentions = [], []
        for depth, block in enumerate(self.blocks, start=1):
            states.append(x)
            x, weights = block(x, turns, need_weights, last_place_only and depth == len(self.blocks))
            attentions.append(weights)
        x = self.final_norm(x)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=(*states, x) if keep_all else None,
            attentions=tuple(attentions) if need_weights else None,
        )

    def _add_positions(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the stream with positions added, and the table that rotary attention turns by, or None."""
        kind, places = self.config.positions, x.shape[1]
        if kind == "none":
            return x, None
        if kind == "rotary":
            return x, self.positions.table[:places]
        return x + (self.positions.weight if kind == "learned" else self.positions.table)[:places], None
