"""Parts of LINF's flow, and what it is given of the bilinear upscale."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.elementwise import Shift
from flowkit.linear import ChannelLinear
from flowkit.tree import Value


def bilinear(lr: Tensor, where: Tensor) -> Tensor:
    """Bilinear values of images at positions; beyond the centres at the edge, the edge pixel.

    Args:
        lr: (B, 3, h, w).
        where: (1 or B, 2, H, W): rows and columns in pixels, 0 at the first pixel's centre.

    Returns:
        (B, 3, H, W).
    """
    rows, columns = where.unbind(1)
    at = torch.stack([(2 * columns + 1) / lr.shape[3] - 1, (2 * rows + 1) / lr.shape[2] - 1], 3).to(lr.dtype)
    return F.grid_sample(lr, at.expand(len(lr), -1, -1, -1), "bilinear", "border", align_corners=False)


class Bias(Shift):
    """A learned shift of the channels."""

    def __init__(self, channels: int) -> None:
        ChannelLinear.__init__(self)
        self.in_channels = self.out_channels = channels
        self.bias = nn.Parameter(torch.zeros(channels))


class OfBilinear(nn.Module):
    """Shift and log-scale of x → 2x − 2·bilinear: the residual of images in [−1, 1]."""

    def forward(self, context: Value) -> Tensor:
        """(bilinear, parameters) to (B, 6, H, W)."""
        assert isinstance(context, tuple), "of `LINF.context_at`"
        base: Any = context[0]
        return torch.stack([-2 * base, torch.full_like(base, math.log(2))], 2).flatten(1, 2)


class Columns(nn.Module):
    """The parameters of one layer: some of those that the network returns for all."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__()
        self.start, self.length = start, length

    def forward(self, context: Value) -> Tensor:
        """(bilinear, parameters) to (B, length, rows, columns)."""
        assert isinstance(context, tuple), "of `LINF.context_at`"
        parameters: Any = context[1]
        return parameters.narrow(1, self.start, self.length)
