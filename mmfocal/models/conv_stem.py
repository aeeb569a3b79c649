"""A stem of several 3×3 convolutions."""

import math

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class ConvStem(nn.Module):
    """3×3 convolutions of total stride 4 and residual blocks, https://arxiv.org/abs/2106.14881; then LayerNorm.

    Transformers learn edges slowly from scratch, convolutions quickly.

    Args:
        in_channels: Channels of the images.
        out_channels: Channels of the output.
        num_blocks: Number of residual blocks of two convolutions, at stride 4.
    """

    kernel_size = 3

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        self.proj_norm = _group_norm(out_channels)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, 2, 1, bias=False)
        self.conv_norm = _group_norm(out_channels)
        self.blocks = nn.Sequential(*(ConvBlock(out_channels) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) → (B, ⌈H/4⌉, ⌈W/4⌉, out_channels)."""
        x = F.relu(self.proj_norm(self.proj(x.permute(0, 3, 1, 2))))
        x = F.relu(self.conv_norm(self.conv(x)))
        return self.norm(self.blocks(x).permute(0, 2, 3, 1))


class ConvBlock(nn.Module):
    """ResNet's basic block, with GroupNorm: small batches do not matter to it.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = _group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _group_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(out)))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)
