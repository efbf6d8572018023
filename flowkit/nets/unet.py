"""A U-Net for images: residual blocks at every resolution, so that a pixel sees the whole image."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.arguments import check_numbers, check_whole
from flowkit.nets.contexts import fitting_context
from flowkit.nets.images import ExactConv2d
from flowkit.nets.resnets import ResidualBlock, conv1, conv3


class UNet(nn.Module):
    """A U-Net for images (B, in_channels, H, W) of any size (Ronneberger et al. 2015).

    On the way down a residual block, then means of 2×2 pixels and twice the width; on the way up nearest pixels, joined
    with what was there. The context joins the input and gates every block, at its mean over the pixels below. The last
    layer starts at zero and stays in full precision under autocast.

    Args:
        in_channels: channels of the passive part (or of the context, for an injector).
        out_channels: parameters to return.
        hidden: width at full resolution.
        depth: number of halvings. Sizes need not divide: borders are means of fewer pixels.
        dropout: probability, in the blocks.
        context_channels: channels of the context, an image or a vector; 0 ignores any context.

    Example:
        >>> UNet(3, 8, hidden=4, context_channels=2)(torch.zeros(5, 3, 6, 7), torch.zeros(5, 2)).shape
        torch.Size([5, 8, 6, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 32,
        depth: int = 2,
        dropout: float = 0.0,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        check_whole("UNet", 0, in_channels=in_channels, depth=depth, context_channels=context_channels)
        check_whole("UNet", out_channels=out_channels, hidden=hidden)
        check_numbers("UNet", "[0, 1)", dropout=dropout)
        self.context_channels = context_channels
        widths = [hidden * 2**level for level in range(depth + 1)]

        def block(width: int) -> ResidualBlock:
            return ResidualBlock(conv3, conv1, width, dropout, context_channels)

        self.first = conv3(in_channels + context_channels, hidden)
        self.down = nn.ModuleList(block(width) for width in widths)
        self.wider = nn.ModuleList(conv1(fine, coarse) for fine, coarse in itertools.pairwise(widths))
        self.joined = nn.ModuleList(conv1(fine + coarse, fine) for fine, coarse in itertools.pairwise(widths))
        self.up = nn.ModuleList(block(width) for width in widths[:-1])
        self.last = ExactConv2d(hidden, out_channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, passive: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        contexts: list[Tensor | None] = [None] * len(self.down)
        h = passive
        if self.context_channels:
            given = fitting_context(passive, context, self.context_channels).to(passive.dtype)
            h = torch.cat([passive, given], 1)
            contexts[0] = given
            for level in range(1, len(self.down)):
                given = _halved(given)
                contexts[level] = given
        h = self.down[0](self.first(h), contexts[0])
        skipped = []
        for level, wider in enumerate(self.wider, 1):
            skipped.append(h)
            h = self.down[level](wider(_halved(h)), contexts[level])
        for level in reversed(range(len(skipped))):
            skip = skipped[level]
            coarse = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : skip.shape[2], : skip.shape[3]]
            h = self.up[level](self.joined[level](torch.cat([skip, coarse], 1)), contexts[level])
        out: Tensor = self.last(F.relu(h))
        return out


def _halved(x: Tensor) -> Tensor:
    """Means of 2×2 pixels, at the border of those that are there."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
