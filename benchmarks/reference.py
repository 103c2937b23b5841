"""A bare training loop of the same models, in plain torch: what the speed of everything else is compared
with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_icl.runs.config import RunConfig
from hf_icl.task.task import Task

N_AHEAD = 64


class Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, places, width = x.shape
        query, key, value = (
            part.view(batch, places, self.n_heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, places, width))


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, n_heads)
        self.mlp = None
        if hidden:
            self.mlp = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x if self.mlp is None else x + self.mlp(x)


class Reference(nn.Module):
    """The network of a run's config with learned positions, written as one would write it."""

    def __init__(self, config: RunConfig, task: Task) -> None:
        super().__init__()
        model, width = config.model, config.model.d_model
        self.paired, self.scale = model.places == "paired", model.exemplar_scale
        n_places = task.n_context + 1 if self.paired else 2 * task.n_context + 1
        self.encoder = nn.Linear(task.bank.shape[0], width)
        self.labels = nn.Embedding(task.n_labels, width)
        self.positions = nn.Parameter(torch.randn(n_places, width) * 0.02)
        self.blocks = nn.Sequential(
            *(Block(width, model.n_heads, model.mlp_ratio) for _ in range(model.n_layers))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, task.n_labels)

    def forward(self, exemplars: Tensor, context_answers: Tensor, labels: Tensor) -> Tensor:
        vectors, known = self.encoder(exemplars * self.scale), self.labels(context_answers)
        if self.paired:
            x = vectors + F.pad(known, (0, 0, 0, 1))
        else:
            pairs = torch.stack([vectors[:, :-1], known], dim=2).flatten(1, 2)
            x = torch.cat([pairs, vectors[:, -1:]], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        return F.cross_entropy(self.head(x[:, -1]), labels)


def train_bare(config: RunConfig, task: Task) -> Iterator[int]:
    """Train without end; every `next` is one step, and gives the number of sequences in it."""
    torch.manual_seed(config.seed)
    model, size = Reference(config, task), config.training.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.learning_rate, weight_decay=0.0)
    start = 0
    while True:
        drawn = task.train_sampler.draw(start, N_AHEAD * size)
        for offset in range(0, N_AHEAD * size, size):
            loss = model(**task.encode(drawn[offset : offset + size]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield size
        start += N_AHEAD * size
