"""The network that LINF sees the LR image with: residual blocks at its size, EDSR's without the upsampling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowkit.tree import channels_last


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) to the same."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class ResidualEncoder(nn.Module):
    """EDSR-baseline without its upsampling: a convolution, residual blocks, a convolution, and a skip around both.

    Args:
        features: width.
        blocks: how many.
        lean: recompute the blocks in the backward pass instead of keeping their activations.

    Source: Lim, Son, Kim, Nah & Lee, Enhanced deep residual networks for single image super-resolution, 2017.
    """

    def __init__(self, features: int, blocks: int, lean: bool = False) -> None:
        super().__init__()
        self.lean = lean
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(features) for _ in range(blocks))
        self.last = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, features, H, W)."""
        start = h = self.first(channels_last(x))
        for block in self.blocks:
            recomputed = self.lean and torch.is_grad_enabled()
            h = checkpoint(block, h, use_reentrant=False, preserve_rng_state=False) if recomputed else block(h)
        out: Tensor = start + self.last(h)
        return out
