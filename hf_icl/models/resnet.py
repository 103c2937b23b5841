"""The papers' image encoder: a small ResNet that turns a drawing into one vector."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = 64
GROUP_CHANNELS = (16, 32, 32)  # the last group is as wide as the vector that comes out
GROUP_STRIDES = (1, 2, 2, 2)
BLOCKS_PER_GROUP = 2
BOTTLENECK = 4


def make_norm(channels: int) -> nn.GroupNorm:
    """Return a norm over all channels and pixels of one image, with a scale and an offset per channel."""
    return nn.GroupNorm(1, channels)


class BottleneckBlock(nn.Module):
    """Convolutions 1x1, 3x3, 1x1 through a quarter of the channels, added to a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, project: bool) -> None:
        super().__init__()
        narrow = channels // BOTTLENECK
        self.reduce, self.reduce_norm = nn.Conv2d(channels_in, narrow, 1, bias=False), make_norm(narrow)
        self.mix, self.mix_norm = nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False), make_norm(narrow)
        self.expand, self.expand_norm = nn.Conv2d(narrow, channels, 1, bias=False), make_norm(channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), make_norm(channels))
            if project
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (images, channels_in, height, width) to (images, channels, height / stride, width / stride)."""
        mixed = F.relu(self.reduce_norm(self.reduce(x)))
        mixed = F.relu(self.mix_norm(self.mix(mixed)))
        return F.relu(self.expand_norm(self.expand(mixed)) + self.shortcut(x))


class ResNetEncoder(nn.Module):
    """Image to vector: 7x7 stem, max-pool, four groups of two bottleneck blocks, mean over the pixels left.

    Channels are 64 in the stem, then 16, 32, 32 and `width` by group, strides 2, 2 (pool), 1, 2, 2, 2: a
    105x105 drawing ends as 4x4 pixels, a 28x28 one as a single pixel. 22,176 parameters for one colour
    channel and width 64.

    Args:
        channels_in: Colour channels, 1 for drawings.
        width: Length of the vector, a multiple of 4.

    Source: `google-deepmind/emergent_in_context_learning: modules/resnet.py` (bottleneck blocks, v1) as used
        by Chan et al. 2022 (arXiv 2205.05055) and Singh et al. 2023 (arXiv 2311.08360).
        Differs: norms see one image at a time (GroupNorm with a single group in place of batch norm). Batch
        norm would let a query see the statistics of other sequences, and of other places of its own, in
        training; and evaluation would run on averages made from training batches. Padding is the same on both
        sides.

    >>> import torch
    >>> ResNetEncoder(1, 64)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 64])
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels_in, STEM_CHANNELS, 7, 2, 3, bias=False)
        self.stem_norm = make_norm(STEM_CHANNELS)
        blocks, channels_before = [], STEM_CHANNELS
        for channels, stride in zip((*GROUP_CHANNELS, width), GROUP_STRIDES, strict=True):
            for index in range(BLOCKS_PER_GROUP):
                first = index == 0
                blocks.append(
                    BottleneckBlock(channels_before, channels, stride if first else 1, project=first)
                )
                channels_before = channels
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Map (images, channels_in, height, width) to (images, width of the vector)."""
        x = F.relu(self.stem_norm(self.stem(images)))
        x = F.max_pool2d(x, 3, 2, 1)
        return self.blocks(x).mean(dim=(2, 3))
