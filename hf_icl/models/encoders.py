"""From exemplars to vectors: what an `ICLModel` puts before its backbone."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hf_icl.models.icl_config import ICLConfig
from hf_icl.models.resnet import ResNetEncoder


class LinearEncoder(nn.Linear):
    """A linear map of the flattened exemplar, (batch, n, *shape) to (batch, n, width)."""

    def forward(self, exemplars: Tensor) -> Tensor:
        """Flatten and map."""
        return super().forward(exemplars.flatten(2))


class DrawingEncoder(ResNetEncoder):
    """The ResNet over sequences of drawings, (batch, n, H, W) or (batch, n, C, H, W) to (batch, n, width)."""

    def forward(self, exemplars: Tensor) -> Tensor:
        """Encode every drawing by itself."""
        batch, n_exemplars, *_, height, width = exemplars.shape
        return (
            super()
            .forward(exemplars.reshape(batch * n_exemplars, -1, height, width))
            .view(batch, n_exemplars, -1)
        )


def make_encoder(config: ICLConfig) -> nn.Module:
    """Return the module that turns exemplars (batch, n, *exemplar_shape) into vectors (batch, n, d_model)."""
    if config.encoder == "linear":
        return LinearEncoder(math.prod(config.exemplar_shape), config.hidden_size)
    if config.encoder == "embedding":
        return nn.Embedding(config.n_ids, config.hidden_size)
    channels = config.exemplar_shape[0] if len(config.exemplar_shape) == 3 else 1
    return DrawingEncoder(channels, config.hidden_size)
