"""The native network for R replicas at once: the same arithmetic as `ICLModel`, with a replica axis in front.

Axes: R replicas, B sequences, P places, D width, C context, L labels, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_icl.models import ICLConfig
from hf_icl.models.transformer import ROTARY_BASE, make_sinusoidal_table, rotate
from hf_icl.training.compiled.products import look_up, project

Weights = Mapping[str, Tensor]
MAX_FUSED_PLACES = 8  # up to here products and sums beat many tiny matrix products


def forward(
    config: ICLConfig, weights: Weights, exemplars: Tensor, context_answers_RBC: Tensor, scale_R: Tensor
) -> Tensor:
    """Return the label logits at the query of R replicas, each with its own sequences.

    Args:
        config: Of every replica's `ICLModel`, over the native backbone.
        weights: Parameter name, as `ICLModel.named_parameters` gives it, to values of shape (R, *shape).
        exemplars: float (R, B, n_context + 1, *exemplar_shape), or int64 ids (R, B, n_context + 1).
        context_answers_RBC: int64, shape (R, B, n_context).
        scale_R: Each replica's `exemplar_scale`, shape (R,).

    Returns:
        float32, shape (R, B, L), what `ICLModel` gives each replica up to rounding.
    """
    backbone = config.backbone
    x = _embed(config, weights, exemplars, context_answers_RBC, scale_R)
    n_places = x.shape[2]
    turns = None
    if backbone.positions == "learned":
        x = x + weights["backbone.positions.weight"][:, None, :n_places]
    elif backbone.positions == "sinusoidal":
        x = x + make_sinusoidal_table(n_places, backbone.d_model, backbone.max_time, x.device)
    elif backbone.positions == "rotary":
        turns = make_sinusoidal_table(n_places, backbone.d_model // backbone.n_heads, ROTARY_BASE, x.device)
    for number in range(backbone.n_layers):
        block = f"backbone.blocks.{number}."
        normed = _norm(weights, block + "attention_norm", x)
        if number == backbone.n_layers - 1:
            x = x[:, :, -1:] + _attend_last(weights, block + "attention.", normed, backbone.n_heads, turns)
        else:
            x = x + _attend(weights, block + "attention.", normed, backbone.n_heads, turns)
        if block + "mlp.0.weight" in weights:
            hidden = _linear(weights, block + "mlp.0", _norm(weights, block + "mlp_norm", x))
            x = x + _linear(weights, block + "mlp.2", F.gelu(hidden))
    x = _norm(weights, "backbone.final_norm", x)
    return project(x.flatten(1, 2), _head(weights), weights.get("head.bias"))


def _head(weights: Weights) -> Tensor:
    return weights.get("head.weight", weights["label_embedding.weight"])  # absent where tied


def _embed(
    config: ICLConfig, weights: Weights, exemplars: Tensor, labels_RBC: Tensor, scale_R: Tensor
) -> Tensor:
    """Return what the blocks see, shape (R, B, P, D), positions not yet added."""
    n_replicas, batch = exemplars.shape[:2]
    if config.encoder == "embedding":
        vectors = look_up(weights["exemplar_encoder.weight"], exemplars)
    else:
        scaled = exemplars.flatten(3) * scale_R[:, None, None, None]
        vectors = _linear(weights, "exemplar_encoder", scaled)
    labels = look_up(weights["label_embedding.weight"], labels_RBC)
    if config.places == "paired":
        return vectors + F.pad(labels, (0, 0, 0, 1))
    pairs = torch.stack([vectors[:, :, :-1], labels], dim=3).view(n_replicas, batch, -1, vectors.shape[-1])
    return torch.cat([pairs, vectors[:, :, -1:]], dim=2)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Map x (R, B, P, n) by each replica's own linear layer."""
    flat = project(x.flatten(1, 2), weights[name + ".weight"], weights[name + ".bias"])
    return flat.view(*x.shape[:3], -1)


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    if name + ".weight" not in weights:
        return x
    gain, offset = (weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return F.layer_norm(x, x.shape[-1:]) * gain + offset


def _attend(weights: Weights, name: str, x: Tensor, n_heads: int, turns: Tensor | None) -> Tensor:
    """Return causal self-attention at every place."""
    n_replicas, batch, places, width = x.shape
    heads = _linear(weights, name + "qkv", x).view(n_replicas * batch, places, 3, n_heads, width // n_heads)
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
    if turns is not None:
        query, key = rotate(query, turns), rotate(key, turns)
    mixed = _mix(query, key, value)
    return _linear(weights, name + "out", mixed.transpose(1, 2).reshape(n_replicas, batch, places, width))


def _mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return causal attention (…, H, P, head width) in plain steps,
    which a compiler fuses where P is small."""
    places, width = query.shape[-2:]
    short = places <= MAX_FUSED_PLACES
    scores = (query[..., None, :] * key[..., None, :, :]).sum(-1) if short else query @ key.mT
    later = torch.ones(places, places, dtype=torch.bool, device=query.device).triu(1)
    shares = (scores * width**-0.5).masked_fill(later, -torch.inf).softmax(dim=-1)
    return (shares[..., None] * value[..., None, :, :]).sum(-2) if short else shares @ value


def _attend_last(weights: Weights, name: str, x: Tensor, n_heads: int, turns: Tensor | None) -> Tensor:
    """Return self-attention at the last place alone, shape (R, B, 1, D)."""
    n_replicas, batch, places, width = x.shape
    weight, bias = weights[name + "qkv.weight"], weights[name + "qkv.bias"]
    query = project(x[:, :, -1], weight[:, :width], bias[:, :width])
    pairs = project(x.flatten(1, 2), weight[:, width:], bias[:, width:])
    query = query.view(n_replicas, batch, 1, n_heads, -1)
    key, value = pairs.view(n_replicas, batch, places, 2, n_heads, -1).unbind(3)
    if turns is not None:
        query, key = rotate(query, turns[-1:, None]), rotate(key, turns[:, None])
    scores = (query * key).sum(-1) / key.shape[-1] ** 0.5
    mixed = (scores.softmax(dim=2)[..., None] * value).sum(2)
    return _linear(weights, name + "out", mixed.view(n_replicas, batch, 1, width))


def mean_losses(logits_RBL: Tensor, labels_RB: Tensor) -> Tensor:
    """Return the mean cross-entropy of each replica, shape (R,)."""
    losses = F.cross_entropy(logits_RBL.flatten(0, 1), labels_RB.flatten(), reduction="none")
    return losses.view(labels_RB.shape).mean(1)
